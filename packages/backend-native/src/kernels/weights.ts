import type { OneDnnBackend, NativeKernel } from '../onednn/onednn-backend';
import type { Layout } from '../onednn/layout';
import type { Binary, PostOp } from '../onednn/operations';
import { FEW } from './binary';

interface AdamWAttrs {
  readonly learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
  readonly step: number;
  readonly gradientScale: number;
}

/** `{p, g, m, v}` -> `[p', m', v']`, or nothing if all three were written in place. */
const adamWStep: NativeKernel = ({ p, g, m, v }, attrs, backend) => {
  const {
    learningRate,
    beta1,
    beta2,
    epsilon,
    weightDecay,
    step,
    gradientScale: scale,
  } = attrs as unknown as AdamWAttrs;
  const own = [p!, m!, v!];
  const inPlace = own.every((x) => backend.isWritable(x));
  const out = inPlace ? own : own.map((x) => backend.copy(x));
  out.forEach((x) => backend.changed(x));
  const rate = learningRate / (1 - beta1 ** step);
  const correction = 1 / Math.sqrt(1 - beta2 ** step);
  const keep = 1 - learningRate * weightDecay;
  const numbers = { beta1, beta2, rate, correction, epsilon, keep, scale };
  const [w, mean, square] = out.map((x) => backend.values(x)) as Float32Array[];
  const run = w!.length < FEW ? adamInLoop : adamByOneDnn;
  run(w!, backend.values(g!), mean!, square!, numbers, backend);
  return inPlace ? [] : out;
};

interface AdamNumbers {
  readonly beta1: number;
  readonly beta2: number;
  /** Learning rate, corrected for the first moment's start from zero. */
  readonly rate: number;
  /** The same correction, as a factor on the root of the second moment. */
  readonly correction: number;
  readonly epsilon: number;
  readonly keep: number;
  /** Factor on the gradient. */
  readonly scale: number;
}

type Adam = (
  w: Float32Array,
  g: Float32Array,
  m: Float32Array,
  v: Float32Array,
  numbers: AdamNumbers,
  backend: OneDnnBackend,
) => void;

const adamInLoop: Adam = (w, g, m, v, { beta1, beta2, rate, correction, epsilon, keep, scale }) => {
  for (let i = 0; i < w.length; i++) {
    const d = scale * g[i]!;
    const mi = beta1 * m[i]! + (1 - beta1) * d;
    const vi = beta2 * v[i]! + (1 - beta2) * d * d;
    m[i] = mi;
    v[i] = vi;
    w[i] = keep * w[i]! - (rate * mi) / (Math.sqrt(vi) * correction + epsilon);
  }
};

/** Elements per stretch: all passes process one stretch before the next, so that it stays in the processor's caches. */
const ADAM_STRETCH = 1 << 18;

