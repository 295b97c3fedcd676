import * as tf from '@tensorflow/tfjs-core';
import { fusedOp } from './fused-op';
import { expectWidth } from './layer-norm';
import { sumRows } from './sum-rows';

/** Parameters of an RMS norm. */
export interface RMSNormParams {
  /** `[d]` */
  readonly weight: tf.Tensor1D;
}

/** `{dy, x, weight, rstd}` -> dx */
const rmsNormGradOp = fusedOp<object>({
  name: 'FlamingoRMSNormGrad',
  forward: ({ dy, x, weight, rstd }) => {
    // dx = rstd (g - xhat mean(g xhat)), where g = dy weight
    const xhat = tf.mul(x!, rstd!);
    const g = tf.mul(dy!, weight!);
    return [tf.mul(tf.sub(g, tf.mul(xhat, tf.mean(tf.mul(g, xhat), -1, true))), rstd!)];
  },
});

/** `{dy, x, rstd}` -> dweight `[d]` */
const rmsNormWeightGradOp = fusedOp<object>({
  name: 'FlamingoRMSNormWeightGrad',
  forward: ({ dy, x, rstd }) => [sumRows(tf.mul(dy!, tf.mul(x!, rstd!)))],
});

/** `{x [..., d], weight [d]}` -> `[y [..., d], rstd [..., 1]]` */
const rmsNormOp = fusedOp<{ readonly eps: number }>({
  name: 'FlamingoRMSNorm',
  forward: ({ x, weight }, { eps }) => {
    const rstd = tf.rsqrt(tf.add(tf.mean(tf.square(x!), -1, true), eps));
    return [tf.mul(tf.mul(x!, rstd), weight!), rstd];
  },
  saveInputs: ['x', 'weight'],
  saveOutputs: [false, true],
  gradient: ([dy], { x, weight, out1: rstd }) => ({
    x: () => rmsNormGradOp({ dy, x, weight, rstd }, {})[0]!,
    weight: () => rmsNormWeightGradOp({ dy, x, rstd }, {})[0]!,
  }),
});

/**
 * RMS norm over the last axis: x / sqrt(mean(x^2) + eps) * weight.
 *
 * @param x float32 `[..., d]`
 */
export function rmsNorm(x: tf.Tensor, p: RMSNormParams, eps = 1e-6): tf.Tensor {
  expectWidth('rmsNorm', x, p.weight);
  return rmsNormOp({ x, weight: p.weight }, { eps })[0]!;
}
