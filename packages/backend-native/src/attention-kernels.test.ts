import { attention, mediaCrossAttention, MediaSegments, relativeScores } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { expectAsOnCpu, uniform, useNative } from '../test/against-cpu';
import { relativeError } from '@flamingo-ts/testing';
import type { NativeBackend } from './index';
import { oneDnn } from './onednn/onednn';
import { multipliesBfloat16 } from './frozen/blocks';

let backend: NativeBackend;

beforeAll(async () => {
  await useNative();
  backend = tf.backend() as NativeBackend;
});

// Fills every buffer that a kernel may get with NaN, so that reads of uninitialized memory show.
beforeEach(() => {
  for (let size = 64; size < 1 << 19; size *= 2) {
    const buffers = Array.from({ length: 8 }, () => backend.pool.allocate(size).fill(NaN));
    for (const buffer of buffers) backend.pool.release(buffer);
  }
});

/** The result of an operation and the gradients to its inputs, for a random gradient of the result. */
function withGradients(op: (...inputs: tf.Tensor[]) => tf.Tensor, inputs: readonly tf.Tensor[]): tf.Tensor[] {
  const y = op(...inputs);
  return [y, ...tf.grads(op)([...inputs], uniform(y.shape, 9))];
}

/** A second run compiles nothing and leaves nothing behind. */
function expectSteady(run: () => tf.Tensor[]): void {
  tf.dispose(run());
  const [tensors, ids, { live }] = [tf.memory().numTensors, backend.numDataIds(), backend.pool.stats()];
  const compile = vi.spyOn(backend.dnn, 'matmul');
  tf.dispose(run());
  expect(compile).not.toHaveBeenCalled();
  compile.mockRestore();
  expect([tf.memory().numTensors, backend.numDataIds()]).toEqual([tensors, ids]);
  expect(backend.pool.stats().live).toBe(live);
}

describe('relative scores', () => {
  const run = (b: number, t: number, s: number, h: number, d: number) =>
    withGradients((q, r) => relativeScores(q!, r!, h), [uniform([b, t, h * d], 1), uniform([s, h * d], 2)]);

  it.each([
    [3, 40, 40, 4, 16],
    [2, 7, 33, 3, 8],
    [2, 2, 2, 1, 1],
    [4, 1, 70, 3, 16],
  ])('batch %i, %i queries, %i keys, %i heads of %i, with gradients', async (...sizes) => {
    await expectAsOnCpu(() => run(...sizes), { relative: 2e-6 });
  });

  it('a query never affects later keys, whatever it holds', () => {
    tf.tidy(() => {
      const [b, t, s, h] = [2, 5, 8, 2];
      const q = tf.fill([b, t, h * 3], Infinity);
      const y = relativeScores(q, uniform([s, h * 3]), h).dataSync();
      const [dr] = tf.grads((r) => relativeScores(uniform([b, t, h * 3]), r!, h))([uniform([s, h * 3])], tf.fill([b, h, t, s], 1)); // prettier-ignore
      expect(dr!.dataSync()).not.toContain(NaN);
      for (let row = 0; row < b * h * t; row++) {
        const later = y.slice(row * s + s - t + (row % t) + 1, (row + 1) * s);
        for (const score of later) expect(score).toBe(0);
        expect(y[row * s]).not.toBe(0);
      }
    });
  });

  it.each([
    [0, 3, 3],
    [2, 0, 3],
    [2, 0, 0],
  ])('accepts empty inputs: batch %i, %i queries, %i keys', (b, t, s) => {
    tf.tidy(() => {
      const [y, dq, dr] = run(b, t, s, 2, 4);
      expect([y!.shape, dq!.shape]).toEqual([[b, 2, t, s], [b, t, 8]]); // prettier-ignore
      expect(dr!.dataSync()).toEqual(new Float32Array(s * 8));
    });
  });

  it('compiles once and keeps nothing', () => {
    expectSteady(() => tf.tidy(() => run(3, 20, 24, 2, 8)));
  });
});

