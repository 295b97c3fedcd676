import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectClose } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { checkOp, normal } from '../test/check-op';
import { crossEntropy, type CrossEntropyOptions } from './cross-entropy';
import { crossEntropyReference, type CrossEntropyCase } from './cross-entropy.reference';

const targets = [2, 0, 6, 3];
const weights = [1, 0, 2.5, 0.5];

function withTensors<T>(c: CrossEntropyCase, f: (targets: tf.Tensor, o: CrossEntropyOptions) => T): T {
  const ids = tf.tensor1d([...c.targets], 'int32');
  const weights = c.weights && tf.tensor1d([...c.weights]);
  const result = f(ids, { weights, labelSmoothing: c.labelSmoothing, reduction: c.reduction });
  tf.dispose([ids]);
  weights?.dispose();
  return result;
}

describeBackends('crossEntropy', () => {
  it.each<[string, CrossEntropyCase]>([
    ['mean', { targets }],
    ['sum', { targets, reduction: 'sum' }],
    ['weighted mean', { targets, weights }],
    ['weighted sum', { targets, weights, reduction: 'sum' }],
    ['smoothed', { targets, labelSmoothing: 0.1 }],
    ['smoothed, weighted', { targets, weights, labelSmoothing: 0.2 }],
    ['nothing counts', { targets, weights: [0, 0, 0, 0] }],
    ['one row', { targets: [4] }],
  ])('%s', (_, c) => {
    withTensors(c, (ids, o) =>
      checkOp(
        (logits) => crossEntropy(logits!, ids, o),
        (logits) => Float64Array.of(crossEntropyReference(logits!, 7, c)),
        [normal(1, [c.targets.length, 7], 3)],
        { forward: 3e-7, gradient: 5e-7 },
      ),
    );
  });

  it('ignores the values of rows with weight 0', () => {
    tf.tidy(() => {
      const logits = tf.tensor2d([1, 2, Infinity, -Infinity, NaN, 3, 3.4e38, -3.4e38], [4, 2]);
      const ids = tf.tensor1d([1, 1, 0, 1], 'int32');
      const o = { weights: tf.tensor1d([1, 0, 0, 0]) };
      expectClose(crossEntropy(logits, ids, o), Math.log(1 + Math.exp(-1)), { rtol: 3e-7 });
      const gradient = tf.grad((x) => crossEntropy(x, ids, o))(logits);
      const p = 1 / (1 + Math.exp(1));
      expectClose(gradient, [p, -p, 0, 0, 0, 0, 0, 0], { atol: 1e-7 });
    });
  });

  it('is exact for confident and for wrong rows', () => {
    tf.tidy(() => {
      const logits = tf.tensor2d([1e4, -1e4, 1e4, -1e4], [2, 2]);
      const each = (target: number) => crossEntropy(logits, tf.fill([2], target, 'int32')).dataSync()[0];
      expect([each(0), each(1)]).toEqual([0, 2e4]);
    });
  });

  it('returns 0 without rows', () => {
    tf.tidy(() => {
      const none = tf.tensor1d([], 'int32');
      const logits = tf.zeros([0, 5]);
      expectClose(crossEntropy(logits, none), 0, { atol: 0 });
      expect(tf.grad((x) => crossEntropy(x, none))(logits).shape).toEqual([0, 5]);
    });
  });

  it('says what does not fit', () => {
    tf.tidy(() => {
      const logits = tf.zeros([2, 5]);
      const ids = (values: number[]) => tf.tensor1d(values, 'int32');
      expect(() => crossEntropy(logits, ids([1, 5]))).toThrow(/targets must be in \[0, 5\), got 5 at position 1/);
      expect(() => crossEntropy(logits, ids([-100, 1]))).toThrow(/got -100 at position 0.*weight 0/);
      expect(() => crossEntropy(logits, ids([1]))).toThrow(/targets must be \[2\], got \[1\]/);
      expect(() => crossEntropy(logits, ids([1, 1]), { weights: tf.ones([3]) })).toThrow(
        /weights must be \[2\], got \[3\]/,
      );
      expect(() => crossEntropy(tf.zeros([1, 2, 5]), ids([1]))).toThrow(/logits must be \[n, vocab\]/);
    });
  });
});
