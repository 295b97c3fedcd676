import { checkGradient, describeBackends, expectClose } from '@flamingo-ts/testing';
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { behindGate, gatedAdd } from './gated-add';

const tensor = (seed: number): tf.Tensor => tf.randomNormal([2, 3, 5], 0, 1, 'float32', seed);

describeBackends('gatedAdd', () => {
  it('adds the branch times tanh(gate)', () => {
    const [x, y] = [tensor(1), tensor(2)];
    const [xs, ys] = [x.dataSync(), y.dataSync()];
    const expected = Float64Array.from(xs, (value, i) => value + Math.tanh(0.6) * ys[i]!);
    expectClose(tf.reshape(gatedAdd(x, y, tf.tensor1d([0.6])), [30]), Array.from(expected), { atol: 1e-6 });
    expectClose(gatedAdd(x, y, tf.tensor1d([0])), x, { atol: 0 });
  });

  it.each([
    ['small', [2, 5]],
    // Large enough for the fast path of a backend.
    ['large', [3, 50, 64]],
  ] as const)('hides NaN and infinity behind a closed gate: %s tensors', (_, shape) => {
    const x = tf.randomNormal([...shape], 0, 1, 'float32', 3);
    for (const bad of [NaN, Infinity, -Infinity]) {
      expectClose(gatedAdd(x, tf.fill([...shape], bad), tf.tensor1d([0])), x, { atol: 0 });
    }
    const open = gatedAdd(x, tf.fill([...shape], NaN), tf.tensor1d([0.5])).dataSync();
    expect(open.every(Number.isNaN)).toBe(true);
  });

  it('blocks the gradient of a branch behind a closed gate, even NaN', () => {
    const x = tf.randomNormal([2, 5], 0, 1, 'float32', 3);
    const broken = tf.fill([2, 5], NaN);
    const through = (gate: tf.Tensor1D, factor: tf.Tensor) =>
      tf.grad((v) => tf.sum(gatedAdd(v, tf.mul(behindGate(v, gate), factor), gate)))(x);
    expectClose(behindGate(x, tf.tensor1d([0])), x, { atol: 0 });
    expectClose(through(tf.tensor1d([0]), broken), tf.ones([2, 5]), { atol: 0 });
    expectClose(through(tf.tensor1d([0.5]), tf.fill([2, 5], 3)), tf.fill([2, 5], 1 + 3 * Math.tanh(0.5)), {
      rtol: 1e-6,
    });
    // A closed gate itself has a gradient from a finite branch.
    const toGate = tf.grad((gate) => tf.sum(gatedAdd(x, tf.fill([2, 5], 3), gate as tf.Tensor1D)))(tf.tensor1d([0]));
    expectClose(toGate, [30], { rtol: 1e-6 });
  });

  it('adds the branch times tanh(gate) for large tensors too', () => {
    const [x, y] = [tf.randomNormal([3, 50, 64], 0, 1, 'float32', 3), tf.randomNormal([3, 50, 64], 0, 1, 'float32', 4)];
    const [xs, ys] = [x.dataSync(), y.dataSync()];
    const expected = Array.from(xs, (value, i) => value + Math.tanh(-0.7) * ys[i]!);
    expectClose(tf.reshape(gatedAdd(x, y, tf.tensor1d([-0.7])), [9600]), expected, { atol: 1e-6 });
    expectClose(gatedAdd(x, y, tf.tensor1d([0])), x, { atol: 0 });
  });

  it('matches finite differences', () => {
    const f = (x: tf.Tensor, y: tf.Tensor, gate: tf.Tensor) => gatedAdd(x, y, gate as tf.Tensor1D);
    checkGradient(f, [tensor(1), tensor(2), tf.tensor1d([0.6])], { rtol: 2e-3 });
  });
});
