import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectClose } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { checkOp, normal } from '../test/check-op';
import { layerNorm } from './layer-norm';
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

  it('returns zeros for a row of zeros, and accepts an input without rows', () => {
    tf.tidy(() => {
      const weight = tf.ones([4]) as tf.Tensor1D;
      expectClose(rmsNorm(tf.zeros([1, 4]), { weight }), [0, 0, 0, 0], { atol: 0 });
      expect(rmsNorm(tf.zeros([0, 4]), { weight }).shape).toEqual([0, 4]);
    });
  });

  it('keeps its own weight gradient when a layer norm shares its input', () => {
    tf.tidy(() => {
      const [x, dy] = [tf.tensor([1, 2, 3, 5], [2, 2]), tf.tensor([1, -2, 3, 4], [2, 2])];
      const [one, other] = [tf.ones([2]), tf.ones([2])] as [tf.Tensor1D, tf.Tensor1D];
      const alone = tf.grads((x, w) => tf.sum(tf.mul(dy, rmsNorm(x!, { weight: w as tf.Tensor1D }))));
      const together = tf.grads((x, w) => {
        const both = tf.add(rmsNorm(x!, { weight: w as tf.Tensor1D }), layerNorm(x!, { weight: other }));
        return tf.sum(tf.mul(dy, both));
      });
      expectClose(together([x, one])[1]!, alone([x, one])[1]!, { atol: 1e-6 });
    });
  });

  it('says what does not fit', () => {
    tf.tidy(() => {
      const weight = tf.ones([4]) as tf.Tensor1D;
      expect(() => rmsNorm(tf.ones([2, 3]), { weight })).toThrow(/rmsNorm: x must be \[\.\.\., 4\].*got \[2, 3\]/);
    });
  });
});