/** Five passes over each stretch. What changes from step to step is passed as data, so that nothing is recompiled. */
const adamByOneDnn: Adam = (w, g, m, v, { beta1, beta2, rate, correction, epsilon, keep, scale }, backend) => {
  const { pool } = backend;
  const scratch = pool.allocate(Math.min(ADAM_STRETCH, w.length));
  // All scalar operands, in cache lines of their own.
  const scalars = pool.allocate(64);
  scalars.set([(1 - beta1) * scale, (1 - beta2) * scale * scale, 1, correction, epsilon, -rate, keep]);
  const [first, second, unit, root, eps, pace, decay] = [0, 1, 2, 3, 4, 5, 6].map(
    (i) => pool.address(scalars) + 4 * i,
  ) as number[];
  const [aw, ag, am, av, as] = [w, g, m, v, scratch].map((x) => pool.address(x!)) as number[];
  const one: Layout = { dims: [1] };
  const by = (alg: Binary): PostOp => ({ kind: 'binary', alg, other: one });
  const passesOver = (n: number) => {
    const all: Layout = { dims: [n] };
    const pass = (name: string, alg: Binary, other: Layout, post: PostOp[]) =>
      backend.compiled(`adam ${name} ${n}`, (dnn) => dnn.binary(alg, all, other, all, post));
    return {
      mean: pass(`m ${beta1}`, 'mul', one, [{ kind: 'sum', scale: beta1 }]),
      square: pass(`v ${beta2}`, 'mul', all, [by('mul'), { kind: 'sum', scale: beta2 }]),
      rooted: pass('root', 'mul', one, [{ kind: 'eltwise', alg: 'sqrt' }, by('mul'), by('add')]),
      paced: pass('pace', 'div', all, [by('mul')]),
      stepped: pass('step', 'mul', one, [{ kind: 'binary', alg: 'add', other: all }]),
    };
  };
  const stretch = (from: number, { mean, square, rooted, paced, stepped }: ReturnType<typeof passesOver>) => {
    const [pw, pg, pm, pv] = [aw!, ag!, am!, av!].map((address) => address + 4 * from) as number[];
    mean.run(pg!, first!, pm!);
    square.run(pg!, pg!, pv!, second!);
    rooted.run(pv!, unit!, as!, root!, eps!);
    paced.run(pm!, as!, as!, pace!);
    stepped.run(pw!, decay!, pw!, as!);
  };
  const rest = w.length % ADAM_STRETCH;
  if (w.length >= ADAM_STRETCH) {
    const passes = passesOver(ADAM_STRETCH);
    for (let from = 0; from + ADAM_STRETCH <= w.length; from += ADAM_STRETCH) stretch(from, passes);
  }
  if (rest) stretch(w.length - rest, passesOver(rest));
  pool.release(scratch);
  pool.release(scalars);
};

interface StandardizeAttrs {
  readonly standardization: 'timm' | 'deepmind';
  readonly eps: number;
  readonly gamma: number;
}

/** The factor on a mean-free kernel, without gain, and whether that factor follows the variance. */
function factorOf(squares: number, fanIn: number, { standardization, eps, gamma }: StandardizeAttrs) {
  if (standardization === 'timm') return { scale: gamma / Math.sqrt(squares + fanIn * eps), follows: true };
  return { scale: gamma / Math.sqrt(Math.max(squares, eps)), follows: squares > eps };
}

/** `{weight [out, ...], gain [out]}` -> `[standardized]` */
const standardize: NativeKernel = ({ weight, gain }, attrs, backend) => {
  const y = backend.output(weight!.shape);
  const [w, g, out] = [backend.values(weight!), backend.values(gain!), backend.values(y)];
  const fanIn = w.length / g.length;
  for (let r = 0; r < g.length; r++) {
    const [start, end] = [r * fanIn, (r + 1) * fanIn];
    // One pass for both moments: float64 has enough digits for the difference below.
    let [sum, squares] = [0, 0];
    for (let i = start; i < end; i++) {
      const v = w[i]!;
      sum += v;
      squares += v * v;
    }
    const mean = sum / fanIn;
    const { scale } = factorOf(Math.max(0, squares - sum * mean), fanIn, attrs as unknown as StandardizeAttrs);
    const factor = scale * g[r]!;
    for (let i = start; i < end; i++) out[i] = (w[i]! - mean) * factor;
  }
  return [y];
};

/** `{dy, weight, gain}` -> `[dweight, dgain]` */
const standardizeGradient: NativeKernel = ({ dy, weight, gain }, given, backend) => {
  const attrs = given as unknown as StandardizeAttrs;
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
    const center = dsum / fanIn - mean * bend;
    for (let i = start; i < end; i++) out[i] = factor * (d[i]! - w[i]! * bend - center);
    outGain[r] = along * scale;
  }
  return [dweight, dgain];
};

export const weightKernels: Record<string, NativeKernel> = {
  FlamingoAdamWStep: adamWStep,
  FlamingoStandardizeWeight: standardize,
  FlamingoStandardizeWeightGrad: standardizeGradient,
};
