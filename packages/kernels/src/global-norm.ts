import * as tf from '@tensorflow/tfjs-core';
import { fusedOp } from './fused-op';

/** `{x0, x1, ...}` -> `[norm []]` */
const globalNormOp = fusedOp<object>({
  name: 'FlamingoGlobalNorm',
  forward: (inputs) => {
    const squares = Object.values(inputs).map((x) => tf.sum(tf.square(x)));
    return [squares.length ? tf.sqrt(tf.addN(squares)) : tf.scalar(0)];
  },
});

/** The square root of the sum of the squares of all entries of all tensors. Has no gradient. */
export function globalNorm(tensors: readonly tf.Tensor[]): tf.Scalar {
  return globalNormOp(Object.fromEntries(tensors.map((x, i) => [`x${i}`, x])), {})[0] as tf.Scalar;
}
