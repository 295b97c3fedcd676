import { checkGradient, describeBackends, expectClose, expectNoLeak } from '@flamingo-ts/testing';
import * as tf from '@tensorflow/tfjs-core';
import { it } from 'vitest';
import { gatedSum } from './gated-sum';

const normal = (shape: number[], seed: number) => tf.randomNormal<tf.Rank.R4>(shape as never, 0, 1, 'float32', seed);

describeBackends('gatedSum', () => {
  it.each([
    ['a weight per image and channel', [2, 3, 2, 5], [2, 1, 1, 5]],
    ['per image', [2, 3, 2, 5], [2, 1, 1, 1]],
    ['one for all', [2, 3, 2, 5], [1, 1, 1, 1]],
    // Large enough for the fast path of a backend.
    ['large, per image and channel', [2, 16, 16, 24], [2, 1, 1, 24]],
    ['large, one for all', [2, 16, 16, 24], [1, 1, 1, 1]],
  ])('%s', async (_, shape, gateShape) => {
    await expectNoLeak(() => {
      const [y, gate, shortcut] = [normal(shape, 1), normal(gateShape, 2), normal(shape, 3)];
      const sum = gatedSum(y, gate, shortcut);
      const [a, g, b] = [y, gate, shortcut].map((x) => x.dataSync());
      const [n, h, w, c] = shape as [number, number, number, number];
      const expected = a!.map((v, i) => {
        const image = gateShape[0] === 1 ? 0 : Math.floor(i / (h * w * c));
        const channel = gateShape[3] === 1 ? 0 : i % c;
        return v * g![image * gateShape[3]! + channel]! + b![i]!;
      });
      expectClose(sum, expected, { rtol: 1e-6 });
      if (n * h * w * c < 100) {
        checkGradient(
          (...args) => gatedSum(...(args as [tf.Tensor4D, tf.Tensor4D, tf.Tensor4D])),
          [y, gate, shortcut],
          {
            rtol: 1e-2,
          },
        );
      }
      return [y, gate, shortcut, sum];
    });
  });
});
