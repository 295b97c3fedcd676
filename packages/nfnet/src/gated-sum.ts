import { fusedOp } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';

/** `{y NHWC, gate [n or 1, 1, 1, c or 1], shortcut NHWC}` -> `[sum NHWC]` */
const gatedSumOp = fusedOp<object>({
  name: 'FlamingoGatedSum',
  forward: ({ y, gate, shortcut }) => [tf.add(tf.mul(y!, gate!), shortcut!)],
  saveInputs: ['y', 'gate'],
  gradient: ([dy], { y, gate }) => ({
    y: () => tf.mul(dy!, gate!),
    gate: () => {
      const repeated = gate!.shape.flatMap((n, axis) => (n === 1 && y!.shape[axis] !== 1 ? [axis] : []));
      return tf.sum(tf.mul(dy!, y!), repeated, true);
    },
    shortcut: () => tf.clone(dy!),
  }),
});

/**
 * Ends a residual block in one operation: multiplies a branch by its channel weights and adds the shortcut.
 *
 * @param y        float32 [n, h, w, c]
 * @param gate     float32 [n or 1, 1, 1, c or 1]
 * @param shortcut float32 [n, h, w, c]
 * @returns        float32 [n, h, w, c], y * gate + shortcut
 */
export function gatedSum(y: tf.Tensor4D, gate: tf.Tensor4D, shortcut: tf.Tensor4D): tf.Tensor4D {
  return gatedSumOp({ y, gate, shortcut }, {})[0] as tf.Tensor4D;
}
