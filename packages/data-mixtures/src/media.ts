import { expectWhole } from './checks';
import { mediaName, type MediaRef } from './document';
import type { ImageDecoder } from './image-decoder';

/** Loads the pixels or the cached features of a medium. */
export interface MediaLoader {
  readonly kind: 'frames' | 'features';
  /** Shape of one medium: [frames, height, width, 3] or [frames, patches, visualSize]. */
  readonly shape: readonly number[];
  /**
   * Returns undefined for an unreadable medium, which the mixture counts and removes.
   *
   * @param sample keys of the sample's random stream, for a loader that changes media at random: see `seededStream`
   */
  load(
    media: MediaRef,
    sample?: readonly (number | string)[],
  ): Promise<Float32Array | undefined> | Float32Array | undefined;
}

/**
 * Loads images and clips as pixels. Of a longer clip it takes `frames` evenly spaced frames; a shorter one repeats its last
 * frame.
 *
 * @param frames frames per medium. Paper: 1 for images, 8 for clips
 */
export function imageLoader(decoder: ImageDecoder, frames = 1): MediaLoader {
  expectWhole('imageLoader: frames', frames, 1);
  const { size } = decoder.format;
  const plane = size * size * 3;
  return {
    kind: 'frames',
    shape: [frames, size, size, 3],
    async load(media) {
      if ('key' in media) {
        throw new Error(`imageLoader: expected a file or bytes, got ${mediaName(media)}. Use featureLoader for keys.`);
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

/** Loads precomputed features of a frozen vision encoder. `lookup` returns undefined for an unknown key. */
export function featureLoader(
  shape: readonly [frames: number, patches: number, visualSize: number],
  lookup: (key: string | number) => Float32Array | undefined,
): MediaLoader {
  for (const [i, n] of shape.entries()) expectWhole(`featureLoader: shape[${i}]`, n, 1);
  const size = shape[0] * shape[1] * shape[2];
  return {
    kind: 'features',
    shape,
    load(media) {
      if (!('key' in media)) {
        throw new Error(`featureLoader: expected a key, got ${mediaName(media)}. Use imageLoader for files and bytes.`);
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

/** At most `count` evenly spaced numbers of 0..length-1, including the first and the last if `count` is above 1. */
export function evenlySpaced(length: number, count: number): number[] {
  if (length <= count) return Array.from({ length }, (_, i) => i);
  if (count === 1) return [Math.floor(length / 2)];
  return Array.from({ length: count }, (_, i) => Math.round((i * (length - 1)) / (count - 1)));
}
