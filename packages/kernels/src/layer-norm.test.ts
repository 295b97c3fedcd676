import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectClose } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { checkOp, normal } from '../test/check-op';
import { layerNorm } from './layer-norm';
import { layerNormReference } from './layer-norm.reference';

const tolerance = { forward: 3e-7, gradient: 1e-6 };

describeBackends('layerNorm', () => {
  it.each([1e-5, 0.1])('with bias, eps %s', (eps) => {
    checkOp(
      (x, w, b) => layerNorm(x!, { weight: w as tf.Tensor1D, bias: b as tf.Tensor1D }, eps),
      (x, w, b) => layerNormReference(x!, w!, b, eps),
      [normal(1, [2, 3, 7]), normal(2, [7]), normal(3, [7])],
      tolerance,
    );
  });

  it('without bias, eps 1e-5 by default', () => {
    checkOp(
      (x, w) => layerNorm(x!, { weight: w as tf.Tensor1D }),
      (x, w) => layerNormReference(x!, w!, undefined, 1e-5),
      // So small that eps dominates.
      [normal(1, [4, 6], 3e-3), normal(2, [6])],
      tolerance,
    );
  });

  it('returns the bias for a row of equal numbers', () => {
    tf.tidy(() => {
      const p = { weight: tf.ones([4]) as tf.Tensor1D, bias: tf.tensor1d([1, 2, 3, 4]) };
      expectClose(layerNorm(tf.fill([1, 4], 0.5), p), [1, 2, 3, 4], { atol: 0 });
    });
  });

  it('stays accurate for a large mean', () => {
    const x = normal(1, [3, 32]);
    const far = { ...x, values: x.values.map((value) => Math.fround(value + 100)) };
    const w = normal(2, [32]);
    tf.tidy(() => {
      const y = layerNorm(tf.tensor(far.values, [3, 32]), { weight: tf.tensor1d(w.values) });
      const expected = layerNormReference(Float64Array.from(far.values), Float64Array.from(w.values), undefined, 1e-5);
      expectClose(y.dataSync(), expected, { rtol: 3e-5 });
    });
  });

  it('accepts an input without rows', () => {
    tf.tidy(() => {
      expect(layerNorm(tf.zeros([0, 4]), { weight: tf.ones([4]) as tf.Tensor1D }).shape).toEqual([0, 4]);
    });
  });

  it('says what does not fit', () => {
    tf.tidy(() => {
      const weight = tf.ones([4]) as tf.Tensor1D;
      expect(() => layerNorm(tf.ones([2, 3]), { weight })).toThrow(/layerNorm: x must be \[\.\.\., 4\].*got \[2, 3\]/);
      expect(() => layerNorm(tf.ones([2, 4]), { weight, bias: tf.ones([3]) })).toThrow(/bias must be \[4\], got \[3\]/);
    });
  });
});
