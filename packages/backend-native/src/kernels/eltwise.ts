import * as tf from '@tensorflow/tfjs-core';
import type { OneDnnBackend, NativeKernel } from '../onednn/onednn-backend';
import type { Layout } from '../onednn/layout';
import type { Eltwise, PostOp } from '../onednn/operations';
import { plainFloats, sizeOf } from '../shared/pooled-backend';
import { FEW } from './binary';

type Loop = (x: Float32Array, y: Float32Array, n: number) => void;

/** y = f(x) by oneDNN, over the whole of both. */
export function eltwise(b: OneDnnBackend, alg: Eltwise, x: number, y: number, all: Layout, alpha = 0, beta = 0): void {
  const key = `eltwise ${alg} ${all.dims.join()} ${all.type} ${alpha} ${beta}`;
  b.compiled(key, (dnn) => dnn.eltwise(alg, all, alpha, beta)).run(x, y);
}

/** dx = dy f'(x) by oneDNN. */
export function eltwiseBackward(
  b: OneDnnBackend,
  alg: Eltwise,
  x: number,
  dy: number,
  dx: number,
  all: Layout,
  alpha = 0,
): void {
  const key = `eltwise' ${alg} ${all.dims.join()} ${all.type} ${alpha}`;
  b.compiled(key, (dnn) => dnn.eltwiseBackward(alg, all, alpha)).run(x, dy, dx);
}

/**
 * max(0, x), then `post` with its operands, by oneDNN. Its own relu turns NaN into 0; its maximum returns a NaN that is the
 * second operand, and -0 too, which an addition of 0 turns into 0.
 */
export function positive(
  b: OneDnnBackend,
  x: number,
  y: number,
  all: Layout,
  post: readonly PostOp[] = [{ kind: 'eltwise', alg: 'linear', alpha: 1 }],
  ...operands: number[]
): void {
  const key = `positive ${all.dims.join()} ${all.type} ${JSON.stringify(post)}`;
  b.compiled(key, (dnn) => dnn.binary('max', all, all, all, post)).run(b.zeros(sizeOf(all.dims)), x, y, ...operands);
}

/** Computes larger inputs with oneDNN and smaller ones with a loop, which costs nothing to start. */
const unary =
  (native: (b: OneDnnBackend, x: tf.TensorInfo, y: tf.TensorInfo, all: Layout) => void, loop: Loop): NativeKernel =>
  ({ x }, _attrs, backend) => {
    if (!plainFloats(x)) return undefined;
    const n = sizeOf(x!.shape);
    const y = backend.output(x!.shape);
    if (n < FEW) loop(backend.values(x!), backend.values(y), n);
    else native(backend, x!, y, { dims: [n] });
    return y;
  };

/** For functions over addresses. */
const onAddresses =
  (native: (b: OneDnnBackend, x: number, y: number, all: Layout) => void) =>
  (b: OneDnnBackend, x: tf.TensorInfo, y: tf.TensorInfo, all: Layout) =>
    native(b, b.address(x), b.address(y), all);

const byOneDnn = (alg: Eltwise) => onAddresses((b, x, y, all) => eltwise(b, alg, x, y, all));

/** oneDNN's exp turns NaN into infinity; since e^x > x, a maximum with x only restores the NaN. */
function exp(b: OneDnnBackend, x: number, y: number, all: Layout): void {
  eltwise(b, 'exp', x, y, all);
  b.compiled(`max ${all.dims.join()}`, (dnn) => dnn.binary('max', all, all, all)).run(y, x, y);
}

/** -x as a product, which keeps the sign of 0: oneDNN's linear function adds 0. */
function neg(b: OneDnnBackend, x: number, y: number, all: Layout): void {
  b.compiled(`neg ${all.dims.join()}`, (dnn) => dnn.binary('mul', all, { dims: [1] }, all)).run(x, b.minusOne(), y);
}

/** The smallest float32 with full precision. */
const SMALLEST_NORMAL = 2 ** -126;

