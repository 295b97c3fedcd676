import * as tf from '@tensorflow/tfjs-core';
import type { OneDnnBackend, NativeKernel } from '../onednn/onednn-backend';
import { plainFloats, sizeOf } from '../shared/pooled-backend';
import { FEW } from './binary';

/** At most this many rows are added in float32 one after another: longer sums lose digits. */
const LONGEST = 1024;
/** Rows joined side by side before they are added: the product below is fast for wide matrices. */
const SIDE_BY_SIDE = 64;

/** A shape seen as `[outer, reduced, inner]`, if the reduced axes are neighbors. */
function asBlocks(shape: readonly number[], axes: readonly number[]): [number, number, number] | undefined {
  if (!axes.length || axes.some((axis, i) => axis !== axes[0]! + i)) return undefined;
  const first = axes[0]!;
  const after = first + axes.length;
  return [sizeOf(shape.slice(0, first)), sizeOf(shape.slice(first, after)), sizeOf(shape.slice(after))];
}

/**
 * y[c] = sum over r of x[r, c]. oneDNN has no fast sum over columns, but a product with a row of ones computes it. The rows are
 * folded first, many of them side by side, which keeps all threads busy and the float32 sums short; the rest is added in
 * float64.
 */
export function sumColumns(b: OneDnnBackend, x: Float32Array, rows: number, columns: number, y: Float32Array): void {
  const sums = new Float64Array(columns);
  const side = Math.max(SIDE_BY_SIDE, Math.ceil(rows / LONGEST));
  const deep = Math.floor(rows / side);
  if (deep < 2 || rows * columns < FEW) addRows(x, 0, rows, columns, sums);
  else {
    const width = side * columns;
    const partial = b.pool.allocate(width);
    const [from, to] = [b.pool.address(x), b.pool.address(partial)];
    b.dnn.sgemm(false, false, 1, width, deep, b.ones(deep), deep, from, width, 0, to, width);
    addRows(partial, 0, side, columns, sums);
    addRows(x, side * deep, rows, columns, sums);
    b.pool.release(partial);
  }
  y.set(sums);
}

/** Adds rows to their sums, four at a time. */
function addRows(x: Float32Array, first: number, end: number, columns: number, sums: Float64Array): void {
  let i = first * columns;
  let r = first;
  for (; r + 4 <= end; r += 4, i += 3 * columns) {
    for (let c = 0; c < columns; c++, i++) {
      sums[c]! += x[i]! + x[i + columns]! + (x[i + 2 * columns]! + x[i + 3 * columns]!);
    }
  }
  for (; r < end; r++) for (let c = 0; c < columns; c++, i++) sums[c]! += x[i]!;
}

/** y[r] = sum over c of x[r, c], scaled. */
export function sumRowsOf(
  b: OneDnnBackend,
  x: Float32Array,
  rows: number,
  columns: number,
  y: Float32Array,
  scale = 1,
) {
  if (rows === 1) sumColumns(b, x, columns, 1, y);
  else if (columns > LONGEST || rows * columns < FEW) sumRowsInLoop(x, rows, columns, y);
  else multiplyByOnes(b, x, rows, columns, y);
  if (scale !== 1) for (let r = 0; r < rows; r++) y[r]! *= scale;
}

/** y[r] = sum over c of x[r, c] in float32 on all threads, which loses digits in long rows. */
export function multiplyByOnes(b: OneDnnBackend, x: Float32Array, rows: number, columns: number, y: Float32Array) {
  const [from, ones, to] = [b.pool.address(x), b.ones(columns), b.pool.address(y)];
  b.dnn.sgemm(false, false, rows, 1, columns, from, columns, ones, 1, 0, to, 1);
}

/** Four independent sums keep the processor busy, and float64 keeps the precision. */
function sumRowsInLoop(x: Float32Array, rows: number, columns: number, y: Float32Array): void {
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
    y[r] = s + t + u + v;
  }
}

/** y[o, c] = sum over r of x[o, r, c], as a product with ones for each o. */
function sumBlocks(
  b: OneDnnBackend,
  x: tf.TensorInfo,
  y: tf.TensorInfo,
  outer: number,
  reduced: number,
  inner: number,
): void {
  b.compiled(`sumBlocks ${outer},${reduced},${inner}`, (dnn) =>
    dnn.matmul({ dims: [1, 1, reduced] }, { dims: [outer, reduced, inner] }, undefined, { dims: [outer, 1, inner] }),
  ).run(b.ones(reduced), b.address(x), b.address(y));
}

function reduce(b: OneDnnBackend, x: tf.TensorInfo, axis: number | number[], keepDims: boolean, mean: boolean) {
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
    sumRowsOf(b, from, outer, reduced, to, mean ? 1 / reduced : 1);
    return y;
  }
  if (outer > 1 && reduced <= LONGEST && sizeOf(x.shape) >= FEW) sumBlocks(b, x, y, outer, reduced, inner);
  else {
    for (let i = 0; i < outer; i++) {
      const block = from.subarray(i * reduced * inner, (i + 1) * reduced * inner);
      sumColumns(b, block, reduced, inner, to.subarray(i * inner, (i + 1) * inner));
    }
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
  for (const x of Object.values(inputs)) total += dot(backend, backend.values(x), backend.values(x));
  const y = backend.output([]);
  backend.values(y)[0] = Math.sqrt(total);
  return [y];
};

/** Products computed at a time: they stay in the processor's cache until they are added. */
const AT_ONCE = 256 * LONGEST;

/** Sum over all elements of x y. */
export function dot(b: OneDnnBackend, x: Float32Array, y: Float32Array): number {
  const whole = x.length - (x.length % LONGEST);
  if (x.length < FEW) return dotInLoop(x, y, 0);
  const [products, sums] = [b.pool.allocate(AT_ONCE), b.pool.allocate(AT_ONCE / LONGEST)];
  const [left, right, to] = [x, y, products].map((values) => b.pool.address(values)) as [number, number, number];
  let total = dotInLoop(x, y, whole);
  for (let i = 0; i < whole; i += AT_ONCE) {
    const n = Math.min(AT_ONCE, whole - i);
    const all = { dims: [n] };
    b.compiled(`mul ${n}`, (dnn) => dnn.binary('mul', all, all, all)).run(left + 4 * i, right + 4 * i, to);
    sumRowsOf(b, products, n / LONGEST, LONGEST, sums);
    for (let r = 0; r < n / LONGEST; r++) total += sums[r]!;
  }
  b.pool.release(products);
  b.pool.release(sums);
  // A product may be too large for float32 where the sum, or its root, is not.
  return Number.isFinite(total) ? total : dotInLoop(x, y, 0);
}

function dotInLoop(x: Float32Array, y: Float32Array, start: number): number {
  let [s, t, u, v] = [0, 0, 0, 0];
  let i = start;
  for (; i + 4 <= x.length; i += 4) {
    s += x[i]! * y[i]!;
    t += x[i + 1]! * y[i + 1]!;
    u += x[i + 2]! * y[i + 2]!;
    v += x[i + 3]! * y[i + 3]!;
  }
  for (; i < x.length; i++) s += x[i]! * y[i]!;
  return s + t + u + v;
}

export const reduceKernels: Record<string, NativeKernel> = {
  [tf.Sum]: reduction(false),
  [tf.Mean]: reduction(true),
  FlamingoSumRows: sumRows,
  FlamingoGlobalNorm: globalNorm,
};
