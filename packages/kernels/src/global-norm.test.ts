import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectClose, expectNoLeak } from '@flamingo-ts/testing';
import { it } from 'vitest';
import { normal, toTensor } from '../test/check-op';
import { globalNorm } from './global-norm';
import { sumRows } from './sum-rows';

describeBackends('globalNorm', () => {
  it('is the root of the sum of all squares', async () => {
    const inputs = [normal(1, [3, 4]), normal(2, [5]), normal(3, [])];
    const squares = inputs.flatMap(({ values }) => [...values].map((x) => x * x));
    await expectNoLeak(() => {
      const tensors = inputs.map(toTensor);
      const norm = globalNorm(tensors);
      expectClose(norm, Math.sqrt(squares.reduce((a, b) => a + b, 0)), { rtol: 2e-7 });
      return [...tensors, norm];
    });
  });

  it('is 0 without tensors', () => {
    tf.tidy(() => expectClose(globalNorm([]), 0, { atol: 0 }));
  });
});

describeBackends('sumRows', () => {
  it('adds over all axes but the last', async () => {
    await expectNoLeak(() => {
      const x = tf.tensor3d([1, 2, 3, 4, 5, 6, 7, 8], [2, 2, 2]);
      const sum = sumRows(x);
      expectClose(sum, [16, 20], { atol: 0 });
      return [x, sum];
    });
  });

  it('is 0 without rows', () => {
    tf.tidy(() => expectClose(sumRows(tf.zeros([0, 3])), [0, 0, 0], { atol: 0 }));
  });
});
