import * as tf from '@tensorflow/tfjs-core';
import type { OneDnnBackend, NativeKernel } from '../onednn/onednn-backend';
import type { SoftmaxKind } from '../onednn/operations';
import { plainFloats, sizeOf } from '../shared/pooled-backend';
import { FEW } from './binary';
import { multiplyByOnes, sumRowsOf } from './reduce';

/**
 * Softmax or its logarithm over each of `rows` runs of `width`; x and y may be the same. Rows with a NaN or an infinite maximum
 * are NaN, as on tfjs' CPU backend; oneDNN loses them, so they are found first.
 */
export function softmaxRows(
  b: OneDnnBackend,
  kind: SoftmaxKind,
  x: Float32Array,
  y: Float32Array,
  rows: number,
  width: number,
): void {
  const sums = b.pool.allocate(rows);
  // Only whether a sum is finite matters, not its digits.
  const sum = rows * width < FEW ? sumRowsOf : multiplyByOnes;
  sum(b, x, rows, width, sums);
  const undefinedRows: number[] = [];
  for (let r = 0; r < rows; r++) {
    // x - x is NaN for NaN and infinity only.
    if (sums[r]! - sums[r]! !== 0 && isUndefined(x, r * width, (r + 1) * width, sums[r]!)) undefinedRows.push(r);
  }
  b.pool.release(sums);
  b.compiled(`${kind} ${rows},${width}`, (dnn) => dnn.softmax(kind, { dims: [rows, width] }, 1)).run(
    b.pool.address(x),
    b.pool.address(y),
  );
  for (const row of undefinedRows) y.fill(NaN, row * width, (row + 1) * width);
}

/** Whether the softmax of x from `start` to `end`, whose sum is not finite, is NaN. A sum of finite numbers may overflow. */
function isUndefined(x: Float32Array, start: number, end: number, sum: number): boolean {
  if (sum === -Infinity) {
    // The row has no NaN and no +Infinity. Masked scores often overflow; usually their first score is finite, which ends the loop.
    let i = start;
    while (i < end && x[i] === -Infinity) i++;
    return i === end;
  }
  for (let i = start; i < end; i++) if (!(x[i]! < Infinity)) return true;
  return false;
}

/**
 * dx = y (dy - sum(y dy)) for y, the softmax of rows, written over dy. oneDNN's own gradient has no fast code below AVX-512;
 * these three passes do.
 */
export function softmaxGradient(
  b: OneDnnBackend,
  y: tf.TensorInfo,
  dy: tf.TensorInfo,
  rows: number,
  width: number,
): void {
  const product = b.pool.allocate(rows * width);
  const sums = b.pool.allocate(rows);
  const [data, column] = [{ dims: [rows, width] }, { dims: [rows, 1] }];
  const [atY, atDy, atProduct, atSums] = [b.values(y), b.values(dy), product, sums].map((x) => b.pool.address(x));
  b.compiled(`rows mul ${rows},${width}`, (dnn) => dnn.binary('mul', data, data, data)).run(atY!, atDy!, atProduct!);
  sumRowsOf(b, product, rows, width, sums);
  b.compiled(`rows sub mul ${rows},${width}`, (dnn) =>
    dnn.binary('sub', data, column, data, [{ kind: 'binary', alg: 'mul', other: data }]),
  ).run(atDy!, atSums!, atDy!, atY!);
  b.pool.release(product);
  b.pool.release(sums);
}

const overLast =
  (kind: SoftmaxKind, axisName: string): NativeKernel =>
  ({ logits }, attrs, backend) => {
    const x = logits!;
    const axis = attrs[axisName] as number;
    if (!plainFloats(x) || (axis !== -1 && axis !== x.shape.length - 1)) return undefined;
    const width = x.shape[x.shape.length - 1] ?? 1;
    const y = backend.output(x.shape);
    softmaxRows(backend, kind, backend.values(x), backend.values(y), sizeOf(x.shape) / width, width);
    return y;
  };

export const softmaxKernels: Record<string, NativeKernel> = {
  [tf.Softmax]: overLast('softmax', 'dim'),
  [tf.LogSoftmax]: overLast('logSoftmax', 'axis'),
};
