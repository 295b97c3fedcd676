import { fusedOp } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';

/** `{x [..., n], added [..., k]}` -> `[y [..., n]]`: x with `added` in k of its columns. May overwrite x. */
const addColumnsOp = fusedOp<{ readonly columns: readonly number[] }>({
  name: 'FlamingoAddColumns',
  forward: ({ x, added }, { columns }) => {
    const width = x!.shape[x!.rank - 1]!;
    // tf.oneHot of tfjs 4.22 puts integers in a float tensor on WASM, so the one-hot rows are made here.
    const oneHot = new Float32Array(columns.length * width);
    columns.forEach((column, row) => (oneHot[row * width + column] = 1));
    const all = tf.matMul(tf.reshape(added!, [-1, columns.length]), tf.tensor2d(oneHot, [columns.length, width]));
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
 * Adds values to a few columns.
 *
 * @param x       float32 `[..., n]`; a backend may overwrite it with the result, so do not use it afterward
 * @param added   float32 `[..., k]`
 * @param columns indices of the k columns
 * @returns       float32 `[..., n]`
 */
export function addColumns(x: tf.Tensor, added: tf.Tensor, columns: readonly number[]): tf.Tensor {
  return addColumnsOp({ x, added }, { columns })[0]!;
}
