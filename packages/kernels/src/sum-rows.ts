import * as tf from '@tensorflow/tfjs-core';
import { fusedOp } from './fused-op';
import { asRows } from './shape';

/** `{x [..., d]}` -> `[d]`. Uses a product with a row of ones, because matMul adds columns far faster than most reductions. */
const sumRowsOp = fusedOp<object>({
  name: 'FlamingoSumRows',
  forward: ({ x }) => {
    const [rows, width] = asRows(x!);
    if (rows === 0) return [tf.zeros([width])];
    return [tf.reshape(tf.matMul(tf.ones([1, rows]), tf.reshape(x!, [rows, width])), [width])];
  },
});

/** Sum over all axes but the last: the gradient of a bias. */
export function sumRows(x: tf.Tensor): tf.Tensor1D {
  return sumRowsOp({ x }, {})[0] as tf.Tensor1D;
}
