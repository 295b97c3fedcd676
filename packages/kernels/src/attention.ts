import * as tf from '@tensorflow/tfjs-core';
import { checkValue, rule } from './check-config';
import { fusedOp } from './fused-op';
import { mergeHeads, splitHeads } from './heads';
import { expectShape } from './shape';

/** Options of `attention`. */
export interface AttentionOptions {
  readonly numHeads: number;
  /** Factor on the scores; `headDim ** -0.5` by default. */
  readonly scale?: number;
  /** Query i is at key position s - t + i and sees no later key. */
  readonly causal?: boolean;
  /** Added to the scaled scores: `[1|b, 1|h, 1|t, 1|s]`. Gets a gradient. */
  readonly bias?: tf.Tensor4D;
  /** float32 `[b, s]`, 1 = visible. Data: gets no gradient. */
  readonly keyMask?: tf.Tensor2D;
  /** Number of valid keys; the rest of k and v is not read. Default: all. */
  readonly keyCount?: number;
  /** Result of a query that sees no key: exact zeros (default) or the mean of all values, as in masked-fill references. */
  readonly emptyRows?: 'zero' | 'uniform';
}

const EMPTY_ROWS = rule.oneOf(['zero', 'uniform']);

interface AttentionAttrs {
  readonly numHeads: number;
  readonly scale: number;
  readonly causal: boolean;
  readonly emptyRows: 'zero' | 'uniform';
  /** Number of valid keys. */
  readonly keyCount: number;
}

/** Represents minus infinity; finite, so that the difference of two is not NaN. */
const MASKED = -3.4e38;

/**
 * `{q [b, t, h*d], k [b, s or more, h*d], v, bias?, keyMask?}` -> `[y [b, t, h*d], weights? [b, h, t, s]]`, s = keyCount.
 * `weights` is an input of 'FlamingoAttentionGrad' of the same backend, or absent if that kernel recomputes it. Here it is the
 * softmax, with zeros in empty rows.
 */
const attentionOp = fusedOp<AttentionAttrs>({
  name: 'FlamingoAttention',
  forward: ({ q, k: allKeys, v: allValues, bias, keyMask }, { numHeads, scale, causal, emptyRows, keyCount }) => {
    const [k, v] = [firstRows(allKeys!, keyCount), firstRows(allValues!, keyCount)];
    const values = splitHeads(v, numHeads); //                                                       [b, h, s, d]
    let scores = tf.mul(tf.matMul(splitHeads(q!, numHeads), splitHeads(k, numHeads), false, true), scale);
    if (bias) scores = tf.add(scores, bias); //                                                      [b, h, t, s]
    const mask = visible(q!, k, causal, keyMask);
    if (mask) scores = tf.add(tf.mul(scores, mask), tf.mul(tf.sub(1, mask), MASKED));
    let weights = tf.softmax(scores);
    if (mask) weights = tf.mul(weights, mask);
    let y = tf.matMul(weights, values); //                                                           [b, h, t, d]
    if (mask && emptyRows === 'uniform') {
      y = tf.add(y, tf.mul(emptiness(weights), tf.mean(values, 2, true)));
    }
    return [mergeHeads(y), weights];
  },
  saveInputs: ['q', 'k', 'v', 'bias', 'keyMask'],
  saveOutputs: [false, true],
  gradient: ([dy], { q, k, v, bias, keyMask, out1: weights }, attrs) => {
    const [dq, dk, dv, dbias] = attentionGradOp({ dy, q, k, v, bias, keyMask, weights }, attrs);
    return { q: () => dq!, k: () => dk!, v: () => dv!, bias: () => dbias! };
  },
});

/** `{dy, q, k, v, bias?, keyMask?, weights?}` -> `[dq, dk, dv, dbias?]`; all keys are valid */
const attentionGradOp = fusedOp<AttentionAttrs>({
  name: 'FlamingoAttentionGrad',
  forward: ({ dy, q, k, v, bias, weights }, { numHeads, scale, emptyRows }) => {
    const dyh = splitHeads(dy!, numHeads);
    const dweights = tf.matMul(dyh, splitHeads(v!, numHeads), false, true); //       [b, h, t, s]
    const along = tf.mul(dweights, weights!);
    const dscores = tf.sub(along, tf.mul(weights!, tf.sum(along, -1, true)));
    const scaled = tf.mul(dscores, scale);
    let dvh = tf.matMul(weights!, dyh, true); //                                     [b, h, s, d]
    if (emptyRows === 'uniform') {
      const fromEmpty = tf.sum(tf.mul(dyh, emptiness(weights!)), 2, true);
      dvh = tf.add(dvh, tf.div(fromEmpty, v!.shape[1]!));
    }
    const dq = mergeHeads(tf.matMul(scaled, splitHeads(k!, numHeads)));
    const dk = mergeHeads(tf.matMul(scaled, splitHeads(q!, numHeads), true));
    const grads = [dq, dk, mergeHeads(dvh)];
    return bias ? [...grads, sumTo(dscores, bias.shape)] : grads;
  },
});

