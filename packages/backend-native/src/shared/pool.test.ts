import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BufferPool } from './pool';

const MILLION = 1 << 20;

describe('BufferPool', () => {
  it('allocates aligned arrays of the requested length', () => {
    const pool = new BufferPool();
    for (const n of [1, 63, 64, 65, 1000, 12345]) {
      const x = pool.allocate(n);
      expect(x).toHaveLength(n);
      if (n >= 64) expect(pool.address(x) % 64).toBe(0);
    }
  });

  it('reuses released memory, also for smaller buffers, and merged with its neighbors for larger ones', () => {
    const pool = new BufferPool();
    const [a, b, c] = [pool.allocate(1000), pool.allocate(2000), pool.allocate(3000)];
    const first = pool.address(a);
    pool.release(b);
    const small = pool.allocate(500);
    expect(pool.address(small)).toBe(pool.address(b));
    for (const x of [a, small, c]) pool.release(x);
    expect(pool.address(pool.allocate(6000))).toBe(first);
  });

  it('never gives the same memory to two live buffers', () => {
    const steps = fc.array(fc.tuple(fc.boolean(), fc.nat(5000), fc.nat()), { maxLength: 200 });
    fc.assert(
      fc.property(steps, (list) => {
        const pool = new BufferPool();
        const held: { values: Float32Array; mark: number }[] = [];
        list.forEach(([take, size, which], mark) => {
          if (take || held.length === 0) held.push({ values: pool.allocate(size).fill(mark), mark });
          else pool.release(held.splice(which % held.length, 1)[0]!.values);
        });
        for (const { values, mark } of held) expect(values.every((x) => x === mark)).toBe(true);
        for (const { values } of held) pool.release(values);
        expect(pool.stats().live).toBe(0);
        // All free blocks have merged again.
        if (pool.stats().held > 0) expect(pool.allocate(MILLION * 64)).toHaveLength(MILLION * 64);
        expect(pool.stats().held).toBeLessThanOrEqual(4 * 64 * MILLION);
      }),
      { numRuns: 100 },
    );
  });

  it('ignores arrays that it does not own', () => {
    const pool = new BufferPool();
    const x = new Float32Array(1024);
    expect(pool.owns(x)).toBe(false);
    pool.release(x);
    expect(pool.stats()).toEqual({ live: 0, peak: 0, held: 0 });
    expect(pool.owns(pool.allocate(1024))).toBe(true);
  });

  it('allocates buffers larger than a region', () => {
    const pool = new BufferPool();
    const large = pool.allocate(65 * MILLION);
    expect(large).toHaveLength(65 * MILLION);
    pool.release(large);
    expect(pool.address(pool.allocate(65 * MILLION))).toBe(pool.address(large));
  });

  it('counts the memory in use, and frees the rest', () => {
    const pool = new BufferPool();
    const x = pool.allocate(1024);
    expect(pool.stats()).toEqual({ live: 4096, peak: 4096, held: 4 * 64 * MILLION });
    pool.trim();
    expect(pool.stats().held).toBe(4 * 64 * MILLION);
    pool.release(x);
    pool.trim();
    expect(pool.stats()).toEqual({ live: 0, peak: 0, held: 0 });
  });
});
