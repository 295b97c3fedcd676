import * as tf from '@tensorflow/tfjs-core';
import type { Layout } from '../onednn/layout';
import type { OneDnnBackend, NativeKernel } from '../onednn/onednn-backend';
import { plainFloats, sizeOf } from '../shared/pooled-backend';
import { activate } from './activate';
import { dot } from './reduce';
import { factor, inBfloat16, product, type ProductOptions } from '../onednn/product';

/** Shapes of a batched product, checked: `[batch, m, k] x [batch, k, n]`. */
interface Product {
  readonly batchA: readonly number[];
  readonly batchB: readonly number[];
  readonly batch: readonly number[];
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

function productOf(a: tf.TensorInfo, b: tf.TensorInfo, transposeA: boolean, transposeB: boolean): Product {
  tf.util.assert(
    a.shape.length >= 2 && b.shape.length >= 2,
    () =>
      `Error in matMul: inputs must have the same rank of at least 2, got ranks ${a.shape.length} and ${b.shape.length}.`,
  );
  const [rowsA, colsA] = a.shape.slice(-2) as [number, number];
  const [rowsB, colsB] = b.shape.slice(-2) as [number, number];
  const [m, k] = transposeA ? [colsA, rowsA] : [rowsA, colsA];
  const [kB, n] = transposeB ? [colsB, rowsB] : [rowsB, colsB];
  tf.util.assert(
    k === kB,
    () =>
      `Error in matMul: inner shapes (${k}) and (${kB}) of Tensors with shapes ${a.shape} and ${b.shape} and ` +
      `transposeA=${transposeA} and transposeB=${transposeB} must match.`,
  );
  const [batchA, batchB] = [a.shape.slice(0, -2), b.shape.slice(0, -2)];
  const batch = tf.broadcast_util.assertAndGetBroadcastShape(batchA, batchB);
  return { batchA, batchB, batch, m, n, k };
}

/** One matrix per batch entry, transposed if requested; missing leading axes have size 1. */
function operand(batch: readonly number[], rank: number, rows: number, cols: number, transposed: boolean): Layout {
  const padded = [...new Array<number>(rank - batch.length).fill(1), ...batch];
  const strides = new Array<number>(rank);
  let step = rows * cols;
  for (let i = rank - 1; i >= 0; i--) {
    strides[i] = step;
    step *= padded[i]!;
  }
  return {
    dims: [...padded, rows, cols],
    strides: [...strides, ...(transposed ? [1, rows] : [cols, 1])],
  };
}

/** `op(A) op(B)` over broadcast batches into a new tensor; with `narrow` one in bfloat16 where the product is. */
export function multiply(
  a: tf.TensorInfo,
  b: tf.TensorInfo,
  transposeA: boolean,
  transposeB: boolean,
  backend: OneDnnBackend,
  options?: ProductOptions,
  narrow = false,
): tf.TensorInfo {
  const p = productOf(a, b, transposeA, transposeB);
  const { m, n, k } = p;
  const shape = [...p.batch, m, n];
  const batches = sizeOf(p.batch);
  // Nothing to add up: zeros, if there is anything at all.
  if (!(batches && m && n && k)) return backend.zeroOutput(shape);
  if (batches * m * n === 1 && !options) {
    const out = backend.output(shape);
    backend.values(out)[0] = dot(backend, backend.values(a), backend.values(b));
    return out;
  }
  // A batch of A against one B is one tall product.
  const tall = !transposeA && sizeOf(p.batchB) === 1;
  const [batchA, batchB, batch, rows] =
    tall || batches === 1 ? [[], [], [], tall ? m * batches : m] : [p.batchA, p.batchB, p.batch, m];
  const x = factor(backend, a, operand(batchA, batch.length, rows, k, transposeA));
  const y = factor(backend, b, operand(batchB, batch.length, k, n, transposeB));
  const out = narrow && inBfloat16(backend, x[1], y[1]) ? backend.bfloat16Output(shape) : backend.output(shape);
  product(backend, x, y, factor(backend, out, operand(batch, batch.length, rows, n, false)), options);
  return out;
}

const batchMatMul: NativeKernel = ({ a, b }, { transposeA, transposeB }, backend) =>
  plainFloats(a, b) ? multiply(a!, b!, Boolean(transposeA), Boolean(transposeB), backend) : undefined;

const fusedMatMul: NativeKernel = ({ a, b, bias, preluActivationWeights }, attrs, backend) => {
  if (!plainFloats(a, b, bias, preluActivationWeights)) return undefined;
  let y = multiply(a!, b!, Boolean(attrs['transposeA']), Boolean(attrs['transposeB']), backend);
  if (bias) {
    const sum = backend.call(tf.Add, { a: y, b: bias });
    backend.disposeData(y.dataId);
    y = sum;
  }
  return activate(y, attrs, preluActivationWeights, backend);
};

export const matmulKernels: Record<string, NativeKernel> = {
  [tf.BatchMatMul]: batchMatMul,
  [tf._FusedMatMul]: fusedMatMul,
};
