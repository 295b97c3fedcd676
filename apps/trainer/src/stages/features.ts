import type { Frames, MediaKey, ImageSource } from '../data/training-data';
import type { VisionTower } from './vision';

/** An image or clip: its pixels until they are encoded, its features from then on. */
interface Image {
  readonly number: number;
  /** Whether it can be read; known once its pixels are here. */
  readonly readable: Promise<boolean>;
  pixels?: Frames | undefined;
  features?: Float32Array;
}

/**
 * Features by key, each computed once, in two parts: pixels are brought ahead of time, by workers where they must be
 * decoded; encoding is the model's work, done when it is needed and for many images together.
 */
export class FeatureStore {
  private readonly byKey = new Map<MediaKey, Image>();
  private readonly byNumber: Image[] = [];

  constructor(
    readonly tower: VisionTower,
    readonly source: ImageSource,
  ) {}

  /** Brings the pixels of an image or clip. Gives its number, from 1; undefined where it cannot be read. */
  async fetch(key: MediaKey): Promise<number | undefined> {
    const image = this.byKey.get(key) ?? this.bring(key);
    return (await image.readable) ? image.number : undefined;
  }

  /** Computes the features of images that were fetched, where they are not known yet. */
  encode(numbers: Iterable<number>): void {
    const waiting = Array.from(new Set(numbers), (number) => this.byNumber[number - 1]!).filter((p) => !p.features);
    const size = this.source.imageSize ** 2 * 3;
    const frames = waiting.flatMap(({ pixels }) =>
      Array.from({ length: pixels!.length / size }, (_, i) => pixels!.subarray(i * size, (i + 1) * size)),
    );
    const features = this.tower.features(frames);
    let next = 0;
    for (const image of waiting) {
      const count = image.pixels!.length / size;
      const own = features.slice(next, (next += count));
      image.features = count === 1 ? own[0]! : concatenate(own);
      image.pixels = undefined;
    }
  }

  /** Features of an image or clip that was encoded, frame after frame: `[frames * patches * featureDim]`. */
  features(number: number): Float32Array {
    return this.byNumber[number - 1]!.features!;
  }

  /** Features by key, fetched and encoded at once; undefined where an image cannot be read. */
  async get(keys: readonly MediaKey[]): Promise<(Float32Array | undefined)[]> {
    const numbers = await Promise.all(keys.map((key) => this.fetch(key)));
    this.encode(numbers.filter((number) => number !== undefined));
    return numbers.map((number) => (number === undefined ? undefined : this.features(number)));
  }

  private bring(key: MediaKey): Image {
    const arriving = this.source.frames([key]);
    const image: Image = {
      number: this.byNumber.length + 1,
      readable: arriving.then(([pixels]) => {
        image.pixels = pixels;
        return pixels !== undefined;
      }),
    };
    this.byKey.set(key, image);
    this.byNumber.push(image);
    return image;
  }
}

function concatenate(parts: readonly Float32Array[]): Float32Array {
  const out = new Float32Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const p of parts) {
    out.set(p, at);
    at += p.length;
  }
  return out;
}
