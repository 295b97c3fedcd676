import * as tf from '@tensorflow/tfjs-core';
import { variables } from '@flamingo-ts/kernels';
import { describeBackends, expectClose, expectNoLeak } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { AveragingLM } from '../test/averaging-lm';
import { hiddenStates, languageModelLoss, logSoftmax, nextTokenBatch } from './index';

const rows = [
  [1, 2, 3, 4, 5],
  [6, 7, 8],
];

describeBackends('languageModelLoss', () => {
  it('is the weighted mean over the positions', () => {
    const lm = new AveragingLM();
    const batch = nextTokenBatch(rows);
    expect([...batch.targets]).toEqual([2, 3, 4, 5, 7, 8, 0, 0]);
    expect([...batch.weights]).toEqual([1, 1, 1, 1, 1, 1, 0, 0]);
    batch.weights[1] = 0;
    batch.weights[4] = 0.5;
    tf.tidy(() => {
      const losses = rows.flatMap((row) => {
        const logits = lm.logits(hiddenStates(lm, tf.tensor2d(row, [1, row.length], 'int32'), {}));
        const values = tf.squeeze(logits, [0]).arraySync() as number[][];
        return row.slice(1).map((target, i) => -logSoftmax(values[i]!)[target]!);
      });
      const want = (losses[0]! + losses[2]! + losses[3]! + losses[4]! * 0.5 + losses[5]!) / 4.5;
      expectClose(languageModelLoss(lm, batch), want, { rtol: 1e-5 });
    });
  });

  it('has no gradient from positions of weight 0, and is 0 if there are no others', async () => {
    const lm = new AveragingLM();
    const batch = nextTokenBatch(rows);
    batch.weights.fill(0);
    await expectNoLeak(() => {
      const { value, grads } = tf.variableGrads(
        () => languageModelLoss(lm, batch),
        Object.values(variables(lm.params)),
      );
      expect(value.dataSync()[0]).toBe(0);
      for (const gradient of Object.values(grads))
        expect(tf.tidy(() => tf.max(tf.abs(gradient)).dataSync()[0])).toBe(0);
      return { value, grads };
    });
  });

  it('names the array of the wrong length', () => {
    const batch = { ...nextTokenBatch(rows), weights: new Float32Array(3) };
    expect(() => languageModelLoss(new AveragingLM(), batch)).toThrow(
      /languageModelLoss: weights must be \[8\], got \[3\]/,
    );
  });
});
