import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectClose } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { checkOp, normal, toTensor } from '../test/check-op';
import { rotary } from './rotary';
import { rotaryReference } from './rotary.reference';

/** n different angles for each token of each text. */
function angles(texts: number, text: number, n: number): number[][] {
  return Array.from({ length: texts * text }, (_, i) => Array.from({ length: n }, (__, j) => (i + 1) * 0.7 ** j));
}

const turnsOf = (all: number[][], texts: number) =>
  tf.tensor3d(
    all.flatMap((own) => [...own.map(Math.cos), ...own.map(Math.sin)]),
    [texts, all.length / texts, 2 * all[0]!.length],
  );

describeBackends('rotary', () => {
  it.each([
    [2, 3, 2, 4, 2, 1],
    [2, 3, 1, 8, 2, 2],
    [1, 1, 3, 6, 1, 1],
    [1, 5, 2, 7, 3, 1],
  ])('batch %i, %i tokens, %i heads of %i, %i angles of %i texts', (b, t, h, d, n, texts) => {
    const own = angles(texts, t, n);
    const turns = turnsOf(own, texts);
    const token = (i: number) => own[texts === 1 ? i % t : i]!;
    checkOp(
      (x) => rotary(x!, turns, d),
      (x) => {
        const heads = Array.from({ length: b * t * h }, (_, i) => x.subarray(i * d, (i + 1) * d));
        return Float64Array.from(heads.flatMap((head, i) => rotaryReference(head, token(Math.floor(i / h)))));
      },
      [normal(1, [b, t, h * d])],
      { forward: 3e-7, gradient: 5e-7 },
    );
    turns.dispose();
  });

  it('makes scores depend only on distances', () => {
    tf.tidy(() => {
      const [q, k] = [1, 2].map((seed) => toTensor(normal(seed, [1, 1, 4])));
      const at = (x: tf.Tensor, position: number) => rotary(x, turnsOf([[position, position / 10]], 1), 4);
      const score = (i: number, j: number) => tf.sum(tf.mul(at(q!, i), at(k!, j)));
      expectClose(score(9, 5), score(4, 0), { atol: 1e-5 });
    });
  });

  it('says what does not fit', () => {
    tf.tidy(() => {
      const x = tf.ones([2, 3, 8]);
      expect(() => rotary(x, tf.ones([3, 3, 2]), 4)).toThrow(/turns must be \[2, 3, 2n\], got \[3, 3, 2\]/);
      expect(() => rotary(x, tf.ones([1, 2, 2]), 4)).toThrow(/turns must be \[1, 3, 2n\], got \[1, 2, 2\]/);
      expect(() => rotary(x, tf.ones([1, 3, 3]), 4)).toThrow(/must be even and at most headDim, got 3/);
      expect(() => rotary(x, tf.ones([1, 3, 6]), 4)).toThrow(/at most headDim, got 6/);
      expect(() => rotary(x, tf.ones([1, 3, 2]), 3)).toThrow(/width 8 of x must be a multiple of headDim 3/);
    });
  });
});
