/** One AdamW step on one number in float64, straight from the definition. `step` counts from 1. */
export function adamWNumber(
  state: { p: number; m: number; v: number },
  g: number,
  step: number,
  o: { learningRate: number; beta1: number; beta2: number; epsilon: number; weightDecay: number },
): void {
  state.p *= 1 - o.learningRate * o.weightDecay;
  state.m = o.beta1 * state.m + (1 - o.beta1) * g;
  state.v = o.beta2 * state.v + (1 - o.beta2) * g * g;
  const mean = state.m / (1 - o.beta1 ** step);
  const square = state.v / (1 - o.beta2 ** step);
  state.p -= (o.learningRate * mean) / (Math.sqrt(square) + o.epsilon);
}

/** Adaptive clipping of one unit in float64. */
export function clipUnit(p: readonly number[], g: readonly number[], factor: number, epsilon: number): number[] {
  const norm = (x: readonly number[]) => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0));
  const most = factor * Math.max(norm(p), epsilon);
  return norm(g) < most ? [...g] : g.map((value) => (value * most) / Math.max(norm(g), 1e-6));
}
