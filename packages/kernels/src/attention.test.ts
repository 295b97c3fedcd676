import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectClose } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { checkOp, normal, toTensor } from '../test/check-op';
import { attention, type AttentionOptions } from './attention';
import { attentionReference, type AttentionCase } from './attention.reference';

const tolerance = { forward: 5e-7, gradient: 3e-6 };

/** Checks one case against the reference, with its gradients. */
function check(c: AttentionCase): void {
  const { batch, queries, keys, numHeads, headDim, biasShape } = c;
  const width = numHeads * headDim;
  const inputs = [normal(1, [batch, queries, width]), normal(2, [batch, keys, width]), normal(3, [batch, keys, width])];
  if (biasShape) inputs.push(normal(4, biasShape));
  const keyMask = c.keyMask && tf.tensor2d([...c.keyMask], [batch, keys]);
  const options: AttentionOptions = {
    numHeads,
    scale: c.scale,
    causal: c.causal,
    keyMask,
    emptyRows: c.uniformEmptyRows ? 'uniform' : 'zero',
  };
  checkOp(
    (q, k, v, bias) => attention(q!, k!, v!, { ...options, bias: bias as tf.Tensor4D | undefined }),
    (q, k, v, bias) => attentionReference(q!, k!, v!, bias, c),
    inputs,
    tolerance,
  );
  keyMask?.dispose();
}

const plain: AttentionCase = { batch: 2, queries: 3, keys: 5, numHeads: 2, headDim: 3, scale: 3 ** -0.5 };
const square: AttentionCase = { ...plain, keys: 3 };
/** The first example has a gap and a masked end; the second sees nothing at all. */
const keyMask = [1, 0, 1, 1, 0, 0, 0, 0, 0, 0];

describeBackends('attention', () => {
  it.each<[string, AttentionCase]>([
    ['everything visible', plain],
    ['one head', { ...plain, numHeads: 1, headDim: 4 }],
    ['one query', { ...plain, queries: 1, causal: true }],
    ['one key', { ...plain, keys: 1 }],
    ['another scale', { ...plain, scale: 2 }],
    ['causal', { ...square, causal: true }],
    ['causal with earlier keys', { ...plain, causal: true }],
    ['causal with more queries than keys: the first see nothing', { ...plain, queries: 5, keys: 3, causal: true }],
    ['masked keys, a whole example masked', { ...plain, keyMask }],
    ['masked keys, the mean where there is nothing', { ...plain, keyMask, uniformEmptyRows: true }],
    ['causal with left padding', { ...square, causal: true, keyMask: [0, 1, 1, 0, 0, 1] }],
    ['the same, uniform', { ...square, causal: true, keyMask: [0, 1, 1, 0, 0, 1], uniformEmptyRows: true }],
    ['bias', { ...plain, biasShape: [2, 2, 3, 5] }],
    ['bias for all examples', { ...plain, biasShape: [1, 2, 3, 5], causal: true }],
    ['bias per head and key', { ...plain, biasShape: [1, 2, 1, 5] }],
    ['bias for all heads', { ...plain, biasShape: [2, 1, 3, 5], keyMask }],
  ])('%s', (_, c) => check(c));

  it('scales by headDim ** -0.5 by default', () => {
    tf.tidy(() => {
      const [q, k] = [toTensor(normal(1, [1, 2, 8])), toTensor(normal(2, [1, 3, 8]))];
      expectClose(attention(q, k, k, { numHeads: 2 }), attention(q, k, k, { numHeads: 2, scale: 0.5 }), { atol: 0 });
    });
  });

  it('returns exact zeros, not NaN, where nothing is visible, whatever the scores', () => {
    tf.tidy(() => {
      const q = tf.fill([1, 2, 4], 1e18);
      const k = tf.fill([1, 3, 4], 1e18);
      const keyMask = tf.zeros([1, 3]) as tf.Tensor2D;
      expectClose(attention(q, k, k, { numHeads: 1, keyMask }), new Float32Array(8), { atol: 0 });
      const [dq, dk] = tf.grads((q, k) => attention(q!, k!, k!, { numHeads: 1, keyMask }))([q, k]);
      expectClose(dq!, new Float32Array(8), { atol: 0 });
      expectClose(dk!, new Float32Array(12), { atol: 0 });
    });
  });

  it('ignores a masked key, however large its score', () => {
    tf.tidy(() => {
      const q = tf.ones([1, 1, 2]);
      const v = tf.tensor3d([1, 2, 3, 4], [1, 2, 2]);
      const keyMask = tf.tensor2d([1, 0], [1, 2]);
      const k = tf.tensor3d([-1e6, -1e6, 1e6, 1e6], [1, 2, 2]);
      expectClose(attention(q, k, v, { numHeads: 1, keyMask }), [1, 2], { atol: 0 });
    });
  });

  it('accepts an input without queries', () => {
    tf.tidy(() => {
      const y = attention(tf.zeros([2, 0, 4]), tf.ones([2, 3, 4]), tf.ones([2, 3, 4]), { numHeads: 2, causal: true });
      expect(y.shape).toEqual([2, 0, 4]);
    });
  });

  it('says what does not fit', () => {
    tf.tidy(() => {
      const x = tf.ones([2, 3, 4]);
      const o = { numHeads: 2 };
      expect(() => attention(tf.ones([3, 4]), x, x, o)).toThrow(
        /q must be \[batch, queries, heads\*headDim\], got \[3, 4\]/,
      );
      expect(() => attention(x, tf.ones([2, 3, 6]), x, o)).toThrow(/k must be \[2, keys, 4\], got \[2, 3, 6\]/);
      expect(() => attention(x, x, tf.ones([2, 2, 4]), o)).toThrow(/v must be \[2, 3, 4\], got \[2, 2, 4\]/);
      expect(() => attention(x, x, x, { numHeads: 3 })).toThrow(/width 4 of q must be a multiple of numHeads, got 3/);
      expect(() => attention(x, x, x, { ...o, keyMask: tf.ones([2, 4]) })).toThrow(
        /keyMask must be \[2, 3\], got \[2, 4\]/,
      );
      expect(() => attention(x, x, x, { ...o, bias: tf.ones([1, 3, 3, 3]) })).toThrow(
        /bias must be \[2, 2, 3, 3\] or 1 along an axis, got \[1, 3, 3, 3\]/,
      );
    });
  });
});
