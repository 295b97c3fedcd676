import * as tf from '@tensorflow/tfjs-core';

/** From this many rows on, transposing a matrix on wasm costs less than multiplying without transposing. */
const WORTH_TRANSPOSING = 8;

/**
 * `tf.matMul` of two matrices. The wasm backend has a fast product (20 times) for matrices that need no transposing and a
 * plain loop for the others, so it pays to transpose them first.
 */
export function matMul(a: tf.Tensor2D, b: tf.Tensor2D, transposeA = false, transposeB = false): tf.Tensor2D {
  const rows = a.shape[transposeA ? 1 : 0];
  if (tf.getBackend() !== 'wasm' || rows < WORTH_TRANSPOSING) return tf.matMul(a, b, transposeA, transposeB);
  return tf.tidy(() => tf.matMul(transposeA ? tf.transpose(a) : a, transposeB ? tf.transpose(b) : b));
}
