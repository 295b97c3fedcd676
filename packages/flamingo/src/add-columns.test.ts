import { describeBackends, expectClose, expectNoLeak } from '@flamingo-ts/testing';
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { addColumns } from './add-columns';

describeBackends('addColumns', () => {
  const values = (size: number) => Float32Array.from({ length: size }, (_, i) => Math.sin(i));

  it('adds to the given columns only', () => {
    tf.tidy(() => {
      const y = addColumns(
        tf.tensor(values(12), [2, 2, 3]),
        tf.tensor([10, 20, 30, 40, 50, 60, 70, 80], [2, 2, 2]),
        [2, 0],
      );
      const expected = values(12).map((x, i) => x + [20, 0, 10, 40, 0, 30, 60, 0, 50, 80, 0, 70][i]!);
      expectClose(y, tf.tensor(expected, [2, 2, 3]), { atol: 1e-6 });
    });
  });

  it('does not change a tensor that is still referenced elsewhere', () => {
    tf.tidy(() => {
      const x = tf.add(tf.tensor(values(300), [100, 3]), 0);
      const held = tf.clone(x);
      addColumns(x, tf.ones([100, 1]), [1]);
      expect(held.dataSync()).toEqual(values(300));
    });
  });

  it('passes gradients to both', () => {
    tf.tidy(() => {
      const dy = tf.tensor(values(6), [2, 3]);
      const f = (x: tf.Tensor, added: tf.Tensor) => tf.sum(tf.mul(dy, addColumns(tf.add(x, 0), added, [2, 0])));
      const [dx, dadded] = tf.grads(f)([tf.zeros([2, 3]), tf.zeros([2, 2])]);
      expectClose(dx!, dy, { atol: 0 });
      const [a, , c, d, , e] = values(6);
      expectClose(dadded!, tf.tensor([c!, a!, e!, d!], [2, 2]), { atol: 0 });
    });
  });

  it('leaks nothing', async () => {
    await expectNoLeak(() => {
      const [x, added] = [tf.zeros([4, 3]), tf.ones([4, 1])];
      tf.dispose([x, added, addColumns(x, added, [1])]);
    });
  });
});
