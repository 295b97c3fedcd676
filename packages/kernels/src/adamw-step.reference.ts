/** Applies one AdamW step to one number: decay, moments, corrected update. */
export function adamWReference(
  { p, g, m, v }: { p: number; g: number; m: number; v: number },
  o: { learningRate: number; beta1: number; beta2: number; epsilon: number; weightDecay: number; step: number },
): { p: number; m: number; v: number } {
  const decayed = p * (1 - o.learningRate * o.weightDecay);
  const m1 = o.beta1 * m + (1 - o.beta1) * g;
  const v1 = o.beta2 * v + (1 - o.beta2) * g * g;
  const mean = m1 / (1 - o.beta1 ** o.step);
  const root = Math.sqrt(v1 / (1 - o.beta2 ** o.step));
  return { p: decayed - (o.learningRate * mean) / (root + o.epsilon), m: m1, v: v1 };
}