describe('attention with too many scores to hold at once', () => {
  const [b, h, d] = [2, 2, 4];
  const inputs = (t: number, s: number, batch = b, width = h * d) => [
    uniform([batch, t, width], 1),
    uniform([batch, s, width], 2),
    uniform([batch, s, width], 3),
  ];
  const padded = (s: number, left: number, right: number) => {
    const row = (i: number) => Array.from({ length: s }, (_, j) => (j < left * i || j >= s - right ? 0 : 1));
    return tf.tensor2d([row(0), row(1)]);
  };

  it.each([
    ['causal', 300, 300],
    ['more keys than queries', 200, 450],
  ])('%s: %i queries, %i keys, with gradients', async (_, t, s) => {
    await expectAsOnCpu(
      () => withGradients((q, k, v) => attention(q!, k!, v!, { numHeads: h, causal: true }), inputs(t, s)),
      { relative: 5e-6 },
    );
  });

  it.each([
    ['two examples at a time', 3, 250, 260],
    ['part of the queries at a time', 2, 420, 330],
  ])('every key, %s, with gradients', async (_, batch, t, s) => {
    const heads = 16;
    await expectAsOnCpu(
      () => withGradients((q, k, v) => attention(q!, k!, v!, { numHeads: heads }), inputs(t, s, batch, heads)),
      { relative: 5e-6 },
    );
  });

  it.each(['zero', 'uniform'] as const)('padding on both sides, empty rows %s, with gradients', async (emptyRows) => {
    const options = { numHeads: h, causal: true, emptyRows };
    await expectAsOnCpu(
      () =>
        withGradients(
          (q, k, v) => attention(q!, k!, v!, { ...options, keyMask: padded(300, 40, 25) }),
          inputs(300, 300),
        ),
      { relative: 5e-6 },
    );
  });

  it.each(['zero', 'uniform'] as const)('more queries than keys, empty rows %s, with gradients', async (emptyRows) => {
    await expectAsOnCpu(
      () =>
        withGradients((q, k, v) => attention(q!, k!, v!, { numHeads: h, causal: true, emptyRows }), inputs(300, 180)),
      { relative: 5e-6 },
    );
  });

  it.each([1, 300])('bias of %i rows, and keys with spare room', async (rows) => {
    await expectAsOnCpu(
      () => {
        const [q, k, v] = inputs(300, 440);
        const bias = uniform([b, h, rows, 320], 4) as tf.Tensor4D;
        return [attention(q!, k!, v!, { numHeads: h, causal: true, bias, keyCount: 320 })];
      },
      { relative: 5e-6 },
    );
  });

  it.runIf(multipliesBfloat16(oneDnn()))('in bfloat16 if that is the precision of the backend, with gradients', () => {
    tf.tidy(() => {
      const run = () =>
        withGradients((q, k, v) => attention(q!, k!, v!, { numHeads: h, causal: true }), inputs(520, 520));
      const exact = run();
      backend.precision = 'bfloat16';
      const rounded = run();
      backend.precision = 'float32';
      exact.forEach((x, i) => {
        const error = relativeError(rounded[i]!.dataSync(), x.dataSync());
        expect(error).toBeLessThan(1e-2);
        expect(error).toBeGreaterThan(1e-4);
      });
    });
  });

  it('keeps no scores for the gradient, compiles once and leaves nothing behind', () => {
    const [q, k, v] = inputs(600, 600);
    const before = backend.pool.stats().live;
    tf.tidy(() => {
      const y = tf.grads((...x: tf.Tensor[]) => {
        const out = attention(x[0]!, x[1]!, x[2]!, { numHeads: h, causal: true });
        // Scores would be by far the largest live tensor: 600 x 600 for each head.
        expect(backend.pool.stats().live - before).toBeLessThan(4 * b * h * 600 * 600);
        return out;
      })([q!, k!, v!]);
      expect(y).toHaveLength(3);
    });
    expectSteady(() => tf.tidy(() => withGradients((x) => attention(x!, k!, v!, { numHeads: h, causal: true }), [q!])));
  });
});

describe('media cross-attention', () => {
  const [h, d, latents] = [3, 16, 5];
  const run = (mediaIndex: number[], batch: number, media: number) => {
    const text = mediaIndex.length / batch;
    const segments = new MediaSegments(mediaIndex, batch, text, media);
    const images = [batch, media, latents, h * d];
    return withGradients(
      (q, k, v) => mediaCrossAttention(q!, k!, v!, segments, { numHeads: h }),
      [uniform([batch, text, h * d], 1), uniform(images, 2), uniform(images, 3)],
    );
  };
  const cases: [string, number[], number, number][] = [
    ['rows and images already in order', [1, 1, 2, 2, 1, 1, 2, 2], 2, 2],
    ['text before the first image', [0, 0, 1, 1, 2, 2, 2, 0, 1, 2, 2, 2, 2, 2], 2, 2],
    ['scattered rows of an image', [2, 1, 2, 1, 3, 3, 1, 2], 1, 3],
    ['images that no row sees', [0, 2, 2, 0, 4, 4, 2, 0], 2, 4],
    ['images of several tiles', [1, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4], 1, 4],
    ['single rows', [2, 0, 1], 3, 2],
  ];

  it.each(cases)('%s, with gradients', async (_, ...numbers) => {
    await expectAsOnCpu(() => run(...numbers), { relative: 2e-6 });
  });

  it('returns exact zeros for text that sees no image', () => {
    tf.tidy(() => {
      const [y, dq, dk, dv] = run([0, 2, 2, 0, 4, 4, 2, 0], 2, 4).map((x) => x.dataSync());
      for (const x of [y!, dq!]) {
        for (const row of [0, 3, 7]) expect(x.slice(row * h * d, (row + 1) * h * d)).toEqual(new Float32Array(h * d));
      }
      const each = latents * h * d;
      for (const x of [dk!, dv!]) {
        for (const image of [0, 2, 3, 4, 6]) {
          expect(x.slice(image * each, (image + 1) * each)).toEqual(new Float32Array(each));
        }
      }
    });
  });

  it('accepts text that sees no image at all', () => {
    tf.tidy(() => {
      for (const x of run([0, 0, 5, 0], 2, 3)) expect(x.dataSync()).toEqual(new Float32Array(x.size));
      expect(run([0, 0], 2, 0).map((x) => x.size)).toEqual([2 * h * d, 2 * h * d, 0, 0]);
    });
  });

  it.each(cases)('%s: compiles once and keeps nothing', (_, ...numbers) => {
    expectSteady(() => tf.tidy(() => run(...numbers)));
  });
});
