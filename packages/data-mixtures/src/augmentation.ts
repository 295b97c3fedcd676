import type { RandomStream } from '@flamingo-ts/random';

/** Random changes of training images, which help if there are few of them. A missing key turns its change off. */
export interface AugmentationConfig {
  /** Smallest share of an image's area that a random crop keeps, above 0. */
  readonly crop?: number | undefined;
  /** Brightness, contrast and saturation are each multiplied by a random factor between 1 - `color` and 1 + `color`. */
  readonly color?: number | undefined;
  /** Probability of mirroring left and right. */
  readonly flip?: number | undefined;
}

/** One augmentation of one image, applied when it is decoded. */
export interface Augmentation {
  /** The part to keep, as shares of width and height. */
  readonly crop: { readonly left: number; readonly top: number; readonly width: number; readonly height: number };
  readonly flip: boolean;
  readonly brightness: number;
  readonly contrast: number;
  readonly saturation: number;
}

/** The aspect ratio of a crop differs from that of its image by at most this factor. */
const MAX_STRETCH = 4 / 3;

/** Draws a random augmentation. Always takes eight numbers from the stream, so that one key does not affect the others. */
export function drawAugmentation(
  { crop = 1, color = 0, flip = 0 }: AugmentationConfig,
  random: RandomStream,
): Augmentation {
  const between = (from: number, to: number) => from + (to - from) * random.uniform();
  const area = between(crop, 1);
  const stretch = crop < 1 ? MAX_STRETCH : 1;
  const ratio = Math.exp(between(-Math.log(stretch), Math.log(stretch)));
  const width = Math.min(1, Math.sqrt(area * ratio));
  const height = Math.min(1, Math.sqrt(area / ratio));
  return {
    crop: { width, height, left: between(0, 1 - width), top: between(0, 1 - height) },
    flip: random.uniform() < flip,
    brightness: between(1 - color, 1 + color),
    contrast: between(1 - color, 1 + color),
    saturation: between(1 - color, 1 + color),
  };
}
