import * as tf from '@tensorflow/tfjs-core';
import { FrozenTable } from './frozen-table';
import { fusedOp } from './fused-op';
import { expectShape } from './shape';

/** `{x [n, d], rows int32 [m]}` -> `[m, d]` */
const gatherRowsOp = fusedOp<object>({
  name: 'FlamingoGatherRows',
  forward: ({ x, rows }) => [tf.gather(x!, rows as tf.Tensor1D)],
  saveInputs: ['x', 'rows'],
  gradient: ([dy], { x, rows }) => ({
    x: () => scatterRowsOp({ dy, rows }, { count: x!.shape[0]! })[0]!,
  }),
});

/** `{dy [m, d], rows int32 [m]}` -> `[count, d]`: gradients of the same row are added. */
const scatterRowsOp = fusedOp<{ readonly count: number }>({
  name: 'FlamingoScatterRows',
  forward: ({ dy, rows }, { count }) => [tf.scatterND(tf.reshape(rows!, [rows!.size, 1]), dy!, [count, dy!.shape[1]!])],
});

/**
 * Throws unless every entry is in [0, count): out of range, some backends return garbage and others crash.
 *
 * @returns the entries
 */
export function expectIndices(what: string, indices: tf.Tensor, count: number, fix: string): Int32Array {
  if (indices.dtype !== 'int32') {
    throw new Error(
      `${what} must be int32, got ${indices.dtype}. Create the tensor with dtype 'int32', or use tf.cast.`,
    );
  }
  const values = indices.dataSync() as Int32Array;
  for (let i = 0; i < values.length; i++) {
    if (!(values[i]! >= 0 && values[i]! < count)) {
      throw new Error(`${what} must be in [0, ${count}), got ${values[i]} at position ${i}. ${fix}`);
    }
  }
  return values;
}

/**
 * Rows of a matrix by number, in any order and repeated if a number is; the gradients of repeated rows are added.
 *
 * @param x    float32 `[n, d]`
 * @param rows int32 `[m]`
 * @returns    float32 `[m, d]`
 */
export function gatherRows(x: tf.Tensor, rows: tf.Tensor): tf.Tensor2D {
  expectShape('gatherRows: x', x, ['n', 'd'], 'Flatten the leading axes first.');
  expectShape('gatherRows: rows', rows, ['m'], 'Pass the row numbers as a flat int32 tensor.');
  expectIndices('gatherRows: rows', rows, x.shape[0]!, 'Check the row numbers.');
  return gatherRowsOp({ x, rows }, {})[0] as tf.Tensor2D;
}

/**
 * Looks up embeddings.
 *
 * @param table float32 `[vocab, d]`; a frozen one gets no gradient
 * @param ids   int32, any shape
 * @returns     float32 `[...ids, d]`
 */
export function embedding(table: tf.Tensor | FrozenTable, ids: tf.Tensor): tf.Tensor {
  const vocab = table.shape[0]!;
  if (!(table instanceof FrozenTable)) {
    expectShape('embedding: table', table, ['vocab', 'd'], 'Pass one row per token.');
  }
  const values = expectIndices(
    'embedding: ids',
    ids,
    vocab,
    'The tokenizer and the table must have the same vocabulary.',
  );
  return tf.tidy(() => {
    const rows =
      table instanceof FrozenTable
        ? table.rows(values)
        : gatherRowsOp({ x: table, rows: tf.reshape(ids, [ids.size]) }, {})[0]!;
    return tf.reshape(rows, [...ids.shape, table.shape[1]!]);
  });
}
