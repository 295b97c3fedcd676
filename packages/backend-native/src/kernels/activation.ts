import type { NativeBackend, NativeKernel } from '../native-backend';
import type { Eltwise, OneDnn, PostOp } from '../onednn';
import { sizeOf } from '../pooled-backend';
import { eltwise, eltwiseBackward, positive } from './eltwise';

/** What an activation is to oneDNN: its function, that function's parameter, and a factor on the result. */
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

/** The activation as what is done to a product before it is stored; nothing if oneDNN cannot do it there. */
export function asPostOps(kind: string): PostOp[] | undefined {
  const { alg, alpha, scale, positive: shape } = known(kind);
  if (shape) return undefined;
  return [
    { kind: 'eltwise', alg, alpha },
    ...(scale ? [{ kind: 'eltwise', alg: 'linear', alpha: scale } as const] : []),
  ];
}

/** y = activation(x), over addresses. */
export function activateInto(b: NativeBackend, kind: string, x: number, y: number, n: number): void {
  const { alg, alpha, scale, positive: shape } = known(kind);
  if (shape === 'squared') positive(b, x, y, n, [{ kind: 'eltwise', alg: 'square' }]);
  else if (shape) positive(b, x, y, n, scale ? [{ kind: 'eltwise', alg: 'linear', alpha: scale }] : []);
  else if (scale) {
    // As what ends a product, with 1: one pass over the data instead of two.
    const [all, one] = [{ dims: [n] }, { dims: [1] }];
    const make = (dnn: OneDnn) => dnn.binary('mul', all, one, all, asPostOps(kind));
    b.compiled(`activation ${kind} ${n}`, make).run(x, b.ones(1), y);
  } else eltwise(b, alg, x, y, n, alpha);
}

/** dx = dy activation'(x), over addresses; dx must not be x. */
export function activationGradientInto(
  b: NativeBackend,
  kind: string,
  x: number,
  dy: number,
  dx: number,
  n: number,
): void {
  const { alg, alpha, scale, positive: shape } = known(kind);
  if (shape === 'squared') {
    const doubled: PostOp = { kind: 'eltwise', alg: 'linear', alpha: 2 };
    positive(b, x, dx, n, [doubled, { kind: 'binary', alg: 'mul', other: { dims: [n] } }], dy);
    return;
  }
  eltwiseBackward(b, alg, x, dy, dx, n, alpha);
  if (scale) eltwise(b, 'linear', dx, dx, n, scale);
}

const activation: NativeKernel = ({ x }, attrs, backend) => {
  const y = backend.output(x!.shape);
  const n = sizeOf(x!.shape);
  if (n) activateInto(backend, attrs['kind'] as string, backend.address(x!), backend.address(y), n);
  return [y];
};

const activationGradient: NativeKernel = ({ dy, x }, attrs, b) => {
  const dx = b.output(x!.shape);
  const n = sizeOf(x!.shape);
  if (n) activationGradientInto(b, attrs['kind'] as string, b.address(x!), b.address(dy!), b.address(dx), n);
  return [dx];
};

export const activationKernels: Record<string, NativeKernel> = {
  FlamingoActivation: activation,
  FlamingoActivationGrad: activationGradient,
};
