import * as tf from '@tensorflow/tfjs-core';
import type { NativeBackend, NativeKernel } from '../native-backend';
import { plainFloats, sizeOf } from '../pooled-backend';
import { FEW } from './binary';

/** Rows added at a time by one product with ones: longer sums in float32 lose digits. */
const CHUNK = 512;

/** A shape seen as `[outer, reduced, inner]`, if the reduced axes are neighbours. */
function asBlocks(shape: readonly number[], axes: readonly number[]): [number, number, number] | undefined {
  if (!axes.length || axes.some((axis, i) => axis !== axes[0]! + i)) return undefined;
  const first = axes[0]!;
  const after = first + axes.length;
  return [sizeOf(shape.slice(0, first)), sizeOf(shape.slice(first, after)), sizeOf(shape.slice(after))];
}

/**
 * y[c] = sum over r of x[r, c], scaled. oneDNN has no fast sum over columns, but a product with a row of ones is one. Taken
 * in chunks, so that float32 sums stay short, and the chunks' sums are added in the same way.
 */
export function sumColumns(b: NativeBackend, x: Float32Array, rows: number, columns: number, y: Float32Array): void {
  if (rows * columns < FEW) {
    sumColumnsInLoop(x, rows, columns, y);
    return;
  }
  const ones = b.ones(CHUNK);
  const [from, to] = [b.pool.address(x), b.pool.address(y)];
  if (rows <= CHUNK) {
    b.dnn.sgemm(false, false, 1, columns, rows, ones, rows, from, columns, 0, to, columns);
    return;
  }
  const chunks = Math.ceil(rows / CHUNK);
  const partial = b.pool.allocate(chunks * columns);
  const sums = b.pool.address(partial);
  for (let i = 0; i < chunks; i++) {
    const count = Math.min(CHUNK, rows - i * CHUNK);
    const part = from + i * CHUNK * columns * 4;
    b.dnn.sgemm(false, false, 1, columns, count, ones, count, part, columns, 0, sums + i * columns * 4, columns);
  }
  sumColumns(b, partial, chunks, columns, y);
  b.pool.release(partial);
}

function sumColumnsInLoop(x: Float32Array, rows: number, columns: number, y: Float32Array): void {
  const sums = new Float64Array(columns);
  for (let r = 0, i = 0; r < rows; r++) for (let c = 0; c < columns; c++, i++) sums[c]! += x[i]!;
  y.set(sums);
}

/** y[r] = sum over c of x[r, c]: four sums side by side keep the processor busy, float64 keeps the digits. */
export function sumRowsInLoop(x: Float32Array, rows: number, columns: number, y: Float32Array, scale = 1): void {
  const whole = columns - (columns % 4);
  for (let r = 0, i = 0; r < rows; r++) {
    let [s, t, u, v] = [0, 0, 0, 0];
    const end = i + whole;
    for (; i < end; i += 4) {
      s += x[i]!;
      t += x[i + 1]!;
      u += x[i + 2]!;
      v += x[i + 3]!;
    }
    for (const stop = end + columns - whole; i < stop; i++) s += x[i]!;
    y[r] = (s + t + u + v) * scale;
  }
}

/** Sum of everything. */
export function total(x: Float32Array): number {
  let [s, t, u, v] = [0, 0, 0, 0];
  const whole = x.length - (x.length % 4);
  for (let i = 0; i < whole; i += 4) {
    s += x[i]!;
    t += x[i + 1]!;
    u += x[i + 2]!;
    v += x[i + 3]!;
  }
  for (let i = whole; i < x.length; i++) s += x[i]!;
  return s + t + u + v;
}

function reduce(b: NativeBackend, x: tf.TensorInfo, axis: number | number[], keepDims: boolean, mean: boolean) {
  const axes = tf.util.parseAxisParam(axis, x.shape).sort((p, q) => p - q);
  const blocks = asBlocks(x.shape, axes);
  if (!blocks) return undefined;
  const [outer, reduced, inner] = blocks;
  const shape = keepDims
    ? x.shape.map((n, i) => (axes.includes(i) ? 1 : n))
    : x.shape.filter((_, i) => !axes.includes(i));
  const y = b.output(shape);
  const [from, to] = [b.values(x), b.values(y)];
  if (inner === 1) {
    sumRowsInLoop(from, outer, reduced, to, mean ? 1 / reduced : 1);
    return y;
  }
  for (let i = 0; i < outer; i++) {
    const block = outer === 1 ? from : from.subarray(i * reduced * inner, (i + 1) * reduced * inner);
    sumColumns(b, block, reduced, inner, outer === 1 ? to : to.subarray(i * inner, (i + 1) * inner));
  }
  if (mean) for (let i = 0; i < to.length; i++) to[i]! /= reduced;
  return y;
}

const reduction =
  (mean: boolean): NativeKernel =>
  ({ x }, attrs, backend) =>
    plainFloats(x)
      ? reduce(backend, x!, attrs['axis'] as number | number[], Boolean(attrs['keepDims']), mean)
      : undefined;

/** `{x [..., d]}` -> `[d]` */
const sumRows: NativeKernel = ({ x }, _attrs, backend) => {
  const width = x!.shape[x!.shape.length - 1]!;
  const y = backend.output([width]);
  sumColumns(backend, backend.values(x!), sizeOf(x!.shape) / width, width, backend.values(y));
  return [y];
};

/** `{x0, x1, ...}` -> `[root of the sum of all squares]` */
const globalNorm: NativeKernel = (inputs, _attrs, backend) => {
  let total = 0;
  for (const x of Object.values(inputs)) total += sumOfSquares(backend.values(x));
  const y = backend.output([]);
  backend.values(y)[0] = Math.sqrt(total);
  return [y];
};

function sumOfSquares(x: Float32Array): number {
  let [s, t, u, v] = [0, 0, 0, 0];
  const whole = x.length - (x.length % 4);
  for (let i = 0; i < whole; i += 4) {
    s += x[i]! * x[i]!;
    t += x[i + 1]! * x[i + 1]!;
    u += x[i + 2]! * x[i + 2]!;
    v += x[i + 3]! * x[i + 3]!;
  }
  for (let i = whole; i < x.length; i++) s += x[i]! * x[i]!;
  return s + t + u + v;
}

export const reduceKernels: Record<string, NativeKernel> = {
  [tf.Sum]: reduction(false),
  [tf.Mean]: reduction(true),
  FlamingoSumRows: sumRows,
  FlamingoGlobalNorm: globalNorm,
};
