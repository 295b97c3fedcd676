import { Random } from '@flamingo-ts/kernels';
import { findArtwork } from './artwork';
import { COUNTS, GROUPS, loadConcepts, SIDE, STYLES, type Concept, type Split, type Style } from './concepts';
import { COLORS, countOf, drawConcepts, drawVariant, VARIANTS, type Drawings } from './images';

/** Questions about an image. A prompt does not state its question: only its shots show it. */
export const ATTRIBUTES = ['group', 'color', 'style', 'count'] as const;
export type Attribute = (typeof ATTRIBUTES)[number];

/** Answers to each question. No word is in two lists. */
export const ANSWERS: Readonly<Record<Attribute, readonly string[]>> = {
  group: GROUPS,
  color: COLORS,
  style: STYLES,
  count: COUNTS,
};
/** All answers of all questions: the candidates of the evaluation. */
export const ALL_ANSWERS: readonly string[] = ATTRIBUTES.flatMap((a) => ANSWERS[a]);

const DRAWING = 64 * 64 * 4;
const IMAGE = SIDE * SIDE * 3;

/**
 * All images and their attributes. An image is a number: `(concept * styles + style) * variants + variant`. Images are drawn
 * from the artwork of OpenMoji and Twemoji and kept in memory.
 */
export class EmojiWorld {
  private readonly pools = new Map<string, Int32Array>();

  private constructor(
    readonly concepts: readonly Concept[],
    readonly drawings: Drawings,
    /** uint8 [images, 48, 48, 3] */
    readonly pixels: Uint8Array,
    /** A style that training never sees, if there is one. */
    readonly unseenStyle: Style | undefined,
  ) {}

  /**
   * Draws all images from the artwork, which is downloaded if necessary.
   *
   * @param options.seed        seed of the split and of the variants
   * @param options.unseenStyle a style that training never sees
   * @param options.maxConcepts uses only this many concepts, evenly spaced, for short runs
   * @param options.onDrawn     called with the number of images drawn so far and the total
   */
  static async create(options: {
    readonly seed: number;
    readonly unseenStyle?: Style | undefined;
    readonly maxConcepts?: number | undefined;
    readonly onDrawn?: (drawn: number, all: number) => void;
  }): Promise<EmojiWorld> {
    let concepts = loadConcepts(await findArtwork(), options.seed);
    if (options.maxConcepts !== undefined && options.maxConcepts < concepts.length) {
      const every = concepts.length / options.maxConcepts;
      concepts = concepts.filter((_, i) => Math.floor(i / every) !== Math.floor((i - 1) / every));
    }
    const all = concepts.length * STYLES.length * VARIANTS;
    const pixels = new Uint8Array(all * IMAGE);
    const random = new Random(options.seed).fork('variants');
    const drawings = await drawConcepts(concepts, (drawing, source) => {
      for (let v = 0; v < VARIANTS; v++) {
        const at = (drawing * VARIANTS + v) * IMAGE;
        drawVariant(source, v, random, pixels.subarray(at, at + IMAGE));
      }
      options.onDrawn?.((drawing + 1) * VARIANTS, all);
    });
    const world = new EmojiWorld(concepts, drawings, pixels, options.unseenStyle);
    const blind = ATTRIBUTES.find((a) =>
      ANSWERS[a].every((answer) => world.imagesWith('train', a, answer).length === 0),
    );
    if (blind) {
      throw new Error(
        `Emoji data: training requires images with a known ${blind}, got none among ${concepts.length} concepts. ` +
          'Set data.maxConcepts to at least 40.',
      );
    }
    return world;
  }

  get imageCount(): number {
    return this.concepts.length * STYLES.length * VARIANTS;
  }

  conceptOf(image: number): Concept {
    return this.concepts[Math.floor(image / (STYLES.length * VARIANTS))]!;
  }

  styleOf(image: number): number {
    return Math.floor(image / VARIANTS) % STYLES.length;
  }

  /** The answer to a question about an image; undefined if it has none (a drawing without a main color). */
  answer(image: number, attribute: Attribute): string | undefined {
    switch (attribute) {
      case 'group':
        return GROUPS[this.conceptOf(image).group];
      case 'color':
        return COLORS[this.drawings.color[Math.floor(image / VARIANTS)]!];
      case 'style':
        return STYLES[this.styleOf(image)];
      case 'count':
        return COUNTS[countOf(image % VARIANTS)];
    }
  }

  /** Premultiplied RGBA [64, 64, 4] of a drawing, `concept * styles + style`. */
  drawing(drawing: number): Uint8Array {
    return this.drawings.pixels.subarray(drawing * DRAWING, (drawing + 1) * DRAWING);
  }

  /** RGB bytes [48, 48, 3] of an image. */
  image(image: number): Uint8Array {
    return this.pixels.subarray(image * IMAGE, (image + 1) * IMAGE);
  }

  /** Images of a split, in order: those in styles that training sees, or those in the unseen style. */
  images(split: Split, style: 'seen' | 'unseen' = 'seen'): Int32Array {
    return this.pool(`${split} ${style}`, (p) => this.belongs(p, split, style));
  }

  /** Images of a split with a given answer to a question. */
  imagesWith(split: Split, attribute: Attribute, answer: string, style: 'seen' | 'unseen' = 'seen'): Int32Array {
    return this.pool(
      `${split} ${style} ${attribute} ${answer}`,
      (p) => this.belongs(p, split, style) && this.answer(p, attribute) === answer,
    );
  }

  private belongs(image: number, split: Split, style: 'seen' | 'unseen'): boolean {
    if (this.conceptOf(image).split !== split) return false;
    const unseen = this.unseenStyle !== undefined && STYLES[this.styleOf(image)] === this.unseenStyle;
    return unseen === (style === 'unseen');
  }

  private pool(key: string, belongs: (image: number) => boolean): Int32Array {
    let pool = this.pools.get(key);
    if (!pool) {
      const images: number[] = [];
      for (let p = 0; p < this.imageCount; p++) if (belongs(p)) images.push(p);
      pool = Int32Array.from(images);
      this.pools.set(key, pool);
    }
    return pool;
  }
}
