import * as tf from '@tensorflow/tfjs-core';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { nativeLibrary, registerNativeBackend, setNativePrecision } from './index';

const normal = (shape: number[], seed: number) => tf.randomNormal(shape, 0, 1, 'float32', seed);

function relativeError(a: tf.Tensor, b: tf.Tensor): number {
  return tf.tidy(() => tf.div(tf.norm(tf.sub(a, b)), tf.norm(b)).dataSync()[0]!);
}

registerNativeBackend();
const able = /bf16|fp16|amx|vnni_2/.test(nativeLibrary().cpuIsa);

it.skipIf(able)('bfloat16 is refused where the processor cannot multiply it', async () => {
  await tf.setBackend('native');
  expect(() => setNativePrecision('bfloat16')).toThrow(/needs a processor that multiplies it, and oneDNN sees avx/);
});

describe.skipIf(!able)('products in bfloat16', () => {
  beforeAll(() => tf.setBackend('native'));
  afterEach(() => setNativePrecision('float32'));

  it.each([
    ['rows and columns', [256, 192], [192, 320], false, false],
    ['first factor transposed', [192, 256], [192, 320], true, false],
    ['second factor transposed', [256, 192], [320, 192], false, true],
    ['a batch', [3, 256, 192], [3, 192, 160], false, false],
  ] as const)('%s', (_, a, b, transposeA, transposeB) => {
    tf.tidy(() => {
      const [x, y] = [normal([...a], 1), normal([...b], 2)];
      const exact = tf.matMul(x, y, transposeA, transposeB);
      setNativePrecision('bfloat16');
      const error = relativeError(tf.matMul(x, y, transposeA, transposeB), exact);
      expect(error).toBeLessThan(5e-3);
      expect(error).toBeGreaterThan(1e-4);
    });
  });

  it('leaves small products as they are', () => {
    tf.tidy(() => {
      const [x, y] = [normal([8, 192], 1), normal([192, 320], 2)];
      const exact = tf.matMul(x, y);
      setNativePrecision('bfloat16');
      expect(relativeError(tf.matMul(x, y), exact)).toBe(0);
    });
  });
});
