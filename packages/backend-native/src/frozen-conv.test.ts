import { conv2d, conv2dSequence, FrozenFilter, type Activation, type Conv2dLayer } from '@flamingo-ts/kernels';
import { expectClose, relativeError } from '@flamingo-ts/testing';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { nativeLibrary, registerNativeBackend, setNativeThreads, type NativeBackend } from './index';

registerNativeBackend();
const hasBfloat16 = /bf16|fp16|amx/.test(nativeLibrary().cpuIsa);

const normal = (shape: number[], seed: number) => tf.randomNormal(shape, 0, 1, 'float32', seed);

/** `[out, in / groups, k, k]`, scaled so that outputs are about as large as inputs. */
const kernel = (shape: [number, number, number, number], seed: number) =>
  tf.tidy(() => tf.mul(normal(shape, seed), (shape[1] * shape[2] * shape[3]) ** -0.5));

const pool = () => (tf.backend() as NativeBackend).pool.stats();

describe('frozen convolutions', () => {
  beforeAll(() => tf.setBackend('native'));

  it.each<[string, [number, number, number, number], number, number]>([
    ['3x3', [32, 16, 3, 3], 1, 1],
    ['3x3 in groups, stride 2', [32, 16, 3, 3], 2, 2],
    ['1x1', [64, 32, 1, 1], 1, 1],
    // Fast code is not trusted with these, so the kernel stays row-major.
    ['1x1 that skips pixels, ragged', [6, 3, 1, 1], 1, 2],
    ['patches', [24, 3, 4, 4], 1, 4],
    ['one channel a group', [5, 1, 3, 3], 5, 1],
  ])('%s', (_, shape, groups, stride) => {
    tf.tidy(() => {
      const weight = kernel(shape, 1);
      const bias = normal([shape[0]], 2) as tf.Tensor1D;
      const o = { stride, groups, padding: 'same', activation: 'scaled-gelu-tanh' } as const;
      const [exact, rounded] = [new FrozenFilter(weight), new FrozenFilter(weight, 'bfloat16')];
      // The layout depends on the image size, so change the size and then return to the first.
      for (const side of [12, 5, 12]) {
        const x = normal([2, side, side, shape[1] * groups], 3);
        const y = conv2d(x, { weight, bias }, o);
        expectClose(conv2d(x, { weight: exact, bias }, o), y, { rtol: 1e-6, atol: 1e-6 });
        const error = relativeError(conv2d(x, { weight: rounded, bias }, o), y);
        expect(error).toBeLessThan(6e-3);
        if (hasBfloat16 && shape[0] > 20) expect(error).toBeGreaterThan(1e-4);
      }
      expectClose(exact.dense(), weight, { atol: 0 });
      expect(relativeError(rounded.dense(), weight)).toBeLessThan(hasBfloat16 ? 4e-3 : 1e-12);
      exact.dispose();
      rounded.dispose();
    });
  });

  it('hold bfloat16 in half the memory, if the processor multiplies it, and free everything on dispose', () => {
    const weight = kernel([128, 64, 3, 3], 1);
    const before = pool().live;
    const [exact, rounded] = [new FrozenFilter(weight), new FrozenFilter(weight, 'bfloat16')];
    const x = normal([1, 8, 8, 64], 2);
    for (const filter of [exact, rounded]) {
      conv2d(x, { weight: filter }, { stride: 1, padding: 'same' }).dispose();
      expect(filter.bytes).toBe((weight.size * 4) / (filter === rounded && hasBfloat16 ? 2 : 1));
      filter.dispose();
    }
    x.dispose();
    expect(pool().live).toBe(before);
    weight.dispose();
  });

  it.each(['scaled-gelu', 'scaled-relu', undefined] as (Activation | undefined)[])(
    'in sequence, with %s',
    (activation) => {
      tf.tidy(() => {
        const layers = (freeze: (weight: tf.Tensor) => tf.Tensor | FrozenFilter): Conv2dLayer[] => [
          { params: { weight: freeze(kernel([32, 16, 1, 1], 1)) }, stride: 1, padding: 'same', activation },
          { params: { weight: freeze(kernel([32, 16, 3, 3], 2)) }, stride: 2, groups: 2, padding: 'same', activation },
          { params: { weight: freeze(kernel([48, 32, 1, 1], 3)) }, stride: 1, padding: 'same' },
        ];
        const x = normal([2, 16, 16, 16], 4);
        const y = conv2dSequence(
          x,
          layers((weight) => weight),
        );
        for (const [precision, most] of [
          ['float32', 1e-6],
          ['bfloat16', 8e-3],
        ] as const) {
          const frozen = layers((weight) => new FrozenFilter(weight, precision));
          const before = pool().live;
          const z = conv2dSequence(x, frozen);
          expect(relativeError(z, y)).toBeLessThan(most);
          z.dispose();
          expect(pool().live).toBe(before);
          expect(conv2dSequence(tf.zeros([0, 16, 16, 16]), frozen).shape).toEqual([0, 8, 8, 48]);
          for (const { params } of frozen) params.weight.dispose();
        }
      });
    },
  );

  it('keep working after the number of threads changes', () => {
    tf.tidy(() => {
      const weight = kernel([32, 16, 3, 3], 1);
      const filter = new FrozenFilter(weight);
      const [x, o] = [normal([2, 8, 8, 16], 2), { stride: 1, padding: 'same' } as const];
      const { threads } = nativeLibrary();
      const y = conv2d(x, { weight: filter }, o);
      setNativeThreads(1);
      expectClose(conv2d(x, { weight: filter }, o), y, { rtol: 1e-6 });
      setNativeThreads(threads);
      filter.dispose();
    });
  });
});
