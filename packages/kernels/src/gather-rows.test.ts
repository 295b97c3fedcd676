import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectClose } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { checkOp, normal } from '../test/check-op';
import { embedding, gatherRows } from './gather-rows';
import { gatherRowsReference } from './gather-rows.reference';

/** Copying numbers is exact; adding gradients is not. */
const tolerance = { forward: 0, gradient: 5e-7 };

describeBackends('gatherRows', () => {
  it.each([[[2]], [[0, 3, 1]], [[1, 1, 0, 1, 3, 3]]])('rows %j', (rows) => {
    const indices = tf.tensor1d(rows, 'int32');
    checkOp(
      (x) => gatherRows(x!, indices),
      (x) => gatherRowsReference(x!, rows, 3),
      [normal(1, [4, 3])],
      tolerance,
    );
    indices.dispose();
  });

  it('accepts an empty list of rows', () => {
    tf.tidy(() => {
      const none = tf.tensor1d([], 'int32');
      expect(gatherRows(tf.ones([4, 3]), none).shape).toEqual([0, 3]);
      expectClose(tf.grad((x) => gatherRows(x, none))(tf.ones([4, 3])), new Float32Array(12), { atol: 0 });
    });
  });

  it('names the row that is out of range', () => {
    tf.tidy(() => {
      const x = tf.ones([4, 3]);
      expect(() => gatherRows(x, tf.tensor1d([0, 4], 'int32'))).toThrow(
        /rows must be in \[0, 4\), got 4 at position 1/,
      );
      expect(() => gatherRows(x, tf.tensor1d([-1], 'int32'))).toThrow(/got -1 at position 0/);
      expect(() => gatherRows(x, tf.tensor2d([[1]], [1, 1], 'int32'))).toThrow(/rows must be \[m\], got \[1, 1\]/);
      expect(() => gatherRows(tf.ones([4]), tf.tensor1d([0], 'int32'))).toThrow(/x must be \[n, d\], got \[4\]/);
      expect(() => gatherRows(x, tf.tensor1d([0, 1]))).toThrow(/rows must be int32, got float32/);
    });
  });
});

describeBackends('embedding', () => {
  it('looks up ids of any shape', () => {
    const ids = tf.tensor2d([3, 1, 0, 1, 1, 2], [2, 3], 'int32');
    checkOp(
      (table) => embedding(table!, ids),
      (table) => gatherRowsReference(table!, [3, 1, 0, 1, 1, 2], 2),
      [normal(1, [5, 2])],
      tolerance,
    );
    tf.tidy(() => {
      expect(embedding(tf.ones([5, 2]), ids).shape).toEqual([2, 3, 2]);
    });
    ids.dispose();
  });

  it('says when the tokenizer and the table have different vocabularies', () => {
    tf.tidy(() => {
      expect(() => embedding(tf.ones([5, 2]), tf.tensor2d([[0, 7]], [1, 2], 'int32'))).toThrow(
        /ids must be in \[0, 5\), got 7 at position 1.*the same vocabulary/,
      );
      expect(() => embedding(tf.ones([5]), tf.scalar(0, 'int32'))).toThrow(/table must be \[vocab, d\], got \[5\]/);
    });
  });
});
