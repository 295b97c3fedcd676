import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import {
  activation,
  attention,
  conv2d,
  crossEntropy,
  FrozenFilter,
  FrozenMatrix,
  linear,
  mediaCrossAttention,
  MediaSegments,
  mlp,
  relativeScores,
  rotary,
  standardizeWeight,
  useBackend,
} from './index';

await useBackend('cpu');

/** As a caller without a type checker writes it. */
const any = <T>(value: unknown): T => value as T;
const x = tf.ones([1, 2, 4]) as tf.Tensor3D;
const weight = tf.ones([4, 4]) as tf.Tensor2D;
const image = tf.ones([1, 4, 4, 2]) as tf.Tensor4D;
const kernel = tf.ones([2, 2, 1, 1]) as tf.Tensor4D;
const rows = tf.ones([2, 4]);
const targets = tf.tensor1d([0, 1], 'int32');
const conv = { stride: 1, padding: 'same' } as const;

it.each<[string, () => unknown]>([
  ['activation: kind must be one of relu, gelu,', () => activation(x, any('tanh'))],
  ['activation: kind must be one of relu, gelu,', () => activation(x, any(undefined))],
  ['linear: activation must be one of relu, gelu,', () => linear(x, { weight }, any('GELU'))],
  ['mlp: activation must be one of relu, gelu,', () => mlp(x, { up: { weight }, down: { weight } }, any(undefined))],
  [
    'conv2d: padding must be one of same, symmetric, valid, got "full"',
    () => conv2d(image, { weight: kernel }, { ...conv, padding: any('full') }),
  ],
  [
    'conv2d: stride must be a whole number of at least 1, got 0',
    () => conv2d(image, { weight: kernel }, { ...conv, stride: 0 }),
  ],
  [
    'conv2d: groups must be a whole number of at least 1, got 0.5',
    () => conv2d(image, { weight: kernel }, { ...conv, groups: 0.5 }),
  ],
  [
    'conv2d: activation must be one of relu',
    () => conv2d(image, { weight: kernel }, { ...conv, activation: any('elu') }),
  ],
  [
    'crossEntropy: reduction must be one of mean, sum, got "none"',
    () => crossEntropy(rows, targets, { reduction: any('none') }),
  ],
  [
    'crossEntropy: labelSmoothing must be a number from 0 to 1, got 2',
    () => crossEntropy(rows, targets, { labelSmoothing: 2 }),
  ],
  [
    'crossEntropy: label_smoothing is not a known key',
    () => crossEntropy(rows, targets, any({ label_smoothing: 0.1 })),
  ],
  ['attention: numHeads must be a whole number of at least 1, got -2', () => attention(x, x, x, { numHeads: -2 })],
  ['attention: numHeads must be a whole number of at least 1, got undefined', () => attention(x, x, x, any({}))],
  [
    'attention: emptyRows must be one of zero, uniform, got "mean"',
    () => attention(x, x, x, { numHeads: 2, emptyRows: any('mean') }),
  ],
  [
    'mediaCrossAttention: numHeads must be',
    () =>
      mediaCrossAttention(x, tf.ones([1, 1, 2, 4]), tf.ones([1, 1, 2, 4]), new MediaSegments([0, 1], 1, 2, 1), {
        numHeads: 0.5,
      }),
  ],
  [
    'MediaSegments: mediaIndex must hold whole numbers, 0 for no image or an image counted from 1, got NaN',
    () => new MediaSegments([0, NaN], 1, 2, 1),
  ],
  [
    'MediaSegments: media must be a whole number of at least 0, got undefined',
    () => new MediaSegments([0, 1], 1, 2, any(undefined)),
  ],
  ['relativeScores: numHeads must be', () => relativeScores(x, tf.ones([2, 4]), any('2'))],
  ['rotary: headDim must be', () => rotary(x, tf.ones([1, 2, 2]), NaN)],
  [
    'standardizeWeight: standardization must be one of timm, deepmind, got "jax"',
    () => standardizeWeight(kernel, tf.ones([2]), { standardization: any('jax'), eps: 1e-5 }),
  ],
  [
    'standardizeWeight: eps must be a finite number of at least 0, got NaN',
    () => standardizeWeight(kernel, tf.ones([2]), { standardization: 'timm', eps: NaN }),
  ],
  [
    'FrozenMatrix: precision must be one of float32, bfloat16, int8, got "fp16"',
    () => new FrozenMatrix(new Float32Array(4), [2, 2], any('fp16')),
  ],
  ['FrozenFilter: precision must be one of float32, bfloat16, got "int8"', () => new FrozenFilter(kernel, any('int8'))],
])('%s', (message, call) => {
  expect(call).toThrow(message);
});
