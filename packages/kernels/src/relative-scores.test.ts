import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectClose } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { checkOp, normal, toTensor } from '../test/check-op';
import { relativeScores } from './relative-scores';
import { relativeScoresReference } from './relative-scores.reference';

describeBackends('relativeScores', () => {
  it.each([
    [2, 4, 4, 2, 3],
    [1, 3, 5, 1, 4],
    [2, 1, 5, 3, 2],
    [2, 1, 1, 1, 1],
  ])('batch %i, %i queries, %i keys, %i heads of %i', (b, t, s, h, d) => {
    checkOp(
      (q, r) => relativeScores(q!, r!, h),
      (q, r) => relativeScoresReference(q!, r!, b, h, d),
      [normal(1, [b, t, h * d]), normal(2, [s, h * d])],
      { forward: 3e-7, gradient: 5e-7 },
    );
  });

  it('gives the last query alone the same scores as among the others', () => {
    tf.tidy(() => {
      const [q, r] = [toTensor(normal(1, [1, 4, 6])), toTensor(normal(2, [4, 6]))];
      const all = relativeScores(q, r, 2);
      const last = relativeScores(tf.slice(q, [0, 3, 0], [1, 1, 6]), r, 2);
      expectClose(last, tf.slice(all, [0, 0, 3, 0], [1, 2, 1, 4]), { atol: 1e-6 });
    });
  });

  it('is 0 for later keys', () => {
    tf.tidy(() => {
      const scores = relativeScores(tf.ones([1, 3, 2]), tf.ones([3, 2]), 1);
      expectClose(scores, [2, 0, 0, 2, 2, 0, 2, 2, 2], { atol: 0 });
    });
  });

  it('says what does not fit', () => {
    tf.tidy(() => {
      expect(() => relativeScores(tf.ones([1, 3, 2]), tf.ones([3, 4]), 1)).toThrow(
        /r must be \[distances, 2\], got \[3, 4\]/,
      );
      expect(() => relativeScores(tf.ones([1, 3, 2]), tf.ones([2, 2]), 1)).toThrow(/each of the 3 queries.*got 2 rows/);
      expect(() => relativeScores(tf.ones([1, 3, 3]), tf.ones([3, 3]), 2)).toThrow(/multiple of numHeads, got 2/);
    });
  });
});
