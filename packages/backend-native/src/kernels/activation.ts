import type * as tf from '@tensorflow/tfjs-core';
import type { OneDnnBackend, NativeKernel } from '../onednn/onednn-backend';
import { BF16, F32 } from '../onednn/layout';
import type { OneDnn } from '../onednn/onednn';
import type { Eltwise, PostOp } from '../onednn/operations';
import { sizeOf } from '../shared/pooled-backend';
import { eltwise, eltwiseBackward, positive } from './eltwise';

/** An activation in oneDNN's terms: its function, that function's parameter, and a factor on the result. */
interface Known {
  readonly alg: Eltwise;
  readonly alpha?: number;
  readonly scale?: number;
  /** relu, squared or not: oneDNN's own loses NaN. */
  readonly positive?: 'plain' | 'squared';
}

/** Factors that keep the variance of normal input (Brock et al. 2021). */
const GELU_GAIN = 1.7015043497085571;
const RELU_GAIN = 1.7139588594436646;

const KNOWN: Record<string, Known> = {
  relu: { alg: 'relu', positive: 'plain' },
  'scaled-relu': { alg: 'relu', positive: 'plain', scale: RELU_GAIN },
  'squared-relu': { alg: 'relu', positive: 'squared' },
  gelu: { alg: 'geluErf' },
  'scaled-gelu': { alg: 'geluErf', scale: GELU_GAIN },
  'gelu-tanh': { alg: 'geluTanh' },
  'scaled-gelu-tanh': { alg: 'geluTanh', scale: GELU_GAIN },
  silu: { alg: 'swish', alpha: 1 },
  'quick-gelu': { alg: 'swish', alpha: 1.702 },
};

function known(kind: string): Known {
  const found = KNOWN[kind];
  if (!found)
    throw new Error(`native backend: unknown activation '${kind}', known are ${Object.keys(KNOWN).join(', ')}.`);
  return found;
}

/** The activation as post-operations of a product; undefined if oneDNN cannot express it that way. */
export function asPostOps(kind: string): PostOp[] | undefined {
  const { alg, alpha, scale, positive: shape } = known(kind);
  if (shape) return undefined;
  return [
    { kind: 'eltwise', alg, alpha },
    ...(scale ? [{ kind: 'eltwise', alg: 'linear', alpha: scale } as const] : []),
  ];
}

/** y = activation(x), over addresses of data of this type. */
export function activateInto(b: OneDnnBackend, kind: string, x: number, y: number, n: number, type = F32): void {
  const { alg, alpha, scale, positive: shape } = known(kind);
  const all = { dims: [n], type };
  if (shape === 'squared') positive(b, x, y, all, [{ kind: 'eltwise', alg: 'square' }]);
  else if (shape) positive(b, x, y, all, [{ kind: 'eltwise', alg: 'linear', alpha: scale ?? 1 }]);
  else if (scale) {
    // As post-operations of a product with 1: one pass over the data instead of two.
    const make = (dnn: OneDnn) => dnn.binary('mul', all, { dims: [1] }, all, asPostOps(kind));
    b.compiled(`activation ${kind} ${n} ${type}`, make).run(x, b.ones(1), y);
  } else eltwise(b, alg, x, y, all, alpha);
}

/** activation(x), in the type of x; overwrites x with `overwrite`. */
export function activated(b: OneDnnBackend, kind: string, x: tf.TensorInfo, overwrite = false): tf.TensorInfo {
  const isBf16 = b.isBfloat16(x);
  const y = overwrite ? x : isBf16 ? b.bfloat16Output(x.shape) : b.output(x.shape);
  const n = sizeOf(x.shape);
  if (isBf16) activateInto(b, kind, b.bfloat16Address(x), b.bfloat16Address(y), n, BF16);
  else if (n) activateInto(b, kind, b.address(x), b.address(y), n);
  return y;
}

const activation: NativeKernel = ({ x }, attrs, b) => [activated(b, attrs['kind'] as string, x!)];

/** `{dy, x}` -> `[dy activation'(x)]`, in the type of x. */
const activationGradient: NativeKernel = ({ dy, x }, attrs, b) => {
  const { alg, alpha, scale, positive: shape } = known(attrs['kind'] as string);
  const n = sizeOf(x!.shape);
  const isBf16 = b.isBfloat16(x!);
  const dx = isBf16 ? b.bfloat16Output(x!.shape) : b.output(x!.shape);
  if (!n) return [dx];
  const [from, by, to] = [x!, dy!, dx].map((each) => (isBf16 ? b.bfloat16Address(each) : b.address(each))) as number[];
  const all = { dims: [n], type: isBf16 ? BF16 : F32 };
  if (shape === 'squared') {
    const doubled: PostOp = { kind: 'eltwise', alg: 'linear', alpha: 2 };
    positive(b, from!, to!, all, [doubled, { kind: 'binary', alg: 'mul', other: all }], by!);
  } else {
    eltwiseBackward(b, alg, from!, by!, to!, all, alpha);
    if (scale) eltwise(b, 'linear', to!, to!, all, scale);
  }
  return [dx];
};

export const activationKernels: Record<string, NativeKernel> = {
  FlamingoActivation: activation,
  FlamingoActivationGrad: activationGradient,
};
