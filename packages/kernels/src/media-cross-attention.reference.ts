import { attentionReference } from './attention.reference';

/** Sizes of a media cross-attention, and which image each position attends to. */
export interface MediaAttentionCase {
  /** `[batch, text]`: the image each position attends to, from 1; 0 or more than `media` = none. */
  readonly mediaIndex: readonly number[];
  readonly batch: number;
  readonly text: number;
  readonly media: number;
  readonly latents: number;
  readonly numHeads: number;
  readonly headDim: number;
}

/** Attends from each text position, one at a time, to the latents of its image. */
export function mediaCrossAttentionReference(
  q: Float64Array,
  k: Float64Array,
  v: Float64Array,
  c: MediaAttentionCase,
): Float64Array {
  const { batch, text, media, latents, numHeads, headDim } = c;
  const width = numHeads * headDim;
  const y = new Float64Array(q.length);
  for (let row = 0; row < batch * text; row++) {
    const index = c.mediaIndex[row]!;
    if (index === 0 || index > media) continue;
    const image = Math.floor(row / text) * media + index - 1;
    const ofImage = (x: Float64Array) => x.subarray(image * latents * width, (image + 1) * latents * width);
    const query = q.subarray(row * width, (row + 1) * width);
    const one = { batch: 1, queries: 1, keys: latents, numHeads, headDim, scale: headDim ** -0.5 };
    y.set(attentionReference(query, ofImage(k), ofImage(v), undefined, one), row * width);
  }
  return y;
}
