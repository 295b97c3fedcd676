import * as tf from '@tensorflow/tfjs-core';
import { fusedOp } from './fused-op';
import { asRows } from './shape';

/** `{x [..., d]}` -> `[d]`. As a product with a row of ones: a matMul adds columns far faster than most reductions do. */
const sumRowsOp = fusedOp<object>({
  name: 'FlamingoSumRows',
  forward: ({ x }) => {
    const [rows, width] = asRows(x!);
    if (rows === 0) return [tf.zeros([width])];
    return [tf.reshape(tf.matMul(tf.ones([1, rows]), tf.reshape(x!, [rows, width])), [width])];
  },
});

/** Sum over all axes but the last: what a bias gets for gradient. */
export function sumRows(x: tf.Tensor): tf.Tensor1D {
  return sumRowsOp({ x }, {})[0] as tf.Tensor1D;
}