/** oneDNN's logarithm is wrong for smaller numbers, and has few digits around its zero. */
function log(b: OneDnnBackend, x: tf.TensorInfo, y: tf.TensorInfo, all: Layout): void {
  eltwise(b, 'log', b.address(x), b.address(y), all);
  const [from, to] = [b.values(x), b.values(y)];
  for (let i = 0; i < from.length; i++) {
    const v = from[i]!;
    if (v < SMALLEST_NORMAL || (v > 0.8 && v < 1.25)) to[i] = Math.log(v);
  }
}

const looped =
  (loop: Loop): NativeKernel =>
  ({ x }, _attrs, backend) => {
    if (!plainFloats(x)) return undefined;
    const y = backend.output(x!.shape);
    loop(backend.values(x!), backend.values(y), sizeOf(x!.shape));
    return y;
  };

/** Error function by a rational approximation (Abramowitz and Stegun 7.1.26), as in tfjs; absolute error below 1.5e-7. */
const erf: Loop = (x, y, n) => {
  const { ERF_P, ERF_A1, ERF_A2, ERF_A3, ERF_A4, ERF_A5 } = tf.backend_util;
  for (let i = 0; i < n; i++) {
    const v = Math.abs(x[i]!);
    const t = 1 / (1 + ERF_P * v);
    const tail = ((((ERF_A5 * t + ERF_A4) * t + ERF_A3) * t + ERF_A2) * t + ERF_A1) * t;
    y[i] = Math.sign(x[i]!) * (1 - tail * Math.exp(-v * v));
  }
};

/** NaN gives NaN. */
const step: NativeKernel = ({ x }, attrs, backend) => {
  const alpha = (attrs['alpha'] as number | undefined) ?? 0;
  return looped((from, to, n) => {
    for (let i = 0; i < n; i++) to[i] = from[i]! > 0 ? 1 : from[i]! <= 0 ? alpha : NaN;
  })({ x: x! }, attrs, backend);
};

export const eltwiseKernels: Record<string, NativeKernel> = {
  [tf.Relu]: unary(onAddresses(positive), (x, y, n) => {
    for (let i = 0; i < n; i++) y[i] = Math.max(0, x[i]!);
  }),
  [tf.Abs]: unary(byOneDnn('abs'), (x, y, n) => {
    for (let i = 0; i < n; i++) y[i] = Math.abs(x[i]!);
  }),
  [tf.Neg]: unary(onAddresses(neg), (x, y, n) => {
    for (let i = 0; i < n; i++) y[i] = -x[i]!;
  }),
  [tf.Square]: unary(byOneDnn('square'), (x, y, n) => {
    for (let i = 0; i < n; i++) y[i] = x[i]! * x[i]!;
  }),
  [tf.Sqrt]: unary(byOneDnn('sqrt'), (x, y, n) => {
    for (let i = 0; i < n; i++) y[i] = Math.sqrt(x[i]!);
  }),
  [tf.Exp]: unary(onAddresses(exp), (x, y, n) => {
    for (let i = 0; i < n; i++) y[i] = Math.exp(x[i]!);
  }),
  [tf.Log]: unary(log, (x, y, n) => {
    for (let i = 0; i < n; i++) y[i] = Math.log(x[i]!);
  }),
  [tf.Tanh]: unary(byOneDnn('tanh'), (x, y, n) => {
    for (let i = 0; i < n; i++) y[i] = Math.tanh(x[i]!);
  }),
  [tf.Sigmoid]: unary(byOneDnn('logistic'), (x, y, n) => {
    for (let i = 0; i < n; i++) y[i] = 1 / (1 + Math.exp(-x[i]!));
  }),
  [tf.Rsqrt]: looped((x, y, n) => {
    for (let i = 0; i < n; i++) y[i] = 1 / Math.sqrt(x[i]!);
  }),
  [tf.Reciprocal]: looped((x, y, n) => {
    for (let i = 0; i < n; i++) y[i] = 1 / x[i]!;
  }),
  [tf.Erf]: looped(erf),
  [tf.Step]: step,
};
