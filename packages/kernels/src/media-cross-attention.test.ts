import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectClose } from '@flamingo-ts/testing';
import { describe, expect, it } from 'vitest';
import { checkOp, normal, toTensor } from '../test/check-op';
import { mediaCrossAttention } from './media-cross-attention';
import { mediaCrossAttentionReference, type MediaAttentionCase } from './media-cross-attention.reference';
import { MediaSegments } from './media-segments';

const base = { latents: 3, numHeads: 2, headDim: 4 };

describeBackends('mediaCrossAttention', () => {
  it.each<[string, MediaAttentionCase]>([
    ['one image for all', { ...base, batch: 1, text: 4, media: 1, mediaIndex: [1, 1, 1, 1] }],
    ['text before the first image', { ...base, batch: 2, text: 4, media: 2, mediaIndex: [0, 0, 1, 2, 0, 1, 1, 1] }],
    ['an index above the images', { ...base, batch: 2, text: 3, media: 2, mediaIndex: [1, 2, 3, 9, 2, 0] }],
    ['an image that no token sees', { ...base, batch: 2, text: 3, media: 3, mediaIndex: [1, 3, 3, 0, 2, 2] }],
    ['images in any order', { ...base, batch: 1, text: 6, media: 3, mediaIndex: [3, 1, 2, 1, 3, 1] }],
    [
      'segments of very different length',
      { ...base, batch: 1, text: 9, media: 3, mediaIndex: [1, 2, 3, 3, 3, 3, 3, 3, 3] },
    ],
    ['one token per example', { ...base, batch: 3, text: 1, media: 2, mediaIndex: [2, 1, 0] }],
    ['one head, one latent', { ...base, latents: 1, numHeads: 1, batch: 1, text: 3, media: 2, mediaIndex: [1, 2, 2] }],
  ])('%s', (_, c) => {
    const { batch, text, media, latents, numHeads, headDim } = c;
    const segments = new MediaSegments(c.mediaIndex, batch, text, media);
    const keys = [batch, media, latents, numHeads * headDim];
    checkOp(
      (q, k, v) => mediaCrossAttention(q!, k!, v!, segments, { numHeads }),
      (q, k, v) => mediaCrossAttentionReference(q!, k!, v!, c),
      [normal(1, [batch, text, numHeads * headDim]), normal(2, keys), normal(3, keys)],
      { forward: 5e-7, gradient: 1e-6 },
    );
  });

  it('returns exact zeros, and no gradient, for text that sees no image', () => {
    tf.tidy(() => {
      const segments = new MediaSegments([0, 3, 0, 5], 2, 2, 2);
      const [q, k] = [toTensor(normal(1, [2, 2, 4])), toTensor(normal(2, [2, 2, 3, 4]))];
      const f = (...[q, k, v]: tf.Tensor[]) => mediaCrossAttention(q!, k!, v!, segments, { numHeads: 2 });
      expectClose(f(q, k, k), new Float32Array(16), { atol: 0 });
      for (const gradient of tf.grads(f)([q, k, toTensor(normal(3, [2, 2, 3, 4]))])) {
        expectClose(gradient, new Float32Array(gradient.size), { atol: 0 });
      }
    });
  });

  it('keeps an image, even one of NaN, from affecting the text of other images', () => {
    tf.tidy(() => {
      const k = tf.concat([tf.ones([1, 1, 3, 4]), tf.fill([1, 1, 3, 4], NaN)], 1);
      const segments = new MediaSegments([0, 1, 2], 1, 3, 2);
      const y = mediaCrossAttention(tf.ones([1, 3, 4]), k, k, segments, { numHeads: 2 });
      expectClose(tf.slice(y, [0, 0, 0], [1, 2, 4]), [0, 0, 0, 0, 1, 1, 1, 1], { atol: 1e-7 });
      expect(y.dataSync()[8]).toBeNaN();
    });
  });

  it('accepts a batch without images', () => {
    tf.tidy(() => {
      const k = tf.zeros([1, 0, 3, 4]);
      const y = mediaCrossAttention(tf.ones([1, 2, 4]), k, k, new MediaSegments([0, 0], 1, 2, 0), { numHeads: 2 });
      expectClose(y, new Float32Array(8), { atol: 0 });
    });
  });

  it('says what does not fit', () => {
    tf.tidy(() => {
      const segments = new MediaSegments([0, 1], 1, 2, 1);
      const [q, k] = [tf.ones([1, 2, 4]), tf.ones([1, 1, 3, 4])];
      const o = { numHeads: 2 };
      expect(() => mediaCrossAttention(tf.ones([1, 3, 4]), k, k, segments, o)).toThrow(
        /q must be \[1, 2, .*got \[1, 3, 4\]/,
      );
      expect(() => mediaCrossAttention(q, tf.ones([1, 2, 3, 4]), k, segments, o)).toThrow(
        /k must be \[1, 1, latents, 4\]/,
      );
      expect(() => mediaCrossAttention(q, k, tf.ones([1, 1, 2, 4]), segments, o)).toThrow(/v must be \[1, 1, 3, 4\]/);
      expect(() => mediaCrossAttention(q, k, k, segments, { numHeads: 3 })).toThrow(/multiple of numHeads, got 3/);
    });
  });
});

describe('MediaSegments', () => {
  it('puts each position that sees an image in one place of a tile of that image', () => {
    const index = [0, 1, 1, 2, 3, 4, 3, 3, 1, 1, 1, 1];
    const segments = new MediaSegments(index, 2, 6, 3);
    index.forEach((i, row) => {
      const place = segments.placeOfRow[row]!;
      if (i === 0 || i > 3) {
        expect(place).toBe(segments.rowOfPlace.length);
        return;
      }
      expect(segments.rowOfPlace[place]).toBe(row);
      expect(segments.imageOfTile[Math.floor(place / segments.tileLength)]).toBe(Math.floor(row / 6) * 3 + i - 1);
    });
  });

  it('wastes nothing on segments of equal length', () => {
    const { tiles, tileLength, rowOfPlace } = new MediaSegments([1, 1, 2, 2, 3, 3], 1, 6, 3);
    expect([tiles, tileLength, [...rowOfPlace]]).toEqual([3, 2, [0, 1, 2, 3, 4, 5]]);
  });

  it('at most doubles the work, however lengths vary', () => {
    const index = [...Array.from({ length: 20 }, (_, i) => i + 1), ...Array.from({ length: 300 }, () => 20)];
    const segments = new MediaSegments(index, 1, index.length, 20);
    expect(segments.rowOfPlace.length).toBeLessThanOrEqual(2 * index.length + segments.tileLength);
    expect(segments.tiles).toBeLessThanOrEqual(2 * 20);
  });

  it('says what is wrong with an index', () => {
    expect(() => new MediaSegments([0, 1], 1, 3, 1)).toThrow(/1 rows x 3 positions = 3 entries, got 2/);
    expect(() => new MediaSegments([0, -1], 1, 2, 1)).toThrow(
      /whole numbers, 0 for no image or an image counted from 1, got -1 at position 1/,
    );
    expect(() => new MediaSegments([0, 0.5], 1, 2, 1)).toThrow(/got 0.5 at position 1/);
  });
});
