import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectNoLeak } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { KVCache } from './index';

const rows = (...values: number[]) => tf.tensor3d(values, [values.length, 1, 1]);

describeBackends('KVCache', () => {
  it('appends positions, and reorders, repeats and drops rows', () => {
    tf.tidy(() => {
      const cache = new KVCache(2);
      expect(cache.length).toBe(0);
      cache.append(0, rows(1, 2, 3), rows(4, 5, 6));
      expect(cache.length).toBe(0); // The second layer has not seen them yet: the call is still in progress.
      cache.append(1, rows(7, 8, 9), rows(0, 0, 0));
      expect(cache.length).toBe(1);
      cache.gather([2, 0, 0]);
      const { keys, values } = cache.append(0, rows(10, 20, 30), rows(40, 50, 60));
      expect(keys.arraySync()).toEqual([
        [[3], [10]],
        [[1], [20]],
        [[1], [30]],
      ]);
      expect(values.arraySync()).toEqual([
        [[6], [40]],
        [[4], [50]],
        [[4], [60]],
      ]);
      expect(cache.layer(1)!.keys.arraySync()).toEqual([[[9]], [[7]], [[7]]]);
      expect(cache.bytes).toBe(4 * 4 * 3 * 64); // Keys and values of two layers with capacity for 64 positions.
      cache.gather([1]);
      expect(cache.layer(0)!.keys.shape).toEqual([1, 2, 1]);
      cache.dispose();
    });
  });

  it('forks without changing the original', () => {
    tf.tidy(() => {
      const cache = new KVCache(1);
      cache.append(0, rows(1, 2), rows(3, 4));
      const fork = cache.fork([1, 1, 1]);
      fork.append(0, rows(5, 6, 7), rows(0, 0, 0));
      expect(fork.layer(0)!.keys.arraySync()).toEqual([
        [[2], [5]],
        [[2], [6]],
        [[2], [7]],
      ]);
      expect(cache.layer(0)!.keys.arraySync()).toEqual([[[1]], [[2]]]);
      cache.dispose();
      expect(fork.layer(0)!.values.arraySync()).toEqual([
        [[4], [0]],
        [[4], [0]],
        [[4], [0]],
      ]);
      fork.dispose();
    });
  });

  it('outlives tf.tidy and leaks no tensors', async () => {
    await expectNoLeak(() => {
      const cache = new KVCache(1);
      let made = 0;
      const table = () => cache.remember('table', () => (made++, tf.ones([2])));
      for (let i = 0; i < 2; i++) {
        tf.tidy(() => {
          cache.append(0, rows(i), rows(i));
          table();
        });
      }
      tf.tidy(() => {
        expect(cache.layer(0)!.keys.dataSync()).toEqual(Float32Array.of(0, 1));
      });
      expect(table().dataSync()).toEqual(Float32Array.of(1, 1));
      expect(made).toBe(1);
      cache.dispose();
    });
  });

  it('grows as it fills, and returns its buffers without a copy', async () => {
    await expectNoLeak(() => {
      const cache = new KVCache(1);
      for (let i = 0; i < 200; i++) {
        tf.tidy(() => {
          const { keys, values, length } = cache.extend(0, rows(i, -i), rows(2 * i, 0));
          expect(length).toBe(i + 1);
          expect(keys.shape[1]).toBeGreaterThanOrEqual(length);
          expect(keys.shape).toEqual(values.shape);
        });
      }
      tf.tidy(() => {
        const { keys, values } = cache.layer(0)!;
        expect(keys.shape).toEqual([2, 200, 1]);
        expect([...keys.dataSync()].slice(0, 200)).toEqual(Array.from({ length: 200 }, (_, i) => i));
        expect(values.dataSync()[199]).toBe(398);
      });
      cache.dispose();
    });
  });

  it('rejects another number of rows, and a layer beyond the last', () => {
    tf.tidy(() => {
      const cache = new KVCache(1);
      cache.append(0, rows(1, 2), rows(1, 2));
      expect(() => cache.append(0, rows(1), rows(1))).toThrow(/expected 2 rows, got 1. Call gather/);
      expect(() => cache.append(1, rows(1), rows(1))).toThrow(/layer must be below 1, got 1/);
      cache.dispose();
    });
  });
});
