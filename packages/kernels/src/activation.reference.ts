import type { Activation } from './activation';

/** Applies an activation to one number. */
export function activationReference(x: number, kind: Activation): number {
  switch (kind) {
    case 'relu':
      return Math.max(x, 0);
    case 'scaled-relu':
      return 1.7139588594436646 * Math.max(x, 0);
    case 'squared-relu':
      return Math.max(x, 0) ** 2;
    case 'silu':
      return x / (1 + Math.exp(-x));
    case 'quick-gelu':
      return x / (1 + Math.exp(-1.702 * x));
    case 'gelu':
      return 0.5 * x * (1 + erf(x / Math.SQRT2));
    case 'gelu-tanh':
      return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
    case 'scaled-gelu':
      return 1.7015043497085571 * activationReference(x, 'gelu');
    case 'scaled-gelu-tanh':
      return 1.7015043497085571 * activationReference(x, 'gelu-tanh');
  }
}

/** The error function to full precision: a series whose terms all have the same sign, so that nothing cancels. */
export function erf(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x;
  let sum = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}
