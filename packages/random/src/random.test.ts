import { describe, expect, it } from 'vitest';
import { Random } from './random';

const draws = <T>(n: number, f: () => T): T[] => Array.from({ length: n }, f);

describe('Random', () => {
  it('returns one stream per seed, which never changes', () => {
    const random = new Random(42);
    expect(draws(3, () => random.next())).toEqual([660444221, 3652823732, 77672526]);
    expect([random.normal(), random.normal()]).toEqual([-0.67365376156165, -0.15009346425653403]);
    expect(random.fork('x').next()).toBe(2921945291);
    expect(draws(4, () => new Random(7).next())).toEqual(Array(4).fill(new Random(7).next()));
    expect(new Random(0).next()).not.toBe(new Random(1).next());
  });

  it('is uniform in [0, 1) and over integers', () => {
    const random = new Random(1);
    const values = draws(20_000, () => random.uniform());
    expect(Math.min(...values)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...values)).toBeLessThan(1);
    expect(values.reduce((a, b) => a + b) / values.length).toBeCloseTo(0.5, 2);
    const counts = new Array<number>(5).fill(0);
    draws(20_000, () => counts[random.int(5)]!++);
    for (const count of counts) expect(Math.abs(count / 4000 - 1)).toBeLessThan(0.05);
  });

  it('is normal', () => {
    const random = new Random(1);
    const values = draws(20_000, () => random.normal());
    const moment = (k: number) => values.reduce((sum, x) => sum + x ** k, 0) / values.length;
    [0, 1, 0, 3].forEach((want, i) => expect(Math.abs(moment(i + 1) - want)).toBeLessThan(0.1));
  });

  it('forks streams that differ by name and do not affect the parent', () => {
    const [a, b] = [new Random(3), new Random(3)];
    const fork = a.fork('data');
    expect(a.next()).toBe(b.next());
    expect(new Random(3).fork('data').next()).toBe(fork.next());
    expect(new Random(3).fork('noise').next()).not.toBe(new Random(3).fork('data').next());
  });

  it.each([NaN, 1.5, Infinity, undefined, '7'])('rejects the seed %s', (seed) => {
    expect(() => new Random(seed as number)).toThrow(`Random: seed must be an integer, got ${seed}.`);
  });
});
