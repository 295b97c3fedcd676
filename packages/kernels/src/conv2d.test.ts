import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectClose } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { checkOp, normal } from '../test/check-op';
import { conv2d } from './conv2d';
import { conv2dReference, type ConvCase } from './conv2d.reference';

const base: ConvCase = {
  batch: 2,
  height: 5,
  width: 4,
  channels: 4,
  out: 6,
  kernel: [3, 3],
  stride: 1,
  groups: 1,
  padding: 'same',
};

describeBackends('conv2d', () => {
  it.each<[string, ConvCase]>([
    ['same', base],
    ['same, stride 2, odd by even', { ...base, stride: 2 }],
    ['same, stride 2, even by odd', { ...base, stride: 2, height: 4, width: 7 }],
    ['same, stride 2, 1x1 kernel', { ...base, stride: 2, kernel: [1, 1] }],
    ['same, stride 2, one cell', { ...base, stride: 2, height: 1, width: 1 }],
    ['same, even kernel', { ...base, kernel: [2, 4] }],
    ['symmetric', { ...base, padding: 'symmetric' }],
    ['symmetric, stride 2', { ...base, padding: 'symmetric', stride: 2 }],
    ['valid, stride 2 that leaves a column out', { ...base, padding: 'valid', stride: 2, width: 6 }],
    ['valid, patches', { ...base, padding: 'valid', stride: 2, height: 6, kernel: [2, 2] }],
    ['1x1', { ...base, kernel: [1, 1] }],
    ['two groups', { ...base, groups: 2 }],
    ['two groups, stride 2', { ...base, groups: 2, stride: 2 }],
    ['one channel per group', { ...base, channels: 3, out: 3, groups: 3 }],
  ])('%s', (_, c) => {
    const { batch, height, width, channels, out, kernel, groups } = c;
    checkOp(
      (x, weight, bias) => conv2d(x!, { weight: weight!, bias: bias as tf.Tensor1D }, c),
      (x, weight, bias) => conv2dReference(x!, weight!, bias, c),
      [normal(1, [batch, height, width, channels]), normal(2, [out, channels / groups, ...kernel]), normal(3, [out])],
      { forward: 6e-7, gradient: 1e-6 },
    );
  });

  it('without bias', () => {
    checkOp(
      (x, weight) => conv2d(x!, { weight: weight! }, { stride: 1, padding: 'same' }),
      (x, weight) =>
        conv2dReference(x!, weight!, undefined, { ...base, batch: 1, height: 3, width: 3, channels: 2, out: 3 }),
      [normal(1, [1, 3, 3, 2]), normal(2, [3, 2, 3, 3])],
      { forward: 6e-7, gradient: 1e-6 },
    );
  });

  it('same padding puts the odd cell after', () => {
    tf.tidy(() => {
      const x = tf.tensor4d([1, 2, 3, 4], [1, 1, 4, 1]);
      const y = conv2d(x, { weight: tf.tensor4d([1, 10, 100], [1, 1, 1, 3]) }, { stride: 2, padding: 'same' });
      expectClose(y, [321, 43], { atol: 0 });
    });
  });

  it('says what does not fit', () => {
    tf.tidy(() => {
      const x = tf.ones([1, 4, 4, 4]);
      const o = { stride: 1, padding: 'same' } as const;
      expect(() => conv2d(tf.ones([4, 4, 4]), { weight: tf.ones([2, 4, 3, 3]) }, o)).toThrow(
        /x must be \[batch, .*NHWC/,
      );
      expect(() => conv2d(x, { weight: tf.ones([2, 3, 3, 3]) }, o)).toThrow(
        /weight must be \[out, 4, .*got \[2, 3, 3, 3\]/,
      );
      expect(() => conv2d(x, { weight: tf.ones([3, 2, 3, 3]) }, { ...o, groups: 2 })).toThrow(
        /3 output channels must be a multiple of groups, got 2/,
      );
      expect(() => conv2d(x, { weight: tf.ones([2, 4, 3, 3]), bias: tf.ones([3]) }, o)).toThrow(/bias must be \[2\]/);
      expect(() => conv2d(x, { weight: tf.ones([2, 4, 5, 5]) }, { ...o, padding: 'valid' })).toThrow(
        /kernel 5x5 is larger than the padded picture 4x4/,
      );
    });
  });
});
