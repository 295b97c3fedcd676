import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import { collapse, eachRun } from './broadcast';

describe('collapse', () => {
  it('merges neighboring axes along which the operands move alike', () => {
    expect(collapse([2, 3, 4], [2, 3, 4], [2, 3, 4])).toEqual({ dims: [24], a: [1], b: [1] });
    expect(collapse([2, 3, 4], [2, 3, 4], [4])).toEqual({ dims: [6, 4], a: [4, 1], b: [0, 1] });
    expect(collapse([2, 3, 4], [2, 1, 1], [2, 3, 4])).toEqual({ dims: [2, 12], a: [1, 0], b: [12, 1] });
    expect(collapse([2, 3, 4], [], [2, 3, 4])).toEqual({ dims: [24], a: [0], b: [1] });
    expect(collapse([1, 1], [1, 1], [1])).toEqual({ dims: [1], a: [1], b: [1] });
  });

  it.each([
    [
      [2, 1, 4],
      [3, 1],
    ],
    [
      [1, 3, 1, 2],
      [5, 1, 4, 1],
    ],
    [
      [3, 1],
      [1, 5],
    ],
    [[], [2, 2]],
  ])('eachRun visits every pair of %j and %j', (a, b) => {
    const shape = tf.broadcast_util.assertAndGetBroadcastShape(a, b);
    const c = collapse(shape, a, b);
    const last = c.dims.length - 1;
    const pairs: number[] = [];
    eachRun(c, (i, j, o) => {
      for (let n = 0; n < c.dims[last]!; n++) pairs[o + n] = (i + n * c.a[last]!) * 100 + j + n * c.b[last]!;
    });
    const count = (s: number[]) => s.reduce((p, q) => p * q, 1);
    const indices = (s: number[]) =>
      tf.buffer(
        s,
        'float32',
        Float32Array.from({ length: count(s) }, (_, i) => i),
      );
    const [ia, ib, out] = [indices(a), indices(b), indices(shape)];
    const expected = Array.from({ length: out.size }, (_, o) => {
      const at = out.indexToLoc(o);
      const of = (x: tf.TensorBuffer<tf.Rank>) =>
        x.rank ? x.locToIndex(at.slice(at.length - x.rank).map((i, d) => (x.shape[d] === 1 ? 0 : i))) : 0;
      return of(ia) * 100 + of(ib);
    });
    expect(pairs).toEqual(expected);
  });
});
