import { fusedOp } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';

/** `{x [...], y [...], gate [1]}` -> `[x + tanh(gate) * y]`, or `x` where the gate is 0. */
const gatedAddOp = fusedOp<object>({
  name: 'FlamingoGatedAdd',
  // A closed gate must hide even a NaN branch, and 0 * NaN is NaN.
  forward: ({ x, y, gate }) => [tf.where(tf.equal(gate!, 0), x!, tf.add(x!, tf.mul(tf.tanh(gate!), y!)))],
  saveInputs: ['y', 'gate'],
  gradient: ([dy], { y, gate }) => ({
    x: () => tf.clone(dy!),
    y: () => tf.mul(dy!, tf.tanh(gate!)),
    gate: () => {
      // As a matrix product, this sum needs no large intermediate tensor.
      const along = tf.matMul(tf.reshape(dy!, [1, -1]), tf.reshape(y!, [-1, 1]));
      return tf.mul(tf.reshape(along, [1]), tf.sub(1, tf.square(tf.tanh(gate!))));
    },
  }),
});

/**
 * Adds a residual branch through a tanh gate (Flamingo, figure 4). With the gate at 0 the result is `x`, bit for bit,
 * even where `y` is NaN or infinite.
 *
 * @param x    float32, any shape
 * @param y    float32, same shape: output of the branch
 * @param gate float32 `[1]`
 */
export function gatedAdd<T extends tf.Tensor>(x: T, y: tf.Tensor, gate: tf.Tensor1D): T {
  return gatedAddOp({ x, y, gate }, {})[0] as T;
}

/** `{dy [...], gate [1]}` -> `[dy]`, or zeros where the gate is 0. */
const behindGateGradOp = fusedOp<object>({
  name: 'FlamingoBehindGateGrad',
  forward: ({ dy, gate }) => [tf.where(tf.equal(gate!, 0), tf.zerosLike(dy!), dy!)],
});

/** `{x [...], gate [1]}` -> `[x]` */
const behindGateOp = fusedOp<object>({
  name: 'FlamingoBehindGate',
  forward: ({ x }) => [tf.clone(x!)],
  saveInputs: ['gate'],
  gradient: ([dy], { gate }) => ({
    x: () => behindGateGradOp({ dy, gate }, {})[0]!,
    gate: () => tf.zerosLike(gate!),
  }),
});

/**
 * Input of a branch that `gatedAdd` adds. Returns `x`. With the gate at 0 no gradient flows back from the branch, not even the
 * NaN of 0 * NaN.
 *
 * @param x    float32, any shape
 * @param gate float32 `[1]`
 */
export function behindGate<T extends tf.Tensor>(x: T, gate: tf.Tensor1D): T {
  return behindGateOp({ x, gate }, {})[0] as T;
}
