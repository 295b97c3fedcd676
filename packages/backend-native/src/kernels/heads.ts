import type { Layout } from '../onednn/layout';

/** Sizes of an attention: b batch, h heads, t queries, s keys, d width of a head. */
export interface Sizes {
  readonly b: number;
  readonly h: number;
  readonly t: number;
  readonly s: number;
  readonly d: number;
}

/** `[b, n, h*d]` seen as `[b, h, n, d]`: oneDNN multiplies heads in place, without moving data. */
export const heads = ({ b, h, d }: Sizes, n: number): Layout => ({
  dims: [b, h, n, d],
  strides: [n * h * d, d, h * d, 1],
});

/** Scores or weights, `[b, h, t, s]`. */
export const dense = ({ b, h, t, s }: Sizes): Layout => ({ dims: [b, h, t, s], strides: [h * t * s, t * s, s, 1] });

/** The same data with the last two axes exchanged. */
export function swapped({ dims, strides, type }: Layout): Layout {
  const exchange = (x: readonly number[]) => [...x.slice(0, -2), x.at(-1)!, x.at(-2)!];
  return { dims: exchange(dims), strides: exchange(strides as readonly number[]), type };
}
