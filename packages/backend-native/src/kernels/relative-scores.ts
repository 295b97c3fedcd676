import type * as tf from '@tensorflow/tfjs-core';
import type { OneDnnBackend, NativeKernel } from '../onednn/onednn-backend';
import type { Layout } from '../onednn/layout';
import { sizeOf } from '../shared/pooled-backend';
import { swapped, type Sizes } from './heads';
import { copyBlock } from './move';
import { product } from '../onednn/product';

/**
 * Scores by distance, `[h, b*t, s]`, with a free place after each row. Read as rows of s instead of s+1 places, starting at
 * place t-1 of each example, every row shifts one place to the left of the row before, and entry (i, j) is the score of query
 * i for key j: the shift costs nothing. The places of later keys then hold values of other rows.
 */
const byDistance = ({ b, h, t, s }: Sizes): Layout => ({ dims: [h, b * t, s], strides: [b * t * (s + 1), s + 1, 1] });

/** A single query needs no shift: its scores by distance, `[h, b, s]`, are those of `[b, h, 1, s]`. */
const single = ({ b, h, s }: Sizes): Layout => ({ dims: [h, b, s], strides: [s, h * s, 1] });

/** Rows of all heads side by side, `[n, h*d]`, seen as `[h, n, d]`. */
const rowsOf = ({ h, d }: Sizes, n: number): Layout => ({ dims: [h, n, d], strides: [d, h * d, 1] });

function sizesOf(q: tf.TensorInfo, r: tf.TensorInfo, attrs: Record<string, unknown>): Sizes {
  const [b, t, width] = q.shape as [number, number, number];
  const h = attrs['numHeads'] as number;
  return { b, h, t, s: r.shape[0]!, d: width / h };
}

/** Copies between scores by key, `[b, h, t, s]`, and scores by distance, of which they are the shifted view. */
function shift(
  backend: OneDnnBackend,
  { b, h, t, s }: Sizes,
  keys: Float32Array,
  distances: Float32Array,
  back = false,
) {
  const byKey = { values: keys, offset: 0, strides: [h * t * s, t * s, 1] };
  const shifted = { values: distances, offset: t - 1, strides: [t * (s + 1), b * t * (s + 1), 1] };
  copyBlock(backend, [b, h, t * s], back ? byKey : shifted, back ? shifted : byKey);
}

/** Clears the keys later than their queries, in rows of s places from `start` on. */
function clearLater(x: Float32Array, start: number, { t, s }: Sizes): void {
  for (let i = 0, row = start; i < t - 1; i++, row += s) x.fill(0, row + s - t + i + 1, row + s);
}

/** `{q [b, t, h*d], r [s, h*d]}` -> `[b, h, t, s]` */
const relativeScores: NativeKernel = ({ q, r }, attrs, backend) => {
  const z = sizesOf(q!, r!, attrs);
  const { b, h, t, s } = z;
  const out = backend.output([b, h, t, s]);
  const values = backend.values(out);
  const queries = [backend.address(q!), rowsOf(z, b * t)] as const;
  const distances = [backend.address(r!), swapped(rowsOf(z, s))] as const;
  if (!(sizeOf(out.shape) && sizeOf(q!.shape))) values.fill(0);
  else if (t === 1) product(backend, queries, distances, [backend.address(out), single(z)]);
  else {
    const scores = backend.pool.allocate(b * h * t * (s + 1));
    product(backend, queries, distances, [backend.pool.address(scores), byDistance(z)]);
    shift(backend, z, values, scores);
    backend.pool.release(scores);
    for (let n = 0; n < b * h; n++) clearLater(values, n * t * s, z);
  }
  return [out];
};

/** `{dy [b, h, t, s], q, r}` -> `[dq, dr]` */
const relativeScoresGradient: NativeKernel = ({ dy, q, r }, attrs, backend) => {
  const z = sizesOf(q!, r!, attrs);
  const { b, h, t, s } = z;
  const [dq, dr] = [backend.output(q!.shape), backend.output(r!.shape)];
  if (!(sizeOf(dy!.shape) && sizeOf(q!.shape))) {
    for (const x of [dq, dr]) backend.values(x).fill(0);
    return [dq, dr];
  }
  const dscores = t === 1 ? undefined : backend.pool.allocate(b * h * t * (s + 1));
  if (dscores) {
    shift(backend, z, backend.values(dy!), dscores, true);
    for (let start = 0; start < dscores.length; start += t * (s + 1)) {
      dscores.fill(0, start, start + t - 1);
      clearLater(dscores, start + t - 1, z);
    }
  }
  const from = dscores ? backend.pool.address(dscores) : backend.address(dy!);
  const layout = dscores ? byDistance(z) : single(z);
  const [queries, distances] = [rowsOf(z, b * t), rowsOf(z, s)];
  product(backend, [from, layout], [backend.address(r!), distances], [backend.address(dq), queries]);
  product(backend, [from, swapped(layout)], [backend.address(q!), queries], [backend.address(dr), distances]);
  if (dscores) backend.pool.release(dscores);
  return [dq, dr];
};

export const relativeScoresKernels: Record<string, NativeKernel> = {
  FlamingoRelativeScores: relativeScores,
  FlamingoRelativeScoresGrad: relativeScoresGradient,
};
