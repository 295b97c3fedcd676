import * as tf from '@tensorflow/tfjs-core';
import { checkValue, rule } from './check-config';
import { conv2d } from './conv2d';
import { fusedOp } from './fused-op';
import { expectShape } from './shape';

/** How `standardiseWeight` scales. */
export interface StandardiseOptions {
  /**
   * `timm`: (w - mean) / sqrt(var + eps) * gain * gamma / sqrt(fanIn);
   * `deepmind`: (w - mean) * gain * gamma / sqrt(max(var * fanIn, eps)).
   */
  readonly standardisation: 'timm' | 'deepmind';
  readonly eps: number;
  /** Gain of the preceding activation, if the activation itself does not include it. Default 1. */
  readonly gamma?: number;
}

/** How `weightStandardisedConv2d` standardises and convolves. */
export interface WeightStandardisedConv2dOptions extends StandardiseOptions {
  readonly stride: 1 | 2;
  readonly groups?: number;
  readonly padding: 'same' | 'symmetric';
}

/** Parameters of a weight-standardised convolution. */
export interface WeightStandardisedConv2dParams {
  /** `[out, in / groups, kernelHeight, kernelWidth]`, as trained: standardised at each use */
  readonly weight: tf.Tensor;
  /** `[out]` */
  readonly gain: tf.Tensor1D;
  /** `[out]` */
  readonly bias?: tf.Tensor1D;
}

const STANDARDISATION = rule.oneOf(['timm', 'deepmind']);
const EPS = rule.number({ min: 0 });

type StandardiseAttrs = Required<StandardiseOptions>;

/**
 * Centred rows `[out, fanIn]`, the factor of each row without its gain `[out, 1]`, and 1 for each row whose factor depends on
 * the variance, 0 where `eps` replaces it.
 */
function rowStatistics(weight: tf.Tensor, { standardisation, eps, gamma }: StandardiseAttrs) {
  const out = weight.shape[0]!;
  const fanIn = weight.size / out;
  const rows = tf.reshape(weight, [out, fanIn]);
  const centred = tf.sub(rows, tf.mean(rows, 1, true));
  const variance = tf.mean(tf.square(centred), 1, true);
  if (standardisation === 'timm') {
    const scale = tf.mul(tf.rsqrt(tf.add(variance, eps)), gamma / Math.sqrt(fanIn));
    return { centred, fanIn, scale, follows: tf.onesLike(scale) };
  }
  const spread = tf.mul(variance, fanIn);
  const follows = tf.step(tf.sub(spread, eps));
  // max(spread, eps), in operations that broadcast on every backend
  const floored = tf.add(tf.mul(spread, follows), tf.mul(tf.sub(1, follows), eps));
  return { centred, fanIn, scale: tf.mul(tf.rsqrt(floored), gamma), follows };
}

/** `{weight [out, ...], gain [out]}` -> `[standardised [out, ...]]` */
const standardiseOp = fusedOp<StandardiseAttrs>({
  name: 'FlamingoStandardiseWeight',
  forward: ({ weight, gain }, attrs) => {
    const { centred, scale } = rowStatistics(weight!, attrs);
    return [tf.reshape(tf.mul(centred, tf.mul(scale, tf.reshape(gain!, scale.shape))), weight!.shape)];
  },
  saveInputs: ['weight', 'gain'],
  gradient: ([dy], { weight, gain }, attrs) => {
    const [dweight, dgain] = standardiseGradOp({ dy, weight, gain }, attrs);
    return { weight: () => dweight!, gain: () => dgain! };
  },
});

/** `{dy [out, ...], weight, gain}` -> `[dweight, dgain]` */
const standardiseGradOp = fusedOp<StandardiseAttrs>({
  name: 'FlamingoStandardiseWeightGrad',
  forward: ({ dy, weight, gain }, attrs) => {
    const { centred, fanIn, scale, follows } = rowStatistics(weight!, attrs);
    const g = tf.reshape(dy!, centred.shape);
    const along = tf.sum(tf.mul(g, centred), 1, true); //                                             [out, 1]
    // d scale / d w = -scale^3 / k centred / fanIn, where scale = sqrt(k / (var + eps)): k = gamma^2 / fanIn for both
    const k = attrs.gamma ** 2 / fanIn;
    const bend = tf.mul(tf.mul(tf.square(scale), along), tf.mul(follows, 1 / (k * fanIn)));
    const free = tf.sub(tf.sub(g, tf.mean(g, 1, true)), tf.mul(centred, bend));
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
export function standardiseWeight(weight: tf.Tensor, gain: tf.Tensor, o: StandardiseOptions): tf.Tensor {
  expectShape('standardiseWeight: gain', gain, [weight.shape[0]!], 'Give one gain per output channel.');
  const { standardisation, eps, gamma = 1 } = o;
  checkValue('standardiseWeight', 'standardisation', standardisation, STANDARDISATION);
  checkValue('standardiseWeight', 'eps', eps, EPS);
  return standardiseOp({ weight, gain }, { standardisation, eps, gamma })[0]!;
}

/**
 * Convolution with standardised kernels: `conv2d` with the result of `standardiseWeight`.
 *
 * @param x float32 `[batch, height, width, in]`
 * @returns float32 `[batch, height', width', out]`
 */
export function weightStandardisedConv2d(
  x: tf.Tensor,
  p: WeightStandardisedConv2dParams,
  o: WeightStandardisedConv2dOptions,
): tf.Tensor4D {
  const { stride, groups, padding } = o;
  const convOptions = { stride, padding, ...(groups !== undefined && { groups }) };
  return tf.tidy(() => conv2d(x, { weight: standardiseWeight(p.weight, p.gain, o), bias: p.bias }, convOptions));
}
