import type * as tf from '@tensorflow/tfjs-core';
import type { NativeBackend, NativeKernel } from '../native-backend';
import { sizeOf } from '../pooled-backend';
import { apply } from './binary';
import { dense, heads, swapped, type Sizes } from './heads';
import { product } from './product';
import { softmaxGradient, softmaxRows } from './softmax';

interface Attrs {
  readonly numHeads: number;
  readonly scale: number;
  readonly causal: boolean;
  readonly emptyRows: 'zero' | 'uniform';
}

/** Stands for minus infinity, as in the composed form. */
const MASKED = -3.4e38;

function sizesOf(q: tf.TensorInfo, k: tf.TensorInfo, numHeads: number): Sizes {
  const [b, t, width] = q.shape as [number, number, number];
  return { b, h: numHeads, t, s: k.shape[1]!, d: width / numHeads };
}

/** What is added to the scores, 0 or MASKED: `[1|b, 1, t|1, s]`, and which of its rows see nothing. */
interface Mask {
  readonly values: Float32Array;
  readonly shape: readonly number[];
  readonly empty: readonly number[];
}

function maskOf({ b, t, s }: Sizes, causal: boolean, keys: Float32Array | undefined): Mask | undefined {
  // A single query stands at the last key and sees every one.
  const past = causal && t > 1;
  if (!past && !keys) return undefined;
  const batch = keys ? b : 1;
  const queries = past ? t : 1;
  const values = new Float32Array(batch * queries * s);
  const empty: number[] = [];
  for (let n = 0; n < batch; n++) {
    for (let i = 0; i < queries; i++) {
      const row = n * queries + i;
      const last = past ? s - t + i : s - 1;
      let seen = 0;
      for (let j = 0; j < s; j++) {
        const visible = j <= last && (!keys || keys[n * s + j] === 1);
        if (visible) seen++;
        else values[row * s + j] = MASKED;
      }
      if (!seen) empty.push(row);
    }
  }
  return { values, shape: [batch, 1, queries, s], empty };
}

/** Calls `row` with the number, in `[b, h, t]`, of each row of the weights that a row of the mask stands for. */
function eachEmptyRow({ b, h, t }: Sizes, mask: Mask, row: (n: number) => void): void {
  const [batch, , queries] = mask.shape as [number, number, number];
  for (const e of mask.empty) {
    const [n, i] = [Math.floor(e / queries), e % queries];
    for (let bb = batch === 1 ? 0 : n; bb < (batch === 1 ? b : n + 1); bb++) {
      for (let hh = 0; hh < h; hh++) {
        for (let ii = queries === 1 ? 0 : i; ii < (queries === 1 ? t : i + 1); ii++) row((bb * h + hh) * t + ii);
      }
    }
  }
}

/** `{q [b, t, h*d], k [b, s, h*d], v, bias?, keyMask?}` -> `[y [b, t, h*d], weights [b, h, t, s], zero in empty rows]` */
const attention: NativeKernel = ({ q, k, v, bias, keyMask }, attrs, backend) => {
  const { numHeads, scale, causal, emptyRows } = attrs as unknown as Attrs;
  const z = sizesOf(q!, k!, numHeads);
  const { b, h, t, s, d } = z;
  const weights = backend.output([b, h, t, s]);
  const y = backend.output(q!.shape);
  if (!sizeOf(weights.shape)) {
    backend.values(y).fill(0);
    return [y, weights];
  }
  const [scores, key, query] = [dense(z), swapped(heads(z, s)), heads(z, t)];
  product(backend, [backend.address(q!), query], [backend.address(k!), key], [backend.address(weights), scores], {
    scale,
  });
  if (bias) apply('add', weights, bias, weights, backend);
  const mask = maskOf(z, causal, keyMask && backend.values(keyMask));
  if (mask) {
    const added = backend.makeTensorInfo([...mask.shape], 'float32', mask.values);
    apply('add', weights, added, weights, backend);
    backend.disposeData(added.dataId);
  }
  const values = backend.values(weights);
  softmaxRows(backend, 'softmax', values, values, b * h * t, s);
  if (mask) eachEmptyRow(z, mask, (n) => values.fill(0, n * s, (n + 1) * s));
  product(backend, [backend.address(weights), scores], [backend.address(v!), heads(z, s)], [backend.address(y), query]);
  if (mask?.empty.length && emptyRows === 'uniform') {
    const means = headMeans(backend.values(v!), z);
    const out = backend.values(y);
    eachEmptyRow(z, mask, (n) => {
      const [i, hh, bb] = [n % t, Math.floor(n / t) % h, Math.floor(n / t / h)];
      for (let c = 0; c < d; c++) out[(bb * t + i) * h * d + hh * d + c] = means[(bb * h + hh) * d + c]!;
    });
  }
  return [y, weights];
};

