import * as tf from '@tensorflow/tfjs-core';
import type { NativeBackend, NativeKernel } from '../native-backend';
import type { Eltwise, Layout, PostOp } from '../onednn';
import { plainFloats, sizeOf } from '../pooled-backend';
import { FEW } from './binary';

type Loop = (x: Float32Array, y: Float32Array, n: number) => void;

/** y = f(x) by oneDNN, over the whole of both. */
export function eltwise(b: NativeBackend, alg: Eltwise, x: number, y: number, all: Layout, alpha = 0, beta = 0): void {
  const key = `eltwise ${alg} ${all.dims.join()} ${all.type} ${alpha} ${beta}`;
  b.compiled(key, (dnn) => dnn.eltwise(alg, all, alpha, beta)).run(x, y);
}

/** dx = dy f'(x) by oneDNN. */
export function eltwiseBackward(
  b: NativeBackend,
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
 * max(0, x), then `post` with its operands, by oneDNN. Its own relu turns NaN into 0; its maximum hands on a NaN that comes as
 * the second operand.
 */
export function positive(
  b: NativeBackend,
  x: number,
  y: number,
  all: Layout,
  post: readonly PostOp[] = [],
  ...operands: number[]
): void {
  const key = `positive ${all.dims.join()} ${all.type} ${JSON.stringify(post)}`;
  b.compiled(key, (dnn) => dnn.binary('max', all, all, all, post)).run(b.zeros(sizeOf(all.dims)), x, y, ...operands);
}

/** Larger inputs go to oneDNN, smaller ones to a loop, which costs nothing to start. */
const unary =
  (native: (b: NativeBackend, x: number, y: number, all: Layout) => void, loop?: Loop): NativeKernel =>
  ({ x }, _attrs, backend) => {
    if (!plainFloats(x)) return undefined;
    const n = sizeOf(x!.shape);
    if (n < FEW && !loop) return undefined;
    const y = backend.output(x!.shape);
    if (n < FEW) loop!(backend.values(x!), backend.values(y), n);
    else native(backend, backend.address(x!), backend.address(y), { dims: [n] });
    return y;
  };

const byOneDnn =
  (alg: Eltwise, alpha = 0, beta = 0) =>
  (b: NativeBackend, x: number, y: number, all: Layout) =>
    eltwise(b, alg, x, y, all, alpha, beta);

/** oneDNN's exp turns NaN into infinity; since e^x > x, a maximum with x changes nothing but to hand on the NaN. */
function exp(b: NativeBackend, x: number, y: number, all: Layout): void {
  eltwise(b, 'exp', x, y, all);
  b.compiled(`max ${all.dims.join()}`, (dnn) => dnn.binary('max', all, all, all)).run(y, x, y);
}

const looped =
  (loop: Loop): NativeKernel =>
  ({ x }, _attrs, backend) => {
    if (!plainFloats(x)) return undefined;
    const y = backend.output(x!.shape);
    loop(backend.values(x!), backend.values(y), sizeOf(x!.shape));
    return y;
  };

/** Error function by a rational approximation (Abramowitz and Stegun 7.1.26), as tfjs has it; absolute error below 1.5e-7. */
const erf: Loop = (x, y, n) => {
  const { ERF_P, ERF_A1, ERF_A2, ERF_A3, ERF_A4, ERF_A5 } = tf.backend_util;
  for (let i = 0; i < n; i++) {
    const v = Math.abs(x[i]!);
    const t = 1 / (1 + ERF_P * v);
    const tail = ((((ERF_A5 * t + ERF_A4) * t + ERF_A3) * t + ERF_A2) * t + ERF_A1) * t;
    y[i] = Math.sign(x[i]!) * (1 - tail * Math.exp(-v * v));
  }
};

/** A NaN gives itself: it is neither above 0 nor not. */
const step: NativeKernel = ({ x }, attrs, backend) => {
  const alpha = (attrs['alpha'] as number | undefined) ?? 0;
  return looped((from, to, n) => {
    for (let i = 0; i < n; i++) to[i] = from[i]! > 0 ? 1 : from[i]! <= 0 ? alpha : NaN;
  })({ x: x! }, attrs, backend);
};

export const eltwiseKernels: Record<string, NativeKernel> = {
  [tf.Relu]: unary(positive, (x, y, n) => {
    for (let i = 0; i < n; i++) y[i] = Math.max(0, x[i]!);
  }),
  [tf.Abs]: unary(byOneDnn('abs'), (x, y, n) => {
    for (let i = 0; i < n; i++) y[i] = Math.abs(x[i]!);
  }),
  [tf.Neg]: unary(byOneDnn('linear', -1), (x, y, n) => {
    for (let i = 0; i < n; i++) y[i] = -x[i]!;
  }),
  [tf.Square]: unary(byOneDnn('square'), (x, y, n) => {
    for (let i = 0; i < n; i++) y[i] = x[i]! * x[i]!;
  }),
  [tf.Sqrt]: unary(byOneDnn('sqrt'), (x, y, n) => {
    for (let i = 0; i < n; i++) y[i] = Math.sqrt(x[i]!);
  }),
  [tf.Exp]: unary(exp, (x, y, n) => {
    for (let i = 0; i < n; i++) y[i] = Math.exp(x[i]!);
  }),
  [tf.Log]: unary(byOneDnn('log'), (x, y, n) => {
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
