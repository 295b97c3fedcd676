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

  it('holds little more than was once in use', () => {
    const pool = new BufferPool();
    const held = () => {
      const { live, kept, peak } = pool.stats();
      return (live + kept) / peak;
    };
    // Each size needs memory of its own.
    for (const size of [8 << 20, 24 << 20, 64 << 20, 9 << 20]) {
      const buffers = [pool.allocate(size), pool.allocate(size)];
      expect(held()).toBeLessThanOrEqual(1.25);
      for (const buffer of buffers) pool.release(buffer);
      expect(held()).toBeLessThanOrEqual(1.25);
    }
  });

  it('lets go first of what was used longest ago', () => {
    const pool = new BufferPool();
    const use = (size: number, count = 1) => {
      const buffers = Array.from({ length: count }, () => pool.allocate(size));
      for (const buffer of buffers) pool.release(buffer);
      return buffers[0]!.buffer;
    };
    const million = 1 << 20;
    const [often, once] = [use(4 * million), use(9 * million)];
    use(4 * million);
    use(1.5 * million, 4);
    expect(use(4 * million) === often).toBe(true);
    expect(use(9 * million) === once).toBe(false);
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