/** Mean value of each head: `[b, h*d]`. */
function headMeans(v: Float32Array, { b, h, s, d }: Sizes): Float64Array {
  const width = h * d;
  const means = new Float64Array(b * width);
  for (let n = 0, i = 0; n < b; n++) {
    for (let j = 0; j < s; j++) for (let c = 0; c < width; c++, i++) means[n * width + c]! += v[i]! / s;
  }
  return means;
}

/** `{dy, q, k, v, bias?, weights}` -> `[dq, dk, dv, dbias?]` */
const attentionGradient: NativeKernel = ({ dy, q, k, v, bias, weights }, attrs, backend) => {
  const { numHeads, scale, emptyRows } = attrs as unknown as Attrs;
  const z = sizesOf(q!, k!, numHeads);
  const { b, h, t, s } = z;
  const [dq, dk, dv] = [backend.output(q!.shape), backend.output(k!.shape), backend.output(v!.shape)] as const;
  const dscores = backend.output([b, h, t, s]);
  if (!sizeOf(dscores.shape)) {
    for (const x of [dq, dk, dv]) backend.values(x).fill(0);
    return bias ? [dq, dk, dv, sumTo(dscores, bias.shape, backend)] : [dq, dk, dv];
  }
  const [scores, keys, query] = [dense(z), heads(z, s), heads(z, t)];
  const at = (x: tf.TensorInfo) => backend.address(x);
  product(backend, [at(dy!), query], [at(v!), swapped(keys)], [at(dscores), scores]);
  product(backend, [at(weights!), swapped(scores)], [at(dy!), query], [at(dv), keys]);
  if (emptyRows === 'uniform') addFromEmptyRows(backend, z, weights!, dy!, dv);
  // Rows of zeros stay zeros.
  softmaxGradient(backend, weights!, dscores, b * h * t, s);
  product(backend, [at(dscores), scores], [at(k!), keys], [at(dq), query], { scale });
  product(backend, [at(dscores), swapped(scores)], [at(q!), query], [at(dk), keys], { scale });
  if (!bias) {
    backend.disposeData(dscores.dataId);
    return [dq, dk, dv];
  }
  return [dq, dk, dv, sumTo(dscores, bias.shape, backend)];
};

/** Each value gets its share of what came to the rows that see nothing. */
function addFromEmptyRows(
  backend: NativeBackend,
  { b, h, t, s, d }: Sizes,
  weights: tf.TensorInfo,
  dy: tf.TensorInfo,
  dv: tf.TensorInfo,
): void {
  const [w, g, out] = [backend.values(weights), backend.values(dy), backend.values(dv)];
  for (let row = 0; row < b * h * t; row++) {
    if (w.subarray(row * s, (row + 1) * s).some((x) => x !== 0)) continue;
    const [i, hh, bb] = [row % t, Math.floor(row / t) % h, Math.floor(row / t / h)];
    for (let j = 0; j < s; j++) {
      for (let c = 0; c < d; c++) out[((bb * s + j) * h + hh) * d + c]! += g[((bb * t + i) * h + hh) * d + c]! / s;
    }
  }
}

/** Sums over the axes along which `shape` was broadcast; x is used up. */
function sumTo(x: tf.TensorInfo, shape: readonly number[], backend: NativeBackend): tf.TensorInfo {
  let sum = x;
  for (let axis = 0; axis < shape.length; axis++) {
    if (shape[axis] !== 1 || sum.shape[axis] === 1) continue;
    const next = backend.call('Sum', { x: sum }, { axis: [axis], keepDims: true });
    backend.disposeData(sum.dataId);
    sum = next;
  }
  return sum;
}

export const attentionKernels: Record<string, NativeKernel> = {
  FlamingoAttention: attention,
  FlamingoAttentionGrad: attentionGradient,
};
