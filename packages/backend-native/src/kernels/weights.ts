import type * as tf from '@tensorflow/tfjs-core';
import type { NativeKernel } from '../native-backend';
import { sizeOf } from '../pooled-backend';

interface AdamWAttrs {
  readonly learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
  readonly step: number;
}

/**
 * `{p, g, m, v}` -> `[p', m', v']`, or nothing when all three could be written in place: they are ours (not an array the
 * user gave) and nobody shares them (a clone would change with them).
 */
const adamWStep: NativeKernel = ({ p, g, m, v }, attrs, backend) => {
  const { learningRate, beta1, beta2, epsilon, weightDecay, step } = attrs as unknown as AdamWAttrs;
  const own = [p!, m!, v!];
  const inPlace = own.every((x) => backend.refCount(x.dataId) === 1 && backend.pool.owns(backend.values(x)));
  const out = inPlace ? own : own.map((x) => backend.output(x.shape));
  const [w, grad, mean, square] = [p!, g!, m!, v!].map((x) => backend.values(x)) as Float32Array[];
  const [toW, toMean, toSquare] = out.map((x) => backend.values(x)) as Float32Array[];
  const rate = learningRate / (1 - beta1 ** step);
  const correction = 1 / Math.sqrt(1 - beta2 ** step);
  const keep = 1 - learningRate * weightDecay;
  for (let i = 0; i < grad!.length; i++) {
    const d = grad![i]!;
    const mi = beta1 * mean![i]! + (1 - beta1) * d;
    const vi = beta2 * square![i]! + (1 - beta2) * d * d;
    toMean![i] = mi;
    toSquare![i] = vi;
    toW![i] = keep * w![i]! - (rate * mi) / (Math.sqrt(vi) * correction + epsilon);
  }
  return inPlace ? [] : out;
};

interface StandardiseAttrs {
  readonly standardisation: 'timm' | 'deepmind';
  readonly eps: number;
  readonly gamma: number;
}

/** Mean of one output channel's kernel, the factor on it without gain, and whether that factor follows the variance. */
function rowStatistics(w: Float32Array, start: number, fanIn: number, attrs: StandardiseAttrs) {
  let sum = 0;
  for (let i = start; i < start + fanIn; i++) sum += w[i]!;
  const mean = sum / fanIn;
  let squares = 0;
  for (let i = start; i < start + fanIn; i++) squares += (w[i]! - mean) ** 2;
  if (attrs.standardisation === 'timm') {
    const scale = attrs.gamma / Math.sqrt(fanIn * (squares / fanIn + attrs.eps));
    return { mean, scale, follows: 1 };
  }
  return { mean, scale: attrs.gamma / Math.sqrt(Math.max(squares, attrs.eps)), follows: squares > attrs.eps ? 1 : 0 };
}

/** `{weight [out, ...], gain [out]}` -> `[standardised]` */
const standardise: NativeKernel = ({ weight, gain }, attrs, backend) => {
  const y = backend.output(weight!.shape);
  const [w, g, out] = [backend.values(weight!), backend.values(gain!), backend.values(y)];
  const fanIn = w.length / g.length;
  for (let r = 0; r < g.length; r++) {
    const { mean, scale } = rowStatistics(w, r * fanIn, fanIn, attrs as unknown as StandardiseAttrs);
    const factor = scale * g[r]!;
    for (let i = r * fanIn; i < (r + 1) * fanIn; i++) out[i] = (w[i]! - mean) * factor;
  }
  return [y];
};

/** `{dy, weight, gain}` -> `[dweight, dgain]` */
const standardiseGradient: NativeKernel = ({ dy, weight, gain }, given, backend) => {
  const attrs = given as unknown as StandardiseAttrs;
  const [dweight, dgain] = [backend.output(weight!.shape), backend.output(gain!.shape)];
  const [d, w, g] = [dy!, weight!, gain!].map((x: tf.TensorInfo) => backend.values(x)) as Float32Array[];
  const [out, outGain] = [backend.values(dweight), backend.values(dgain)];
  const fanIn = sizeOf(weight!.shape) / g!.length;
  for (let r = 0; r < g!.length; r++) {
    const start = r * fanIn;
    const { mean, scale, follows } = rowStatistics(w!, start, fanIn, attrs);
    let [sum, along] = [0, 0];
    for (let i = start; i < start + fanIn; i++) {
      sum += d![i]!;
      along += d![i]! * (w![i]! - mean);
    }
    // d scale / d w = -scale^3 / gamma^2 (w - mean)
    const bend = (follows * along * scale * scale) / attrs.gamma ** 2;
    const factor = scale * g![r]!;
    const centre = sum / fanIn;
    for (let i = start; i < start + fanIn; i++) out[i] = factor * (d![i]! - centre - (w![i]! - mean) * bend);
    outGain[r] = along * scale;
  }
  return [dweight, dgain];
};

export const weightKernels: Record<string, NativeKernel> = {
  FlamingoAdamWStep: adamWStep,
  FlamingoStandardiseWeight: standardise,
  FlamingoStandardiseWeightGrad: standardiseGradient,
};
