import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectClose } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { checkOp, normal } from '../test/check-op';
import { rmsNorm } from './rms-norm';
import { rmsNormReference } from './rms-norm.reference';

const tolerance = { forward: 3e-7, gradient: 4e-6 };

describeBackends('rmsNorm', () => {
  it.each([1e-6, 0.1])('eps %s', (eps) => {
    checkOp(
      (x, w) => rmsNorm(x!, { weight: w as tf.Tensor1D }, eps),
      (x, w) => rmsNormReference(x!, w!, eps),
      [normal(1, [2, 3, 7]), normal(2, [7])],
      tolerance,
    );
  });

  it('eps is 1e-6 by default', () => {
    checkOp(
      (x, w) => rmsNorm(x!, { weight: w as tf.Tensor1D }),
      (x, w) => rmsNormReference(x!, w!, 1e-6),
      [normal(1, [4, 6], 1e-3), normal(2, [6])],
      tolerance,
    );
  });

  it('gives zeros for a row of zeros, and takes no rows', () => {
    tf.tidy(() => {
      const weight = tf.ones([4]) as tf.Tensor1D;
      expectClose(rmsNorm(tf.zeros([1, 4]), { weight }), [0, 0, 0, 0], { atol: 0 });
      expect(rmsNorm(tf.zeros([0, 4]), { weight }).shape).toEqual([0, 4]);
    });
  });

  it('says what does not fit', () => {
    tf.tidy(() => {
      const weight = tf.ones([4]) as tf.Tensor1D;
      expect(() => rmsNorm(tf.ones([2, 3]), { weight })).toThrow(/rmsNorm: x must be \[\.\.\., 4\].*got \[2, 3\]/);
    });
  });
});
