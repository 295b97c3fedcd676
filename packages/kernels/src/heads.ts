import * as tf from '@tensorflow/tfjs-core';

/** `[b, t, h*d] -> [b, h, t, d]` */
export function splitHeads(x: tf.Tensor, numHeads: number): tf.Tensor4D {
  const [b, t, width] = x.shape as [number, number, number];
  const apart = tf.reshape(x, [b, t, numHeads, width / numHeads]);
  // Moving an axis of length 1 moves no data.
  if (numHeads === 1 || t === 1) return tf.reshape(apart, [b, numHeads, t, width / numHeads]);
  return tf.transpose(apart, [0, 2, 1, 3]) as tf.Tensor4D;
}

/** `[b, h, t, d] -> [b, t, h*d]` */
export function mergeHeads(x: tf.Tensor): tf.Tensor3D {
  const [b, h, t, d] = x.shape as [number, number, number, number];
  const together = h === 1 || t === 1 ? x : tf.transpose(x, [0, 2, 1, 3]);
  return tf.reshape(together, [b, t, h * d]);
}
