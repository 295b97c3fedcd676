import * as tf from '@tensorflow/tfjs-core';
import { checkValue, rule } from './check-config';
import { conv2d } from './conv2d';
import { fusedOp } from './fused-op';
import { expectShape } from './shape';

/** How `standardizeWeight` scales. */
export interface StandardizeOptions {
  /**
   * `timm`: (w - mean) / sqrt(var + eps) * gain * gamma / sqrt(fanIn);
   * `deepmind`: (w - mean) * gain * gamma / sqrt(max(var * fanIn, eps)).
   */
  readonly standardization: 'timm' | 'deepmind';
  readonly eps: number;
  /** Gain of the preceding activation, if the activation itself does not include it. Default 1. */
  readonly gamma?: number;
}

/** How `weightStandardizedConv2d` standardizes and convolves. */
export interface WeightStandardizedConv2dOptions extends StandardizeOptions {
  readonly stride: 1 | 2;
  readonly groups?: number;
  readonly padding: 'same' | 'symmetric';
}

/** Parameters of a weight-standardized convolution. */
export interface WeightStandardizedConv2dParams {
  /** `[out, in / groups, kernelHeight, kernelWidth]`, as trained: standardized at each use */
  readonly weight: tf.Tensor;
  /** `[out]` */
  readonly gain: tf.Tensor1D;
  /** `[out]` */
  readonly bias?: tf.Tensor1D;
}

const STANDARDISATION = rule.oneOf(['timm', 'deepmind']);
const EPS = rule.number({ min: 0 });

type StandardizeAttrs = Required<StandardizeOptions>;

/**
 * Centered rows `[out, fanIn]`, the factor of each row without its gain `[out, 1]`, and 1 for each row whose factor depends on
 * the variance, 0 where `eps` replaces it.
 */
function rowStatistics(weight: tf.Tensor, { standardization, eps, gamma }: StandardizeAttrs) {
  const out = weight.shape[0]!;
  const fanIn = weight.size / out;
  const rows = tf.reshape(weight, [out, fanIn]);
  const centered = tf.sub(rows, tf.mean(rows, 1, true));
  const variance = tf.mean(tf.square(centered), 1, true);
  if (standardization === 'timm') {
    const scale = tf.mul(tf.rsqrt(tf.add(variance, eps)), gamma / Math.sqrt(fanIn));
    return { centered, fanIn, scale, follows: tf.onesLike(scale) };
  }
  const spread = tf.mul(variance, fanIn);
  const follows = tf.step(tf.sub(spread, eps));
  // max(spread, eps), in operations that broadcast on every backend
  const floored = tf.add(tf.mul(spread, follows), tf.mul(tf.sub(1, follows), eps));
  return { centered, fanIn, scale: tf.mul(tf.rsqrt(floored), gamma), follows };
}

/** `{weight [out, ...], gain [out]}` -> `[standardized [out, ...]]` */
const standardizeOp = fusedOp<StandardizeAttrs>({
  name: 'FlamingoStandardizeWeight',
  forward: ({ weight, gain }, attrs) => {
    const { centered, scale } = rowStatistics(weight!, attrs);
    return [tf.reshape(tf.mul(centered, tf.mul(scale, tf.reshape(gain!, scale.shape))), weight!.shape)];
  },
  saveInputs: ['weight', 'gain'],
  gradient: ([dy], { weight, gain }, attrs) => {
    const [dweight, dgain] = standardizeGradOp({ dy, weight, gain }, attrs);
    return { weight: () => dweight!, gain: () => dgain! };
  },
});

/** `{dy [out, ...], weight, gain}` -> `[dweight, dgain]` */
const standardizeGradOp = fusedOp<StandardizeAttrs>({
  name: 'FlamingoStandardizeWeightGrad',
  forward: ({ dy, weight, gain }, attrs) => {
    const { centered, fanIn, scale, follows } = rowStatistics(weight!, attrs);
    const g = tf.reshape(dy!, centered.shape);
    const along = tf.sum(tf.mul(g, centered), 1, true); //                                             [out, 1]
    // d scale / d w = -scale^3 / k centered / fanIn, where scale = sqrt(k / (var + eps)): k = gamma^2 / fanIn for both
    const k = attrs.gamma ** 2 / fanIn;
    const bend = tf.mul(tf.mul(tf.square(scale), along), tf.mul(follows, 1 / (k * fanIn)));
    const free = tf.sub(tf.sub(g, tf.mean(g, 1, true)), tf.mul(centered, bend));
    const dweight = tf.mul(free, tf.mul(scale, tf.reshape(gain!, scale.shape)));
    return [tf.reshape(dweight, weight!.shape), tf.reshape(tf.mul(along, scale), gain!.shape)];
  },
});

/**
 * Scales kernels to mean 0 and a fixed variance per output channel, times a learned gain (Brock et al. 2021).
 * A frozen network needs this only once, not at each step.
 *
 * @param weight float32 `[out, in / groups, kernelHeight, kernelWidth]`
 * @param gain   float32 `[out]`
 * @returns      float32 like weight
 */
export function standardizeWeight(weight: tf.Tensor, gain: tf.Tensor, o: StandardizeOptions): tf.Tensor {
  expectShape('standardizeWeight: gain', gain, [weight.shape[0]!], 'Pass one gain per output channel.');
  const { standardization, eps, gamma = 1 } = o;
  checkValue('standardizeWeight', 'standardization', standardization, STANDARDISATION);
  checkValue('standardizeWeight', 'eps', eps, EPS);
  return standardizeOp({ weight, gain }, { standardization, eps, gamma })[0]!;
}

/**
 * Convolution with standardized kernels: `conv2d` with the result of `standardizeWeight`.
 *
 * @param x float32 `[batch, height, width, in]`
 * @returns float32 `[batch, height', width', out]`
 */
export function weightStandardizedConv2d(
  x: tf.Tensor,
  p: WeightStandardizedConv2dParams,
  o: WeightStandardizedConv2dOptions,
): tf.Tensor4D {
  const { stride, groups, padding } = o;
  const convOptions = { stride, padding, ...(groups !== undefined && { groups }) };
  return tf.tidy(() => conv2d(x, { weight: standardizeWeight(p.weight, p.gain, o), bias: p.bias }, convOptions));
}
