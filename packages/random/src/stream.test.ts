import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { seededStream, shotStream, shuffledIndex } from './stream';

describe('shuffledIndex', () => {
  it('never changes its order', () => {
    expect([0, 1, 2, 3, 4, 5, 6].map((i) => shuffledIndex(i, 7, 3, 'pages'))).toEqual([1, 5, 6, 0, 3, 2, 4]);
  });

  it('is a permutation for any length and key', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 700 }), fc.nat(), (n, key) => {
        const order = Array.from({ length: n }, (_, i) => shuffledIndex(i, n, key));
        expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: n }, (_, i) => i));
      }),
      { numRuns: 200 },
    );
  });

  it('stays in range and does not collide for a length too large to store', () => {
    const n = 3_000_000_000;
    const some = Array.from({ length: 2000 }, (_, i) => shuffledIndex(i, n, 1, 'web', 0));
    expect(some.every((x) => x >= 0 && x < n)).toBe(true);
    expect(new Set(some).size).toBe(some.length);
  });

  it('moves every entry to every position about equally often', () => {
    const n = 5;
    const counts = new Int32Array(n * n);
    for (let key = 0; key < 5000; key++) for (let i = 0; i < n; i++) counts[i * n + shuffledIndex(i, n, key)]!++;
    // 1000 expected in each of 25 cells; five standard deviations.
    for (const c of counts) expect(Math.abs(c - 1000)).toBeLessThan(5 * Math.sqrt(800));
  });

  it('differs between epochs', () => {
    const order = (epoch: number) =>
      Array.from({ length: 50 }, (_, i) => shuffledIndex(i, 50, 3, 'pages', epoch)).join();
    expect(new Set([0, 1, 2, 3].map(order)).size).toBe(4);
  });
});

describe('shotStream', () => {
  it('never changes its numbers', () => {
    const stream = shotStream(1, 2, 3);
    expect([stream.uniform(), stream.uniform(), stream.int(1000)]).toEqual([
      0.49396097380667925, 0.8181351942475885, 329,
    ]);
  });
});

describe('seededStream', () => {
  it('never changes its numbers', () => {
    const stream = seededStream(1, 'a', 2);
    expect([stream.uniform(), stream.uniform(), stream.int(1000)]).toEqual([
      0.040938633523809886, 0.7418568017013185, 843,
    ]);
  });

  it('depends on every key and nothing else', () => {
    const first = (...keys: (number | string)[]) => seededStream(...keys).uniform();
    expect(first(1, 'a', 2)).toBe(first(1, 'a', 2));
    expect(new Set([first(1, 'a', 2), first(2, 'a', 2), first(1, 'b', 2), first(1, 'a', 3), first(1, 'a2')]).size).toBe(
      5,
    );
  });

  it('is uniform, also over neighboring seeds', () => {
    const cells = new Int32Array(10);
    for (let seed = 0; seed < 10_000; seed++) cells[seededStream(seed, 'sample', 0).int(10)]!++;
    for (const c of cells) expect(Math.abs(c - 1000)).toBeLessThan(5 * 30);
  });
});
