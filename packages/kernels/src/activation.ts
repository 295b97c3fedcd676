import * as tf from '@tensorflow/tfjs-core';
import { checkValue, rule } from './check-config';
import { fusedOp } from './fused-op';

/** `scaled-*` are NFNet's: scaled so that the output of standard normal input has variance 1. */
export const ACTIVATIONS = [
  'relu',
  'gelu',
  'gelu-tanh',
  'scaled-gelu',
  'scaled-gelu-tanh',
  'scaled-relu',
  'quick-gelu',
  'squared-relu',
  'silu',
] as const;

/** One of `ACTIVATIONS`. */
export type Activation = (typeof ACTIVATIONS)[number];

/** Variance-preserving factors (Brock et al. 2021, table of activations). */
const SCALE: Partial<Record<Activation, number>> = {
  'scaled-gelu': 1.7015043497085571,
  'scaled-gelu-tanh': 1.7015043497085571,
  'scaled-relu': 1.7139588594436646,
};

const TANH_CUBIC = 0.044715;
const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);
const QUICK = 1.702;

/** An activation's value, before scaling. */
function value(x: tf.Tensor, kind: Activation): tf.Tensor {
  switch (kind) {
    case 'relu':
    case 'scaled-relu':
      return tf.relu(x);
    case 'squared-relu':
      return tf.square(tf.relu(x));
    case 'silu':
      return tf.mul(x, tf.sigmoid(x));
    case 'quick-gelu':
      return tf.mul(x, tf.sigmoid(tf.mul(x, QUICK)));
    case 'gelu':
    case 'scaled-gelu':
      return tf.mul(tf.mul(x, 0.5), tf.add(tf.erf(tf.mul(x, Math.SQRT1_2)), 1));
    case 'gelu-tanh':
    case 'scaled-gelu-tanh':
      return tf.mul(tf.mul(x, 0.5), tf.add(tf.tanh(tanhArgument(x)), 1));
  }
}

/** An activation's derivative, before scaling. */
function derivative(x: tf.Tensor, kind: Activation): tf.Tensor {
  switch (kind) {
    case 'relu':
    case 'scaled-relu':
      return tf.step(x);
    case 'squared-relu':
      return tf.mul(tf.relu(x), 2);
    case 'silu':
      return sigmoidGateDerivative(x, 1);
    case 'quick-gelu':
      return sigmoidGateDerivative(x, QUICK);
    case 'gelu':
    case 'scaled-gelu': {
      const cdf = tf.mul(tf.add(tf.erf(tf.mul(x, Math.SQRT1_2)), 1), 0.5);
      const pdf = tf.mul(tf.exp(tf.mul(tf.square(x), -0.5)), 1 / Math.sqrt(2 * Math.PI));
      return tf.add(cdf, tf.mul(x, pdf));
    }
    case 'gelu-tanh':
    case 'scaled-gelu-tanh': {
      // 0.5 (1 + t) + 0.5 x (1 - t^2) u', where t = tanh(u) and u' = sqrt(2/pi) (1 + 3c x^2)
      const t = tf.tanh(tanhArgument(x));
      const slope = tf.mul(tf.add(tf.mul(tf.square(x), 3 * TANH_CUBIC), 1), 0.5 * SQRT_2_OVER_PI);
      return tf.add(tf.mul(tf.add(t, 1), 0.5), tf.mul(tf.mul(x, slope), tf.sub(1, tf.square(t))));
    }
  }
}

/** sqrt(2/pi) (x + c x^3) */
function tanhArgument(x: tf.Tensor): tf.Tensor {
  return tf.mul(x, tf.add(tf.mul(tf.square(x), TANH_CUBIC * SQRT_2_OVER_PI), SQRT_2_OVER_PI));
}

/** d/dx of x sigmoid(k x) = s + k x s (1 - s) */
function sigmoidGateDerivative(x: tf.Tensor, k: number): tf.Tensor {
  const s = tf.sigmoid(tf.mul(x, k));
  return tf.mul(s, tf.add(tf.mul(tf.mul(x, k), tf.sub(1, s)), 1));
}

interface ActivationAttrs {
  readonly kind: Activation;
}

/** `{dy, x}` -> dx */
const activationGradOp = fusedOp<ActivationAttrs>({
  name: 'FlamingoActivationGrad',
  forward: ({ dy, x }, { kind }) => {
    const dx = tf.mul(dy!, derivative(x!, kind));
    const scale = SCALE[kind];
    return [scale ? tf.mul(dx, scale) : dx];
  },
});

/** `{x}` -> y of the same shape */
const activationOp = fusedOp<ActivationAttrs>({
  name: 'FlamingoActivation',
  forward: ({ x }, { kind }) => {
    const y = value(x!, kind);
    const scale = SCALE[kind];
    return [scale ? tf.mul(y, scale) : y];
  },
  saveInputs: ['x'],
  gradient: ([dy], { x }, { kind }) => ({ x: () => activationGrad(dy!, x!, kind) }),
});

/** Gradient of `activation` with respect to its input. */
export function activationGrad(dy: tf.Tensor, x: tf.Tensor, kind: Activation): tf.Tensor {
  return activationGradOp({ dy, x }, { kind })[0]!;
}

const KIND = rule.oneOf(ACTIVATIONS);
const KIND_OR_NONE = rule.optional(KIND);

/** @throws Error unless `kind` is an activation or undefined */
export function expectActivation(what: string, kind: Activation | undefined): void {
  checkValue(what, 'activation', kind, KIND_OR_NONE);
}

/** Applies an activation elementwise. */
export function activation(x: tf.Tensor, kind: Activation): tf.Tensor {
  checkValue('activation', 'kind', kind, KIND);
  return activationOp({ x }, { kind })[0]!;
}
