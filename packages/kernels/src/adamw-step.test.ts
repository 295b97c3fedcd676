import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectClose, expectNoLeak } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { normal, toTensor, type Input } from '../test/check-op';
import { adamWReference } from './adamw-step.reference';
import { adamWStep } from './adamw-step';

const options = { learningRate: 0.02, beta1: 0.9, beta2: 0.99, epsilon: 1e-4 };
const shapes = [[3, 2], [4], []];
const decays = [0.1, 0, 0.5];

const variable = (input: Input): tf.Variable => tf.tidy(() => tf.variable(toTensor(input)));

describeBackends('adamWStep', () => {
  it('follows the reference for several steps, tensors of any shape', () => {
    const params = shapes.map((shape, i) => variable(normal(i, shape)));
    const [m, v] = [0, 1].map(() => shapes.map((shape) => variable(normal(0, shape, 0)))) as [
      tf.Variable[],
      tf.Variable[],
    ];
    const state = shapes.map((shape, i) => [...normal(i, shape).values].map((p) => ({ p, m: 0, v: 0 })));
    const before = tf.memory().numTensors;
    for (let step = 1; step <= 5; step++) {
      const g = shapes.map((shape, i) => normal(10 * step + i, shape));
      const grads = g.map(toTensor);
      adamWStep(params, grads, m, v, { ...options, weightDecay: decays, step });
      tf.dispose(grads);
      state.forEach((tensor, i) =>
        tensor.forEach((one, j) => {
          const o = { ...options, weightDecay: decays[i]!, step };
          Object.assign(one, adamWReference({ ...one, g: g[i]!.values[j]! }, o));
        }),
      );
    }
    expect(tf.memory().numTensors).toBe(before);
    state.forEach((tensor, i) => {
      expectClose(
        params[i]!.dataSync(),
        tensor.map(({ p }) => p),
        { rtol: 5e-7 },
      );
      expectClose(
        m[i]!.dataSync(),
        tensor.map(({ m }) => m),
        { rtol: 5e-7 },
      );
      expectClose(
        v[i]!.dataSync(),
        tensor.map(({ v }) => v),
        { rtol: 5e-7 },
      );
    });
    tf.dispose([...params, ...m, ...v]);
  });

  it('does not change copies made before the step', async () => {
    await expectNoLeak(() => {
      const [p, m, v] = [1, 0, 0].map((scale) => variable(normal(1, [4], scale))) as [
        tf.Variable,
        tf.Variable,
        tf.Variable,
      ];
      const copy = tf.clone(p);
      const reshaped = tf.reshape(p, [2, 2]);
      const g = tf.ones([4]);
      adamWStep([p], [g], [m], [v], { ...options, weightDecay: [0], step: 1 });
      expectClose(copy, normal(1, [4]).values, { atol: 0 });
      expectClose(reshaped.dataSync(), normal(1, [4]).values, { atol: 0 });
      expect([...p.dataSync()]).not.toEqual([...normal(1, [4]).values]);
      return [p, m, v, copy, reshaped, g];
    });
  });

  it('says when the lists do not match', () => {
    const p = variable(normal(1, [2]));
    expect(() => adamWStep([p], [], [p], [p], { ...options, weightDecay: [0], step: 1 })).toThrow(
      /one entry each per tensor, got 1, 0, 1, 1, 1/,
    );
    expect(() => adamWStep([p], [p], [p], [p], { ...options, weightDecay: [0], step: 0 })).toThrow(
      /step must be at least 1, got 0/,
    );
    p.dispose();
  });
});
