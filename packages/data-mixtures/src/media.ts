import { mediaName, type MediaRef } from './document';
import type { ImageDecoder } from './image-decoder';

/** Brings the pixels, or the cached features, of one medium. */
export interface MediaLoader {
  readonly kind: 'frames' | 'features';
  /** Of one medium: [frames, height, width, 3], or [frames, patches, visualSize]. */
  readonly shape: readonly number[];
  /** Undefined for a medium that cannot be read: it is counted, named and left out. */
  load(media: MediaRef): Promise<Float32Array | undefined> | Float32Array | undefined;
}

/**
 * Images and clips as pixels. A clip with more frames gives `frames` of them, evenly spread; of one with fewer the
 * last is repeated.
 *
 * @param frames frames per medium. Paper: 1 for images, 8 for clips
 */
export function imageLoader(decoder: ImageDecoder, frames = 1): MediaLoader {
  const { size } = decoder.format;
  const plane = size * size * 3;
  return {
    kind: 'frames',
    shape: [frames, size, size, 3],
    async load(media) {
      if ('key' in media) {
        throw new Error(`imageLoader: ${mediaName(media)} names no file or bytes. Use featureLoader for keys.`);
      }
      const all = 'image' in media ? [media.image] : media.frames;
      const names = (i: number) => (all.length > 1 ? `${mediaName(media)} frame ${i}` : mediaName(media));
      const chosen = evenlySpaced(all.length, frames);
      const decoded = await Promise.all(chosen.map((i) => decoder.decode(all[i]!, names(i))));
      if (decoded.length === 0 || decoded.includes(undefined)) return undefined;
      if (frames === 1) return decoded[0];
      const pixels = new Float32Array(frames * plane);
      for (let f = 0; f < frames; f++) pixels.set(decoded[Math.min(f, decoded.length - 1)]!, f * plane);
      return pixels;
    },
  };
}

/** Features of a frozen vision encoder that were computed before. `lookup` gives undefined for a key it does not have. */
export function featureLoader(
  shape: readonly [frames: number, patches: number, visualSize: number],
  lookup: (key: string | number) => Float32Array | undefined,
): MediaLoader {
  const size = shape[0] * shape[1] * shape[2];
  return {
    kind: 'features',
    shape,
    load(media) {
      if (!('key' in media)) {
        throw new Error(`featureLoader: ${mediaName(media)} has no key. Use imageLoader for files and bytes.`);
      }
      const features = lookup(media.key);
      if (features && features.length !== size) {
        throw new Error(
          `featureLoader: key ${media.key} must hold [${shape.join(', ')}] = ${size} numbers, got ${features.length}.`,
        );
      }
      return features;
    },
  };
}

/** At most `count` of 0..length-1, the first and the last among them. */
export function evenlySpaced(length: number, count: number): number[] {
  if (length <= count) return Array.from({ length }, (_, i) => i);
  if (count === 1) return [Math.floor(length / 2)];
  return Array.from({ length: count }, (_, i) => Math.round((i * (length - 1)) / (count - 1)));
}
