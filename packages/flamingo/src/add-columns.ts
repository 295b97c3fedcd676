import { fusedOp } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';

/** `{x [..., n], added [..., k]}` -> `[y [..., n]]`: x with `added` in k of its columns. x may be written. */
const addColumnsOp = fusedOp<{ readonly columns: readonly number[] }>({
  name: 'FlamingoAddColumns',
  forward: ({ x, added }, { columns }) => {
    const width = x!.shape[x!.rank - 1]!;
    // tf.oneHot of tfjs 4.22 gives WASM integers in a float tensor, so the columns are marked here.
    const marks = new Float32Array(columns.length * width);
    columns.forEach((column, row) => (marks[row * width + column] = 1));
    const all = tf.matMul(tf.reshape(added!, [-1, columns.length]), tf.tensor2d(marks, [columns.length, width]));
    return [tf.add(x!, tf.reshape(all, x!.shape))];
  },
  gradient: ([dy], _saved, { columns }) => ({
    x: () => tf.clone(dy!),
    added: () => {
      const rows = tf.reshape(dy!, [-1, dy!.shape[dy!.rank - 1]!]);
      const taken = columns.map((column) => tf.slice(rows, [0, column], [-1, 1]));
      return tf.reshape(tf.concat(taken, 1), [...dy!.shape.slice(0, -1), columns.length]);
    },
  }),
});

/**
 * Adds to a few columns.
 *
 * @param x       float32 `[..., n]`; given away: a backend may write the result over it
 * @param added   float32 `[..., k]`
 * @param columns which k of the n
 * @returns       float32 `[..., n]`
 */
export function addColumns(x: tf.Tensor, added: tf.Tensor, columns: readonly number[]): tf.Tensor {
  return addColumnsOp({ x, added }, { columns })[0]!;
}
