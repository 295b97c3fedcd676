import type { Activation } from './activation';
import { linearReference } from './linear.reference';

/** y = activation(x up^T + b) down^T + c + residual over rows of `width` numbers. */
export function mlpReference(
  x: Float64Array,
  up: Float64Array,
  upBias: Float64Array,
  down: Float64Array,
  downBias: Float64Array,
  residual: Float64Array | undefined,
  width: number,
  kind: Activation,
): Float64Array {
  const inner = linearReference(x, up, upBias, width, kind);
  return linearReference(inner, down, downBias, upBias.length).map((y, i) => y + (residual?.[i] ?? 0));
}
