import { LRUCache } from 'lru-cache';
import type { Frames, ImageSource, MediaKey, ViewKeys } from '../data/training-data';
import type { VisionTower } from './vision';

/** An image or clip in use: its pixels until it is encoded, then its features. */
interface Image {
  /** In the cache; undefined for an augmented image, which does not occur again. */
  readonly key?: MediaKey;
  pixels?: Frames | undefined;
  features?: Float32Array | undefined;
}

/** An image of the steps in preparation. */
interface Held {
  readonly number: number;
  /** Undefined if it cannot be read. */
  readonly image: Promise<Image | undefined>;
  /** The last step whose preparation may have requested it. */
  step: number;
}

/**
 * Computes and caches image features by key. Pixels are read in advance, by workers if they must be decoded. Images are
 * encoded when a step requires their features, many at a time. The cache evicts the least recently used features, but
 * always keeps those of the steps in preparation. An image has the same features each time it is encoded, so the size of
 * the cache changes no result.
 */
export class FeatureStore {
  private readonly cache: LRUCache<MediaKey, Float32Array> | undefined;
  private readonly held = new Map<MediaKey, Held>();
  private readonly byNumber = new Map<number, Image>();
  private readonly freeNumbers: number[] = [];
  private step = 0;

  /** @param cacheBytes maximum size of the cached features */
  constructor(
    readonly tower: VisionTower,
    readonly source: ImageSource,
    cacheBytes = Infinity,
  ) {
    if (cacheBytes >= 1) {
      this.cache = new LRUCache({
        maxSize: Math.min(Math.floor(cacheBytes), Number.MAX_SAFE_INTEGER),
        sizeCalculation: ({ byteLength }) => Math.max(1, byteLength),
      });
    }
  }

  /** Called when the preparation of a step begins. Images that are fetched from now on may belong to it. */
  beginStep(step: number): void {
    this.step = step;
  }

  /** Called when the features of a step have been read. Releases images that no later step has fetched. */
  endStep(step: number): void {
    for (const [key, { number, step: last }] of this.held) {
      if (last > step) continue;
      this.held.delete(key);
      this.byNumber.delete(number);
      this.freeNumbers.push(number);
    }
  }

  /**
   * Reads the pixels of an image or clip. Returns its number, from 1, valid until its step ends; undefined if it cannot be
   * read.
   *
   * @param view augments the image
   */
  async fetch(key: MediaKey, view?: ViewKeys): Promise<number | undefined> {
    const name = view ? view.join(' ') : key;
    const held = this.held.get(name) ?? this.hold(name, view ? this.readView(key, view) : this.read(key));
    held.step = this.step;
    return (await held.image) && held.number;
  }

  /** Computes the features of fetched images that have none yet. */
  encode(numbers: Iterable<number>): void {
    this.encodeImages(Array.from(new Set(numbers), (number) => this.byNumber.get(number)!));
  }

  /** Features of an encoded image or clip, frame by frame: `[frames * patches * featureDim]`. */
  features(number: number): Float32Array {
    return this.byNumber.get(number)!.features!;
  }

  /** Reads and encodes images or clips; undefined for those that cannot be read. */
  async get(keys: readonly MediaKey[]): Promise<(Float32Array | undefined)[]> {
    const reading = new Map(Array.from(new Set(keys), (key) => [key, this.held.get(key)?.image ?? this.read(key)]));
    const images = await Promise.all(keys.map((key) => reading.get(key)!));
    this.encodeImages([...new Set(images)].filter((image) => image !== undefined));
    return images.map((image) => image?.features);
  }

  private hold(name: MediaKey, reading: Promise<Image | undefined>): Held {
    const number = this.freeNumbers.pop() ?? this.held.size + 1;
    const image = reading.then((read) => {
      if (read) this.byNumber.set(number, read);
      return read;
    });
    const held = { number, image, step: this.step };
    this.held.set(name, held);
    return held;
  }

  private async readView(key: MediaKey, view: ViewKeys): Promise<Image | undefined> {
    const [pixels] = await this.source.frames([key], [view]);
    return pixels && { pixels };
  }

  private async read(key: MediaKey): Promise<Image | undefined> {
    const features = this.cache?.get(key);
    if (features) return { key, features };
    const [pixels] = await this.source.frames([key]);
    return pixels && { key, pixels };
  }

  private encodeImages(images: readonly Image[]): void {
    const waiting = images.filter(({ features }) => !features);
    const size = this.source.imageSize ** 2 * 3;
    const frames = waiting.flatMap(({ pixels }) =>
      Array.from({ length: pixels!.length / size }, (_, i) => pixels!.subarray(i * size, (i + 1) * size)),
    );
    const features = this.tower.features(frames);
    let next = 0;
    for (const image of waiting) {
      const count = image.pixels!.length / size;
      const frames = features.slice(next, (next += count));
      image.features = count === 1 ? frames[0]! : concatenate(frames);
      image.pixels = undefined;
      if (image.key !== undefined) this.cache?.set(image.key, image.features);
    }
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
