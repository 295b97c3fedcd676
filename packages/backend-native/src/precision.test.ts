import { adamWStep, attention, FrozenMatrix, innerLinear, linear, mlp, writeRows } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { nativeLibrary, registerNativeBackend, setNativePrecision } from './index';
import type { NativeBackend } from './native-backend';

const normal = (shape: number[], seed: number) => tf.randomNormal(shape, 0, 1, 'float32', seed);

function relativeError(a: tf.Tensor, b: tf.Tensor): number {
  return tf.tidy(() => tf.div(tf.norm(tf.sub(a, b)), tf.norm(b)).dataSync()[0]!);
}

registerNativeBackend();
const hasBfloat16 = /bf16|fp16|amx|vnni_2/.test(nativeLibrary().cpuIsa);

it.skipIf(hasBfloat16)('rejects bfloat16 if the processor cannot multiply it', async () => {
  await tf.setBackend('native');
  expect(() => setNativePrecision('bfloat16')).toThrow(
    /requires a processor with bfloat16 instructions, but oneDNN uses avx/,
  );
});

describe.skipIf(!hasBfloat16)('products in bfloat16', () => {
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

  /** Values and gradients of f, in float32 and with products in bfloat16. */
  function bothWays(f: (...inputs: tf.Tensor[]) => tf.Tensor, inputs: tf.Tensor[]): [tf.Tensor, tf.Tensor][] {
    const run = () => {
      const y = f(...inputs);
      return [y, ...tf.grads((...all) => tf.sum(tf.square(f(...all))))(inputs)];
    };
    const exact = run();
    setNativePrecision('bfloat16');
    const rounded = run();
    setNativePrecision('float32');
    return exact.map((x, i) => [rounded[i]!, x]);
  }

  it.each(['gelu', 'gelu-tanh', 'squared-relu', 'quick-gelu'] as const)('a feed-forward layer with %s', (kind) => {
    tf.tidy(() => {
      const inputs = [normal([2, 128, 128], 1), normal([512, 128], 2), normal([512], 3), normal([128, 512], 4)];
      const frozen = new FrozenMatrix(normal([512, 128], 5).dataSync() as Float32Array, [512, 128], 'bfloat16');
      const forms = {
        trained: (x: tf.Tensor, w: tf.Tensor, b: tf.Tensor, v: tf.Tensor) =>
          mlp(
            x,
            { up: { weight: w as tf.Tensor2D, bias: b as tf.Tensor1D }, down: { weight: v as tf.Tensor2D } },
            kind,
          ),
        frozen: (x: tf.Tensor, _w: tf.Tensor, b: tf.Tensor, v: tf.Tensor) =>
          mlp(x, { up: { weight: frozen, bias: b as tf.Tensor1D }, down: { weight: v as tf.Tensor2D } }, kind),
      };
      for (const [rounded, exact] of bothWays(forms.trained, inputs)) {
        expect(relativeError(rounded, exact)).toBeLessThan(2e-2);
      }
      const [x, w, b, v] = inputs as [tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor];
      for (const [rounded, exact] of bothWays((a, c, d) => forms.frozen(a, w, c, d), [x, b, v])) {
        expect(relativeError(rounded, exact)).toBeLessThan(2e-2);
      }
      frozen.dispose();
    });
  });

  it.each([true, false])('attention over inner linear layers, causal: %s', (causal) => {
    tf.tidy(() => {
      const inputs = [normal([2, 160, 128], 1), ...[2, 3, 4].map((seed) => tf.mul(0.1, normal([128, 128], seed)))];
      const f = (x: tf.Tensor, ...weights: tf.Tensor[]) => {
        const [q, k, v] = weights.map((weight) => innerLinear(x, { weight: weight as tf.Tensor2D }) as tf.Tensor3D);
        return attention(q!, k!, v!, { numHeads: 2, causal });
      };
      for (const [rounded, exact] of bothWays(f, inputs)) expect(relativeError(rounded, exact)).toBeLessThan(2e-2);
    });
  });

  it('holds inner results in bfloat16 and returns them as float32 to other readers', () => {
    tf.tidy(() => {
      const backend = tf.backend() as NativeBackend;
      const [x, weight] = [normal([128, 128], 1), normal([256, 128], 2) as tf.Tensor2D];
      setNativePrecision('bfloat16');
      const [inner, plain] = [innerLinear(x, { weight }), linear(x, { weight })];
      expect([backend.isBfloat16(inner), backend.isBfloat16(plain)]).toEqual([true, false]);
      expect(relativeError(inner, plain)).toBeLessThan(3e-3);
      // Every reader gets the same numbers.
      expect(tf.add(inner, 0).dataSync()).toEqual(inner.dataSync());
      expect(tf.concat([inner, plain]).dataSync().subarray(0, inner.size)).toEqual(inner.dataSync());
    });
  });

  it('converts a tensor once, and again after it is written', () => {
    const backend = tf.backend() as NativeBackend;
    setNativePrecision('bfloat16');
    tf.tidy(() => {
      const eye = tf.add(0, tf.eye(256)) as tf.Tensor2D;
      const read = (x: tf.Tensor) => tf.matMul(eye, tf.reshape(x, [256, 256]) as tf.Tensor2D);
      const [p, m, v] = [1, 2, 3].map((seed) => tf.variable(tf.abs(normal([256, 256], seed))));
      let before = read(p!);
      expect(backend.bfloat16Address(p!)).toBe(backend.bfloat16Address(p!));
      const options = { learningRate: 0.5, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: [0.1], step: 1 };
      adamWStep([p!], [normal([256, 256], 4)], [m!], [v!], options);
      expect(relativeError(read(p!), before)).toBeGreaterThan(0.1);
      expect(relativeError(read(p!), p!)).toBeLessThan(5e-3);
      let cache = tf.fill([1, 256, 256], 1) as tf.Tensor3D;
      before = read(cache);
      cache = writeRows(cache, tf.fill([1, 128, 256], 7) as tf.Tensor3D, 0);
      expect(relativeError(read(cache), before)).toBeGreaterThan(0.1);
      [p, m, v].forEach((each) => each!.dispose());
    });
  });

  it('limits the memory of conversions, and keeps none of disposed tensors', () => {
    const backend = tf.backend() as NativeBackend;
    setNativePrecision('bfloat16');
    const before = backend.pool.stats().live;
    const tensors = Array.from({ length: 12 }, (_, i) => tf.fill([1024, 2048], i));
    const own = backend.pool.stats().live;
    for (const x of tensors) backend.bfloat16Address(x);
    // Twelve conversions of 4 MiB were requested.
    expect(backend.pool.stats().live - own).toBeLessThanOrEqual(1 << 24);
    tf.dispose(tensors);
    expect(backend.pool.stats().live).toBe(before);
  });

  it('computes small products in float32', () => {
    tf.tidy(() => {
      const [x, y] = [normal([8, 192], 1), normal([192, 320], 2)];
      const exact = tf.matMul(x, y);
      setNativePrecision('bfloat16');
      expect(relativeError(tf.matMul(x, y), exact)).toBe(0);
    });
  });
});
