import * as tf from '@tensorflow/tfjs-core';
import { describeBackends } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { checkOp, normal } from '../test/check-op';
import { avgPool2d } from './avg-pool2d';
import { avgPool2dReference } from './avg-pool2d.reference';

describeBackends('avgPool2d', () => {
  it.each([
    [2, 4, 6, 3],
    [1, 5, 4, 2],
    [2, 4, 3, 2],
    [1, 3, 5, 1],
    [1, 1, 1, 2],
  ] as const)('[%i, %i, %i, %i]', (...shape) => {
    const tolerance = { forward: 2e-7, gradient: 1e-7 };
    checkOp(
      (x) => avgPool2d(x!),
      (x) => avgPool2dReference(x!, shape),
      [normal(1, shape)],
      tolerance,
    );
  });

  it('says what does not fit', () => {
    tf.tidy(() => {
      expect(() => avgPool2d(tf.ones([4, 4, 3]))).toThrow(/x must be \[batch, .*got \[4, 4, 3\].*NHWC/);
    });
  });
});
