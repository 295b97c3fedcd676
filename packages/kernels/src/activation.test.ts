import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectClose } from '@flamingo-ts/testing';
import { describe, expect, it } from 'vitest';
import { checkOp, given, normal } from '../test/check-op';
import { activation, ACTIVATIONS } from './activation';
import { activationReference, erf } from './activation.reference';

describe('activationReference', () => {
  it('uses an error function that matches published tables', () => {
    expectClose(
      [erf(0.5), erf(1), erf(2), erf(-3), erf(5)],
      [0.5204998778, 0.8427007929, 0.995322265, -0.9999779095, 1],
      {
        atol: 1e-10,
      },
    );
  });

  it.each(['scaled-gelu', 'scaled-relu'] as const)('%s preserves the variance of normal input', (kind) => {
    let [mean, square, mass] = [0, 0, 0];
    for (let x = -10; x <= 10; x += 1e-3) {
      const density = Math.exp((-x * x) / 2);
      const y = activationReference(x, kind);
      [mean, square, mass] = [mean + y * density, square + y * y * density, mass + density];
    }
    expect(square / mass - (mean / mass) ** 2).toBeCloseTo(1, 2); // the published constants come from sampling
  });
});

describeBackends('activation', () => {
  it.each(ACTIVATIONS)('%s', (kind) => {
    // tfjs' erf is a polynomial good to 1.5e-7.
    const tolerance = { forward: 3e-7, gradient: 1e-6 };
    const reference = (x: Float64Array) => x.map((value) => activationReference(value, kind));
    checkOp((x) => activation(x!, kind), reference, [normal(1, [3, 5, 2], 2)], tolerance);
    checkOp((x) => activation(x!, kind), reference, [given([-30, -9, -0.5, 0.5, 9, 30])], tolerance);
  });

  it.each(ACTIVATIONS)('%s stays finite far from 0', (kind) => {
    tf.tidy(() => {
      const x = tf.tensor1d([-1e4, -200, 0, 200, 1e4]);
      const dx = tf.grad((x) => activation(x, kind))(x);
      expect([...activation(x, kind).dataSync(), ...dx.dataSync()].every(Number.isFinite)).toBe(true);
    });
  });
});
