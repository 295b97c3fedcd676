import * as tf from '@tensorflow/tfjs-core';
import type { NativeBackend, NativeKernel } from '../native-backend';
import type { SoftmaxKind } from '../onednn';
import { plainFloats, sizeOf } from '../pooled-backend';
import { sumRowsOf } from './reduce';

/**
 * Over each of `rows` runs of `width`; x and y may be the same. oneDNN loses a NaN here, so rows that hold one are found
 * first (a sum is NaN where a term is) and given back as NaN.
 */
export function softmaxRows(
  b: NativeBackend,
  kind: SoftmaxKind,
  x: Float32Array,
  y: Float32Array,
  rows: number,
  width: number,
): void {
  const sums = b.pool.allocate(rows);
  sumRowsOf(b, x, rows, width, sums);
  const spoilt = holdsNaN(sums) ? spoiltRows(x, rows, width) : [];
  b.pool.release(sums);
  b.compiled(`${kind} ${rows},${width}`, (dnn) => dnn.softmax(kind, { dims: [rows, width] }, 1)).run(
    b.pool.address(x),
    b.pool.address(y),
  );
  for (const row of spoilt) y.fill(NaN, row * width, (row + 1) * width);
}

/**
 * dx = y (dy - sum(y dy)) for y, the softmax of rows, written over dy. oneDNN's own has no fast code below AVX-512; these
 * are three passes that have.
 */
export function softmaxGradient(
  b: NativeBackend,
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

/** Whether one may be NaN: so is the sum then. It is NaN too where infinities of both signs meet. */
function holdsNaN(x: Float32Array): boolean {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i]!;
  return Number.isNaN(sum);
}

function spoiltRows(x: Float32Array, rows: number, width: number): number[] {
  const found: number[] = [];
  for (let r = 0; r < rows; r++) if (x.subarray(r * width, (r + 1) * width).some(Number.isNaN)) found.push(r);
  return found;
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
