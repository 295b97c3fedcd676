import type * as tf from '@tensorflow/tfjs-core';
import { zeros, tidy } from '@tensorflow/tfjs-core';
import { describeBackends } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { checkOp, normal } from '../test/check-op';
import { conv2dReference } from './conv2d.reference';
import { standardizeWeight, weightStandardizedConv2d, type StandardizeOptions } from './standardize-weight';
import { standardizeWeightReference } from './standardize-weight.reference';

const tolerance = { forward: 6e-7, gradient: 1e-6 };
const timm: StandardizeOptions = { standardization: 'timm', eps: 1e-5 };
const deepmind: StandardizeOptions = { standardization: 'deepmind', eps: 1e-4 };
const shape = [4, 2, 3, 3];
/** The first two kernels are so small that eps dominates. */
const mixed = normal(1, shape);
mixed.values.subarray(0, 36).forEach((w, i, all) => (all[i] = Math.fround(w * 1e-3)));

describeBackends('standardizeWeight', () => {
  it.each<[string, StandardizeOptions]>([
    ['timm', timm],
    ['timm with gamma', { ...timm, gamma: 1.7 }],
    ['deepmind', deepmind],
    ['deepmind with gamma', { ...deepmind, gamma: 1.7 }],
  ])('%s', (_, o) => {
    const run = (weight: ReturnType<typeof normal>) =>
      checkOp(
        (w, g) => standardizeWeight(w!, g!, o),
        (w, g) => standardizeWeightReference(w!, g!, o),
        [weight, normal(2, [4])],
        tolerance,
      );
    run(normal(1, shape));
    run(mixed);
  });

  it('says what does not fit', () => {
    tidy(() => {
      expect(() => standardizeWeight(zeros(shape), zeros([3]), timm)).toThrow(/gain must be \[4\], got \[3\]/);
    });
  });
});

describeBackends('weightStandardizedConv2d', () => {
  it.each([
    ['timm', 1, 'same'],
    ['timm', 2, 'symmetric'],
    ['deepmind', 2, 'same'],
  ] as const)('%s, stride %i, %s', (standardization, stride, padding) => {
    const c = {
      batch: 1,
      height: 5,
      width: 4,
      channels: 4,
      out: 4,
      kernel: [3, 3],
      stride,
      groups: 2,
      padding,
    } as const;
    const o = { standardization, eps: 1e-4, stride, groups: 2, padding };
    checkOp(
      (x, weight, gain, bias) =>
        weightStandardizedConv2d(x!, { weight: weight!, gain: gain as tf.Tensor1D, bias: bias as tf.Tensor1D }, o),
      (x, weight, gain, bias) => conv2dReference(x!, standardizeWeightReference(weight!, gain!, o), bias, c),
      [normal(1, [1, 5, 4, 4]), mixed, normal(3, [4]), normal(4, [4])],
      tolerance,
    );
  });
});
