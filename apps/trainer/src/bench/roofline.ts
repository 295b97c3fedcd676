import { FrozenMatrix } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';

/** Upper limits of this machine with the current backend. */
export interface Roofline {
  /** GFLOP/s of matrix products. */
  readonly float32: number;
  /** GFLOP/s of matrix products with a frozen bfloat16 factor. */
  readonly bfloat16: number;
  /** GB/s when reading more memory than any cache holds. */
  readonly bandwidth: number;
}

/** Side of the largest matrices. The rate does not grow beyond it. */
const LARGEST = 2048;
/** A product that takes this many milliseconds is large enough. Larger ones would take minutes in plain JavaScript. */
const LONG = 20;
/** Numbers read to measure the bandwidth: 256 MiB. */
const STREAM = 1 << 26;

/** Measures the upper limits. Each is the best of several tries. */
export function measureRoofline(seconds: number): Roofline {
  const float32 = bestProduct(seconds, (a, b) => tf.matMul(a, b));
  let frozen: FrozenMatrix | undefined;
  const bfloat16 = bestProduct(seconds, (a, b) => {
    if (frozen?.shape[0] !== b.shape[0]) {
      frozen?.dispose();
      frozen = new FrozenMatrix(b.dataSync() as Float32Array, b.shape, 'bfloat16');
    }
    return frozen.multiply(a);
  });
  frozen?.dispose();
  const stream = tf.ones([STREAM / 1024, 1024]);
  const bandwidth = (4 * STREAM) / fastest(seconds, () => tf.sum(stream, 1)) / 1e6;
  stream.dispose();
  return { float32, bfloat16, bandwidth };
}

/** GFLOP/s of a product of square matrices. Their side doubles until they are large enough. */
function bestProduct(seconds: number, multiply: (a: tf.Tensor2D, b: tf.Tensor2D) => tf.Tensor2D): number {
  for (let side = 256; ; side *= 2) {
    const [a, b] = [tf.randomUniform<tf.Rank.R2>([side, side]), tf.randomUniform<tf.Rank.R2>([side, side])];
    const run = () => {
      const product = multiply(a, b);
      // Reading one element back makes asynchronous backends finish.
      const corner = tf.slice(product, [0, 0], [1, 1]);
      product.dispose();
      return corner;
    };
    const probe = fastest(0, run);
    const milliseconds = probe > LONG || side === LARGEST ? fastest(seconds, run) : undefined;
    tf.dispose([a, b]);
    if (milliseconds !== undefined) return (2 * side ** 3) / milliseconds / 1e6;
  }
}

/** Milliseconds of the fastest of several tries. */
function fastest(seconds: number, run: () => tf.Tensor): number {
  let milliseconds = Infinity;
  const end = performance.now() + 1000 * seconds;
  for (let tries = 0; tries < 3 || performance.now() < end; tries++) {
    const from = performance.now();
    const result = run();
    result.dataSync();
    milliseconds = Math.min(milliseconds, performance.now() - from);
    result.dispose();
  }
  return milliseconds;
}
