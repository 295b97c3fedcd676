import * as tf from '@tensorflow/tfjs-core';
import { Random } from '@flamingo-ts/kernels';

/** Options of `checkGradient`. */
export interface GradientCheck {
  /** Allowed difference as a fraction of the input's largest gradient. float32 forwards reach about 1e-3. */
  readonly rtol: number;
  /** Half the distance between the two points of a difference. Default 1e-2, which suits float32 values around 1. */
  readonly step?: number;
  /** Elements checked per input, drawn by seed if the input has more. Default 16. */
  readonly elements?: number;
  /** Default 1. */
  readonly seed?: number;
}

/**
 * Compares the gradient of `sum(f(...inputs) * c)`, with a random constant c, with central differences for each input.
 *
 * @param f      any function of float32 tensors that returns a float32 tensor
 * @param inputs the point to compare at; not disposed
 */
export function checkGradient(
  f: (...inputs: tf.Tensor[]) => tf.Tensor,
  inputs: readonly tf.Tensor[],
  check: GradientCheck,
): void {
  const { rtol, step = 1e-2, elements = 16, seed = 1 } = check;
  const random = new Random(seed);
  tf.tidy(() => {
    const cotangent = tf.tidy(() => {
      const y = f(...inputs);
      return tf.tensor(
        Array.from({ length: y.size }, () => random.normal()),
        y.shape,
      );
    });
    const weights = cotangent.dataSync();
    // Summed in float64: rounding of a float32 sum would hide the differences.
    const value = (at: tf.Tensor[]): number =>
      tf.tidy(() => f(...at).dataSync() as Float32Array).reduce((sum, y, i) => sum + y * weights[i]!, 0);
    const gradients = tf.grads((...xs) => tf.sum(tf.mul(f(...xs), cotangent)))([...inputs]);

    for (const [n, input] of inputs.entries()) {
      const gradient = gradients[n]!.dataSync() as Float32Array;
      const scale = gradient.reduce((top, g) => Math.max(top, Math.abs(g)), 0);
      for (const i of pick(input.size, elements, random)) {
        const moved = (by: number): [number, number] => {
          const values = Float32Array.from(input.dataSync());
          values[i]! += by;
          const at = inputs.map((x, m) => (m === n ? tf.tensor(values, input.shape) : x));
          return [value(at), values[i]!];
        };
        const [high, xHigh] = moved(step);
        const [low, xLow] = moved(-step);
        const numeric = (high - low) / (xHigh - xLow);
        if (!(Math.abs(numeric - gradient[i]!) <= rtol * Math.max(scale, 1e-3))) {
          throw new Error(
            `checkGradient: input ${n}, element ${i}: the gradient is ${gradient[i]}, differences give ${numeric}; ` +
              `${rtol} of the largest gradient ${scale} is allowed.`,
          );
        }
      }
    }
  });
}

function pick(size: number, count: number, random: Random): number[] {
  if (size <= count) return Array.from({ length: size }, (_, i) => i);
  return Array.from({ length: count }, () => random.int(size));
}
