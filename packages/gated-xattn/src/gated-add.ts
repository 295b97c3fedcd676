import { fusedOp } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';

/** `{x [...], y [...], gate [1]}` -> `[x + tanh(gate) * y]` */
const gatedAddOp = fusedOp<object>({
  name: 'FlamingoGatedAdd',
  forward: ({ x, y, gate }) => [tf.add(x!, tf.mul(tf.tanh(gate!), y!))],
  saveInputs: ['y', 'gate'],
  gradient: ([dy], { y, gate }) => ({
    x: () => tf.clone(dy!),
    y: () => tf.mul(dy!, tf.tanh(gate!)),
    gate: () => {
      // One number from two large tensors: as a product of matrices it needs no third.
      const along = tf.matMul(tf.reshape(dy!, [1, -1]), tf.reshape(y!, [-1, 1]));
      return tf.mul(tf.reshape(along, [1]), tf.sub(1, tf.square(tf.tanh(gate!))));
    },
  }),
});

/**
 * A residual branch behind a tanh gate (Flamingo, figure 4). With the gate at 0 the result is `x`, bit for bit.
 *
 * @param x    float32, any shape
 * @param y    float32, that shape: what the branch gives
 * @param gate float32 `[1]`
 */
export function gatedAdd<T extends tf.Tensor>(x: T, y: tf.Tensor, gate: tf.Tensor1D): T {
  return gatedAddOp({ x, y, gate }, {})[0] as T;
}
