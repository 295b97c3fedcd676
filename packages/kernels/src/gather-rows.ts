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

/** `{dy [m, d], rows int32 [m]}` -> `[count, d]`: rows that go to the same place are added. */
const scatterRowsOp = fusedOp<{ readonly count: number }>({
  name: 'FlamingoScatterRows',
  forward: ({ dy, rows }, { count }) => [tf.scatterND(tf.reshape(rows!, [rows!.size, 1]), dy!, [count, dy!.shape[1]!])],
});

/**
 * Throws unless every entry lies in [0, count): backends differ in what they do otherwise, from garbage to a crash.
 *
 * @returns the entries
 */
export function expectIndices(what: string, indices: tf.Tensor, count: number, fix: string): Int32Array {
  if (indices.dtype !== 'int32') {
    throw new Error(`${what} must be int32, got ${indices.dtype}. Make them with dtype 'int32' or tf.cast them.`);
  }
  const values = indices.dataSync() as Int32Array;
  for (let i = 0; i < values.length; i++) {
    if (!(values[i]! >= 0 && values[i]! < count)) {
      throw new Error(`${what} must lie in [0, ${count}), got ${values[i]} at position ${i}. ${fix}`);
    }
  }
  return values;
}

/**
 * Rows of a matrix, in the order asked for and as often; the gradient adds up what came of each row.
 *
 * @param x    float32 `[n, d]`
 * @param rows int32 `[m]`
 * @returns    float32 `[m, d]`
 */
export function gatherRows(x: tf.Tensor, rows: tf.Tensor): tf.Tensor2D {
  expectShape('gatherRows: x', x, ['n', 'd'], 'Flatten the leading axes first.');
  expectShape('gatherRows: rows', rows, ['m'], 'Give the row numbers as a flat int32 tensor.');
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
    expectShape('embedding: table', table, ['vocab', 'd'], 'Give one row per token.');
  }
  const values = expectIndices('embedding: ids', ids, vocab, 'The tokenizer and the table must have one vocabulary.');
  return tf.tidy(() => {
    const rows =
      table instanceof FrozenTable
        ? table.rows(values)
        : gatherRowsOp({ x: table, rows: tf.reshape(ids, [ids.size]) }, {})[0]!;
    return tf.reshape(rows, [...ids.shape, table.shape[1]!]);
  });
}
