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

  it('uses a larger buffer where there is none of the class, up to twice as large', () => {
    const pool = new BufferPool();
    const x = pool.allocate(2048);
    pool.release(x);
    expect(pool.allocate(800).buffer).not.toBe(x.buffer);
    const y = pool.allocate(1024);
    expect(y.buffer).toBe(x.buffer);
    expect(y).toHaveLength(1024);
    // It counts as what it is, and comes back as that.
    expect(pool.stats().live).toBe(4 * (896 + 2048));
    pool.release(y);
    expect(pool.allocate(2048).buffer).toBe(x.buffer);
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

  it('lets go first of what was used longest ago', () => {
    const pool = new BufferPool();
    const size = 4 << 20;
    const use = (n: number) => {
      const all = Array.from({ length: 6 }, () => pool.allocate(n));
      for (const x of all) pool.release(x);
      return new Set(all.map((x) => x.buffer));
    };
    use(size);
    // A later stage with larger arrays keeps these, not those of before.
    const wanted = use(3 * size);
    for (const buffer of use(3 * size)) expect(wanted.has(buffer)).toBe(true);
    expect(pool.stats().kept).toBeLessThanOrEqual(pool.stats().peak);
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
