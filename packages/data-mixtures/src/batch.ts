import type { MediaLoader } from './media';
import type { Sample } from './sample';

/** Samples side by side, padded at the end to equal length; all arrays row-major. */
export interface Batch {
  readonly size: number;
  readonly text: number;
  readonly media: number;
  /** [size, text] */
  readonly tokens: Int32Array;
  /** [size, text], 1 = a token, 0 = padding. */
  readonly textMask: Float32Array;
  /** [size, text], 1 = this token is to be predicted; 0 on padding and on `<image>`. */
  readonly lossMask: Float32Array;
  /** [size, text], which medium of its row a token looks at, from 1; 0 = none. */
  readonly mediaIndex: Int32Array;
  /** [size, media], 1 = there is a medium. */
  readonly imageMask: Float32Array;
  readonly visual: {
    readonly kind: 'frames' | 'features';
    /** [size, media, frames, height, width, 3], or [size, media, frames, patches, visualSize]. */
    readonly shape: readonly number[];
    /** Zero where there is no medium. */
    readonly data: Float32Array;
  };
}

/** A sample with the media that its tokens look at, loaded. */
export interface LoadedSample {
  readonly sample: Sample;
  readonly media: readonly Float32Array[];
}

/**
 * @param maxTokens rows are as long as the longest sample, rounded up to a multiple of 8 but not beyond this: a backend
 *                  that keeps a kernel per shape then sees few of them
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
  const textMask = new Float32Array(size * text);
  const lossMask = new Float32Array(size * text);
  const mediaIndex = new Int32Array(size * text);
  const imageMask = new Float32Array(size * media);
  const data = new Float32Array(size * media * each);
  samples.forEach(({ sample, media: loaded }, b) => {
    tokens.set(sample.tokens, b * text);
    textMask.fill(1, b * text, b * text + sample.tokens.length);
    lossMask.set(sample.lossMask, b * text);
    mediaIndex.set(sample.mediaIndex, b * text);
    imageMask.fill(1, b * media, b * media + loaded.length);
    loaded.forEach((values, n) => data.set(values, (b * media + n) * each));
  });
  const visual = { kind, shape: [size, media, ...shape], data };
  return { size, text, media, tokens, textMask, lossMask, mediaIndex, imageMask, visual };
}

/**
 * Where the loss is computed: `rows` of the flattened [size * text] hidden states, each at the token before the one
 * in `targets` that it has to predict.
 */
export function lossRows(batch: Pick<Batch, 'tokens' | 'lossMask' | 'text'>): {
  rows: Int32Array;
  targets: Int32Array;
} {
  const rows: number[] = [];
  for (let i = 1; i < batch.lossMask.length; i++) if (batch.lossMask[i] === 1 && i % batch.text > 0) rows.push(i - 1);
  return { rows: Int32Array.from(rows), targets: Int32Array.from(rows, (row) => batch.tokens[row + 1]!) };
}
