import { describe, expect, it } from 'vitest';
import { BufferPool, sizeClass } from './pool';

describe('sizeClass', () => {
  it('holds the size and wastes at most a fifth', () => {
    for (let n = 64; n < 100_000; n += 37) {
      expect(sizeClass(n)).toBeGreaterThanOrEqual(n);
      expect(sizeClass(n)).toBeLessThanOrEqual(Math.max(n * 1.25, n + 16));
      expect(sizeClass(sizeClass(n))).toBe(sizeClass(n));
    }
  });
});

describe('BufferPool', () => {
  it('hands out aligned arrays of the length asked for', () => {
    const pool = new BufferPool();
    for (const n of [1, 63, 64, 65, 1000, 12345]) {
      const x = pool.allocate(n);
      expect(x).toHaveLength(n);
      if (n >= 64) expect(pool.address(x) % 64).toBe(0);
    }
  });

  it('uses a released buffer again for a size of the same class', () => {
    const pool = new BufferPool();
    const x = pool.allocate(1000);
    const { buffer } = x;
    pool.release(x);
    expect(pool.allocate(990).buffer).toBe(buffer);
    expect(pool.allocate(990).buffer).not.toBe(buffer);
  });

  it('never uses a forgotten buffer again, nor an array of somebody else', () => {
    const pool = new BufferPool();
    const x = pool.allocate(1000);
    pool.forget(x);
    pool.release(x);
    pool.release(new Float32Array(1024));
    expect(pool.allocate(1000).buffer).not.toBe(x.buffer);
    expect(pool.stats().kept).toBe(0);
  });

  it('keeps no more than was once in use', () => {
    const pool = new BufferPool();
    const big = 32 << 20;
    for (let i = 0; i < 4; i++) pool.release(pool.allocate(big));
    const [x, y] = [pool.allocate(big), pool.allocate(big + (big >> 2))];
    pool.release(x);
    pool.release(y);
    const { kept, peak, live } = pool.stats();
    expect(live).toBe(0);
    expect(kept).toBeLessThanOrEqual(peak);
  });

  it('counts what is in use', () => {
    const pool = new BufferPool();
    const x = pool.allocate(1024);
    expect(pool.stats().live).toBe(4096);
    pool.release(x);
    expect(pool.stats()).toMatchObject({ live: 0, kept: 4096 });
    pool.trim();
    expect(pool.stats().kept).toBe(0);
  });
});
