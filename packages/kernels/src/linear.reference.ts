import type { Activation } from './activation';
import { activationReference } from './activation.reference';

/** y = x W^T + b for x `[rows, in]`, W `[out, in]`, then the activation. */
export function linearReference(
  x: Float64Array,
  weight: Float64Array,
  bias: Float64Array | undefined,
  width: number,
  activation?: Activation,
): Float64Array {
  const rows = x.length / width;
  const out = weight.length / width;
  const y = new Float64Array(rows * out);
  for (let r = 0; r < rows; r++) {
    for (let o = 0; o < out; o++) {
      let sum = bias ? bias[o]! : 0;
      for (let i = 0; i < width; i++) sum += x[r * width + i]! * weight[o * width + i]!;
      y[r * out + o] = activation ? activationReference(sum, activation) : sum;
    }
  }
  return y;
}
