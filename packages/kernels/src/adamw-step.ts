import * as tf from '@tensorflow/tfjs-core';
import { fusedOp } from './fused-op';

/** Options of `adamWStep`. */
export interface AdamWOptions {
  readonly learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  /** Added to the root of the corrected second moment. */
  readonly epsilon: number;
  /** Decoupled decay of each tensor. */
  readonly weightDecay: readonly number[];
  /** Number of this step, from 1. */
  readonly step: number;
  /** Factor on all gradients, for clipping. Default 1. */
  readonly gradientScale?: number;
}

/**
 * `{p, g, m, v}` -> `[p', m', v']`; the attributes are `AdamWOptions` with one number as `weightDecay` and `gradientScale`
 * always set. A backend may write p, m and v in place and return nothing.
 */
const adamWOp = fusedOp<
  Omit<AdamWOptions, 'weightDecay'> & { readonly weightDecay: number; readonly gradientScale: number }
>({
  name: 'FlamingoAdamWStep',
  forward: ({ p, g, m, v }, { learningRate, beta1, beta2, epsilon, weightDecay, step, gradientScale }) => {
    const scaled = gradientScale === 1 ? g! : tf.mul(g!, gradientScale);
    const m1 = tf.add(tf.mul(m!, beta1), tf.mul(scaled, 1 - beta1));
    const v1 = tf.add(tf.mul(v!, beta2), tf.mul(tf.square(scaled), 1 - beta2));
    const root = tf.add(tf.mul(tf.sqrt(v1), 1 / Math.sqrt(1 - beta2 ** step)), epsilon);
    const decayed = weightDecay ? tf.mul(p!, 1 - learningRate * weightDecay) : p!;
    return [tf.sub(decayed, tf.mul(tf.div(m1, root), learningRate / (1 - beta1 ** step))), m1, v1];
  },
});

/**
 * One AdamW step on many tensors (Loshchilov and Hutter 2019), in place: decay first, decoupled from the gradient, then the
 * bias-corrected update.
 *
 * @param params float32 variables
 * @param grads  one gradient per variable
 * @param m      running means of the gradients, zeros before step 1
 * @param v      running means of their squares, zeros before step 1
 */
export function adamWStep(
  params: readonly tf.Variable[],
  grads: readonly tf.Tensor[],
  m: readonly tf.Variable[],
  v: readonly tf.Variable[],
  o: AdamWOptions,
): void {
  const counts = [params.length, grads.length, m.length, v.length, o.weightDecay.length];
  if (counts.some((n) => n !== params.length)) {
    throw new Error(
      `adamWStep: params, grads, m, v and weightDecay must have one entry each per tensor, got ${counts.join(', ')}. Pass lists of equal length.`,
    );
  }
  if (!(o.step >= 1)) throw new Error(`adamWStep: step must be at least 1, got ${o.step}. Count steps from 1.`);
  params.forEach((p, i) =>
    tf.tidy(() => {
      const attrs = { ...o, weightDecay: o.weightDecay[i]!, gradientScale: o.gradientScale ?? 1 };
      const updated = adamWOp({ p, g: grads[i], m: m[i], v: v[i] }, attrs);
      [p, m[i]!, v[i]!].forEach((variable, j) => updated[j] && variable.assign(updated[j]));
    }),
  );
}
