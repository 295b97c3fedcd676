import type { NativeKernel } from '../native-backend';

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

/** The factor on a mean-free kernel, without gain, and whether that factor follows the variance. */
function factorOf(squares: number, fanIn: number, { standardisation, eps, gamma }: StandardiseAttrs) {
  if (standardisation === 'timm') return { scale: gamma / Math.sqrt(squares + fanIn * eps), follows: true };
  return { scale: gamma / Math.sqrt(Math.max(squares, eps)), follows: squares > eps };
}

/** `{weight [out, ...], gain [out]}` -> `[standardised]` */
const standardise: NativeKernel = ({ weight, gain }, attrs, backend) => {
  const y = backend.output(weight!.shape);
  const [w, g, out] = [backend.values(weight!), backend.values(gain!), backend.values(y)];
  const fanIn = w.length / g.length;
  for (let r = 0; r < g.length; r++) {
    const [start, end] = [r * fanIn, (r + 1) * fanIn];
    // One pass for both moments: float64 has digits to spare for the difference below.
    let [sum, squares] = [0, 0];
    for (let i = start; i < end; i++) {
      const v = w[i]!;
      sum += v;
      squares += v * v;
    }
    const mean = sum / fanIn;
    const { scale } = factorOf(Math.max(0, squares - sum * mean), fanIn, attrs as unknown as StandardiseAttrs);
    const factor = scale * g[r]!;
    for (let i = start; i < end; i++) out[i] = (w[i]! - mean) * factor;
  }
  return [y];
};

/** `{dy, weight, gain}` -> `[dweight, dgain]` */
const standardiseGradient: NativeKernel = ({ dy, weight, gain }, given, backend) => {
  const attrs = given as unknown as StandardiseAttrs;
  const [dweight, dgain] = [backend.output(weight!.shape), backend.output(gain!.shape)];
  const [d, w, g] = [backend.values(dy!), backend.values(weight!), backend.values(gain!)];
  const [out, outGain] = [backend.values(dweight), backend.values(dgain)];
  const fanIn = w.length / g.length;
  for (let r = 0; r < g.length; r++) {
    const [start, end] = [r * fanIn, (r + 1) * fanIn];
    let [sum, squares, dsum, products] = [0, 0, 0, 0];
    for (let i = start; i < end; i++) {
      const [v, dv] = [w[i]!, d[i]!];
      sum += v;
      squares += v * v;
      dsum += dv;
      products += v * dv;
    }
    const mean = sum / fanIn;
    const along = products - mean * dsum;
    const { scale, follows } = factorOf(Math.max(0, squares - sum * mean), fanIn, attrs);
    // d scale / d w = -scale^3 / gamma^2 (w - mean)
    const bend = follows ? (along * scale * scale) / (attrs.gamma * attrs.gamma) : 0;
    const factor = scale * g[r]!;
    const centre = dsum / fanIn - mean * bend;
    for (let i = start; i < end; i++) out[i] = factor * (d[i]! - w[i]! * bend - centre);
    outGain[r] = along * scale;
  }
  return [dweight, dgain];
};

export const weightKernels: Record<string, NativeKernel> = {
  FlamingoAdamWStep: adamWStep,
  FlamingoStandardiseWeight: standardise,
  FlamingoStandardiseWeightGrad: standardiseGradient,
};
