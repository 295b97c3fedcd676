import * as tf from '@tensorflow/tfjs-core';
import { fusedOp } from './fused-op';
import { expectShape, lastAxis } from './shape';
import { sumRows } from './sum-rows';

/** Parameters of a layer norm. */
export interface LayerNormParams {
  /** `[d]` */
  readonly weight: tf.Tensor1D;
  /** `[d]` */
  readonly bias?: tf.Tensor1D;
}

/** `{dy, x, weight, mean, rstd}` -> dx */
const layerNormGradOp = fusedOp<object>({
  name: 'FlamingoLayerNormGrad',
  forward: ({ dy, x, weight, mean, rstd }) => {
    // dx = rstd (g - mean(g) - xhat mean(g xhat)), where g = dy weight
    const xhat = tf.mul(tf.sub(x!, mean!), rstd!);
    const g = tf.mul(dy!, weight!);
    const along = tf.mul(xhat, tf.mean(tf.mul(g, xhat), -1, true));
    return [tf.mul(tf.sub(tf.sub(g, tf.mean(g, -1, true)), along), rstd!)];
  },
});

/** `{dy, x, mean, rstd}` -> dweight `[d]` */
const layerNormWeightGradOp = fusedOp<object>({
  name: 'FlamingoLayerNormWeightGrad',
  forward: ({ dy, x, mean, rstd }) => [sumRows(tf.mul(dy!, tf.mul(tf.sub(x!, mean!), rstd!)))],
});

/** `{x [..., d], weight [d], bias? [d]}` -> `[y [..., d], mean [..., 1], rstd [..., 1]]` */
const layerNormOp = fusedOp<{ readonly eps: number }>({
  name: 'FlamingoLayerNorm',
  forward: ({ x, weight, bias }, { eps }) => {
    const mean = tf.mean(x!, -1, true);
    const centered = tf.sub(x!, mean);
    const rstd = tf.rsqrt(tf.add(tf.mean(tf.square(centered), -1, true), eps));
    const y = tf.mul(tf.mul(centered, rstd), weight!);
    return [bias ? tf.add(y, bias) : y, mean, rstd];
  },
  saveInputs: ['x', 'weight'],
  saveOutputs: [false, true, true],
  gradient: ([dy], { x, weight, out1: mean, out2: rstd }) => ({
    x: () => layerNormGradOp({ dy, x, weight, mean, rstd }, {})[0]!,
    weight: () => layerNormWeightGradOp({ dy, x, mean, rstd }, {})[0]!,
    bias: () => sumRows(dy!),
  }),
});

/**
 * Layer norm over the last axis, with biased variance.
 *
 * @param x float32 `[..., d]`
 */
export function layerNorm(x: tf.Tensor, p: LayerNormParams, eps = 1e-5): tf.Tensor {
  expectWidth('layerNorm', x, p.weight);
  if (p.bias) expectShape('layerNorm: bias', p.bias, [lastAxis(x)], 'Pass one bias per feature.');
  return layerNormOp({ x, weight: p.weight, bias: p.bias }, { eps })[0]!;
}

/** Checks that the weight of a norm is as wide as its input. */
export function expectWidth(what: string, x: tf.Tensor, weight: tf.Tensor1D): void {
  if (lastAxis(x) !== weight.shape[0]) {
    throw new Error(
      `${what}: x must be [..., ${weight.shape[0]}] to fit the weight, got [${x.shape.join(', ')}]. ` +
        'Check the width that the layer was created with.',
    );
  }
}
