import type { MediaLoader } from './media';
import type { Sample } from './sample';

/** Samples padded at the end to equal length. All arrays are row-major. */
export interface Batch {
  readonly size: number;
  readonly text: number;
  readonly media: number;
  /** [size, text] */
  readonly tokens: Int32Array;
  /** [size, text], 1 = the loss covers this token; 0 on padding and on `<image>`. */
  readonly lossMask: Float32Array;
  /** [size, text], the 1-based number of the medium in its row that a token attends to; 0 = none. */
  readonly mediaIndex: Int32Array;
  readonly visual: {
    readonly kind: 'frames' | 'features';
    /** [size, media, frames, height, width, 3], or [size, media, frames, patches, visualSize]. */
    readonly shape: readonly number[];
    /** Zero where a row has fewer media. */
    readonly data: Float32Array;
  };
}

/** A sample with its loaded media. */
export interface LoadedSample {
  readonly sample: Sample;
  readonly media: readonly Float32Array[];
}

/**
 * Pads samples to one batch.
 *
 * @param maxTokens rows are as long as the longest sample, rounded up to a multiple of 8 but not beyond this, so that
 *                  backends that compile a kernel per shape see few shapes
 */
export function makeBatch(
  samples: readonly LoadedSample[],
  { kind, shape }: Pick<MediaLoader, 'kind' | 'shape'>,
  pad: number,
  maxTokens: number,
): Batch {
  const size = samples.length;
  const longest = Math.max(...samples.map(({ sample }) => sample.tokens.length));
  const text = Math.max(longest, Math.min(maxTokens, Math.ceil(longest / 8) * 8));
  const media = Math.max(...samples.map((s) => s.media.length));
  const each = shape.reduce((a, b) => a * b, 1);

  const tokens = new Int32Array(size * text).fill(pad);
  const lossMask = new Float32Array(size * text);
  const mediaIndex = new Int32Array(size * text);
  const data = new Float32Array(size * media * each);
  samples.forEach(({ sample, media: loaded }, b) => {
    tokens.set(sample.tokens, b * text);
    lossMask.set(sample.lossMask, b * text);
    mediaIndex.set(sample.mediaIndex, b * text);
    loaded.forEach((values, n) => data.set(values, (b * media + n) * each));
  });
  const visual = { kind, shape: [size, media, ...shape], data };
  return { size, text, media, tokens, lossMask, mediaIndex, visual };
}