function firstRows(x: tf.Tensor, count: number): tf.Tensor {
  const [b, s, width] = x.shape as [number, number, number];
  return s === count ? x : tf.slice(x, [0, 0, 0], [b, count, width]);
}

/** 1 in rows whose weights are all zero, `[b, h, t, 1]`: rows that see no key. */
function emptiness(weights: tf.Tensor): tf.Tensor {
  return tf.sub(1, tf.step(tf.sum(weights, -1, true)));
}

/** float32 `[1|b, 1, t|1, s]`, 1 = visible; undefined if everything is visible. */
function visible(q: tf.Tensor, k: tf.Tensor, causal: boolean, keyMask?: tf.Tensor): tf.Tensor | undefined {
  const t = q.shape[1]!;
  const s = k.shape[1]!;
  const keys = keyMask && tf.reshape(keyMask, [keyMask.shape[0]!, 1, 1, s]);
  // A single query is at the last key and sees every key.
  if (!causal || t === 1) return keys;
  const past = causalMask(t, s);
  return keys ? tf.mul(past, keys) : past;
}

/** float32 `[1, 1, t, s]`: 1 where the key is not later than the query, where query i is at key s - t + i. */
export function causalMask(t: number, s: number): tf.Tensor4D {
  const mask = new Float32Array(t * s);
  for (let i = 0; i < t; i++) mask.fill(1, i * s, i * s + Math.max(0, s - t + i + 1));
  return tf.tensor4d(mask, [1, 1, t, s]);
}

/** Sums a tensor over the axes along which `shape` was broadcast. */
function sumTo(x: tf.Tensor, shape: readonly number[]): tf.Tensor {
  const axes = shape.flatMap((n, i) => (n === 1 && x.shape[i] !== 1 ? [i] : []));
  return axes.length ? tf.sum(x, axes, true) : tf.clone(x);
}

/**
 * Scaled dot-product attention; heads are side by side in the last axis.
 *
 * @param q float32 `[b, t, h*d]`
 * @param k float32 `[b, s, h*d]`, or longer with `keyCount`
 * @param v float32, as k
 * @returns float32 `[b, t, h*d]`
 */
export function attention(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, o: AttentionOptions): tf.Tensor3D {
  const { numHeads, causal = false, emptyRows = 'zero', bias, keyMask } = o;
  checkValue('attention', 'numHeads', numHeads, rule.size);
  checkValue('attention', 'emptyRows', emptyRows, EMPTY_ROWS);
  expectShape(
    'attention: q',
    q,
    ['batch', 'queries', 'heads*headDim'],
    'Leave the heads side by side in the last axis.',
  );
  const [b, t, width] = q.shape as [number, number, number];
  expectShape('attention: k', k, [b, 'keys', width], 'Batch and width must be those of q.');
  expectShape('attention: v', v, k.shape, 'Pass one value per key.');
  const s = o.keyCount ?? k.shape[1]!;
  if (!Number.isInteger(s) || s < 0 || s > k.shape[1]!) {
    throw new Error(
      `attention: keyCount must be a whole number from 0 to the ${k.shape[1]} keys, got ${s}. Pass the number of valid keys.`,
    );
  }
  if (width % numHeads !== 0) {
    throw new Error(`attention: the width ${width} of q must be a multiple of numHeads, got ${numHeads}.`);
  }
  if (keyMask) expectShape('attention: keyMask', keyMask, [b, s], 'Pass 1 for each visible key and 0 for the others.');
  if (bias && !(bias.rank === 4 && bias.shape.every((n, i) => n === 1 || n === [b, numHeads, t, s][i]))) {
    throw new Error(
      `attention: bias must be [${b}, ${numHeads}, ${t}, ${s}] or 1 along an axis, got [${bias.shape.join(', ')}].`,
    );
  }
  const scale = o.scale ?? (width / numHeads) ** -0.5;
  // Recorded gradients have the shape of the valid keys.
  const [keys, values] = tf.engine().isTapeOn() ? [firstRows(k, s), firstRows(v, s)] : [k, v];
  const attrs = { numHeads, scale, causal, emptyRows, keyCount: s };
  return attentionOp({ q, k: keys, v: values, bias, keyMask }, attrs)[0] as tf.Tensor3D;
}
