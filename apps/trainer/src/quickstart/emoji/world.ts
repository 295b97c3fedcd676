import { Random } from '@flamingo-ts/kernels';
import { COUNTS, GROUPS, loadConcepts, STYLES, type Concept, type Split, type Style } from './concepts';
import { COLOURS, countOf, drawConcepts, drawVariant, SIDE, VARIANTS, type Drawings } from './pictures';

/** What can be asked of a picture; which one is meant is told only by the examples in a prompt. */
export const ATTRIBUTES = ['group', 'colour', 'style', 'count'] as const;
export type Attribute = (typeof ATTRIBUTES)[number];

/** The answers to each question. No word stands in two lists. */
export const ANSWERS: Readonly<Record<Attribute, readonly string[]>> = {
  group: GROUPS,
  colour: COLOURS,
  style: STYLES,
  count: COUNTS,
};
/** All answers of all questions: the closed choice of the evaluation. */
export const ALL_ANSWERS: readonly string[] = ATTRIBUTES.flatMap((a) => ANSWERS[a]);

const DRAWING = 64 * 64 * 4;
const PICTURE = SIDE * SIDE * 3;

/**
 * All pictures and what is known of them. A picture is a number: `(concept * styles + style) * variants + variant`.
 * Pictures are drawn on this machine from the artwork of OpenMoji and Twemoji and kept in memory only.
 */
export class EmojiWorld {
  private readonly pools = new Map<string, Int32Array>();

  private constructor(
    readonly concepts: readonly Concept[],
    readonly drawings: Drawings,
    /** uint8 [pictures, 48, 48, 3] */
    readonly pixels: Uint8Array,
    /** A style that no training stage sees, if one is kept back. */
    readonly unseenStyle: Style | undefined,
  ) {}

  /**
   * Draws everything from the installed artwork.
   *
   * @param options.seed        of the split and of the variants
   * @param options.unseenStyle a style kept out of all training
   * @param options.maxConcepts so many concepts only, evenly taken from all, for short runs
   * @param options.onDrawn     called with the number of pictures drawn so far and of all
   */
  static async create(options: {
    readonly seed: number;
    readonly unseenStyle?: Style | undefined;
    readonly maxConcepts?: number | undefined;
    readonly onDrawn?: (drawn: number, all: number) => void;
  }): Promise<EmojiWorld> {
    let concepts = loadConcepts(options.seed);
    if (options.maxConcepts !== undefined && options.maxConcepts < concepts.length) {
      const every = concepts.length / options.maxConcepts;
      concepts = concepts.filter((_, i) => Math.floor(i / every) !== Math.floor((i - 1) / every));
    }
    const all = concepts.length * STYLES.length * VARIANTS;
    const pixels = new Uint8Array(all * PICTURE);
    const random = new Random(options.seed).fork('variants');
    const drawings = await drawConcepts(concepts, (drawing, source) => {
      for (let v = 0; v < VARIANTS; v++) {
        const at = (drawing * VARIANTS + v) * PICTURE;
        drawVariant(source, v, random, pixels.subarray(at, at + PICTURE));
      }
      options.onDrawn?.((drawing + 1) * VARIANTS, all);
    });
    const world = new EmojiWorld(concepts, drawings, pixels, options.unseenStyle);
    const blind = ATTRIBUTES.find((a) =>
      ANSWERS[a].every((answer) => world.picturesWith('train', a, answer).length === 0),
    );
    if (blind) {
      throw new Error(
        `Emoji data: training needs pictures whose ${blind} can be told, got none among ${concepts.length} concepts. ` +
          'Raise data.maxConcepts; from 40 on there are enough.',
      );
    }
    return world;
  }

  get pictureCount(): number {
    return this.concepts.length * STYLES.length * VARIANTS;
  }

  conceptOf(picture: number): Concept {
    return this.concepts[Math.floor(picture / (STYLES.length * VARIANTS))]!;
  }

  styleOf(picture: number): number {
    return Math.floor(picture / VARIANTS) % STYLES.length;
  }

  /** The answer to a question about a picture, or undefined where it is not asked (a drawing without a main colour). */
  answer(picture: number, attribute: Attribute): string | undefined {
    switch (attribute) {
      case 'group':
        return GROUPS[this.conceptOf(picture).group];
      case 'colour':
        return COLOURS[this.drawings.colour[Math.floor(picture / VARIANTS)]!];
      case 'style':
        return STYLES[this.styleOf(picture)];
      case 'count':
        return COUNTS[countOf(picture % VARIANTS)];
    }
  }

  /** Premultiplied RGBA [64, 64, 4] of a drawing, `concept * styles + style`. */
  drawing(drawing: number): Uint8Array {
    return this.drawings.pixels.subarray(drawing * DRAWING, (drawing + 1) * DRAWING);
  }

  /** RGB bytes [48, 48, 3] of a picture. */
  picture(picture: number): Uint8Array {
    return this.pixels.subarray(picture * PICTURE, (picture + 1) * PICTURE);
  }

  /** Pictures of a split, in order. Training never sees the unseen style; `onlyUnseen` asks for nothing else. */
  pictures(split: Split, style: 'seen' | 'unseen' = 'seen'): Int32Array {
    return this.pool(`${split} ${style}`, (p) => this.belongs(p, split, style));
  }

  /** Pictures of a split whose answer to a question is the given one. */
  picturesWith(split: Split, attribute: Attribute, answer: string, style: 'seen' | 'unseen' = 'seen'): Int32Array {
    return this.pool(
      `${split} ${style} ${attribute} ${answer}`,
      (p) => this.belongs(p, split, style) && this.answer(p, attribute) === answer,
    );
  }

  private belongs(picture: number, split: Split, style: 'seen' | 'unseen'): boolean {
    if (this.conceptOf(picture).split !== split) return false;
    const unseen = this.unseenStyle !== undefined && STYLES[this.styleOf(picture)] === this.unseenStyle;
    return unseen === (style === 'unseen');
  }

  private pool(key: string, belongs: (picture: number) => boolean): Int32Array {
    let pool = this.pools.get(key);
    if (!pool) {
      const found: number[] = [];
      for (let p = 0; p < this.pictureCount; p++) if (belongs(p)) found.push(p);
      pool = Int32Array.from(found);
      this.pools.set(key, pool);
    }
    return pool;
  }
}
