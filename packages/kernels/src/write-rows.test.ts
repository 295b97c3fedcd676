import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectClose, expectNoLeak } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { writeRows } from './index';

describeBackends('writeRows', () => {
  it('changes only those rows', async () => {
    await expectNoLeak(() => {
      let into = tf.keep(tf.zeros([2, 5, 3]) as tf.Tensor3D);
      const write = (rows: tf.Tensor3D, at: number) => {
        const next = writeRows(into, rows, at);
        if (next !== into) into.dispose();
        into = next;
        rows.dispose();
      };
      write(tf.ones([2, 2, 3]), 1);
      write(tf.fill([2, 1, 3], 2), 4);
      const row = [0, 1, 1, 0, 2].flatMap((x) => [x, x, x]);
      expectClose(into, [...row, ...row], { atol: 0 });
      into.dispose();
    });
  });

  it('does not change other tensors that share the memory', () => {
    tf.tidy(() => {
      const into = tf.zeros([1, 4, 2]) as tf.Tensor3D;
      const other = tf.clone(into);
      expectClose(writeRows(into, tf.ones([1, 4, 2]), 0), new Float32Array(8).fill(1), { atol: 0 });
      expectClose(other, new Float32Array(8), { atol: 0 });
    });
  });

  it('says what does not fit', () => {
    const into = tf.zeros([1, 4, 2]) as tf.Tensor3D;
    expect(() => writeRows(into, tf.ones([1, 2, 2]), 3)).toThrow(/2 rows at 3 must fit into 4/);
    expect(() => writeRows(into, tf.ones([2, 2, 2]), 0)).toThrow(/rows must be \[1, n, 2\], got \[2, 2, 2\]/);
  });
});
