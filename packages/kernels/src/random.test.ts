import { expectClose } from '@flamingo-ts/testing';
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import { describe, expect, it } from 'vitest';
import { freshParams, linearSpec } from './param-spec';
import { constantVariable, expectRandom, normalVariable, Random } from './random';

const draws = <T>(n: number, f: () => T): T[] => Array.from({ length: n }, f);

describe('Random', () => {
  it('gives one stream per seed, the same everywhere and always', () => {
    const random = new Random(42);
    expect(draws(3, () => random.next())).toEqual([660444221, 3652823732, 77672526]);
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
    expectClose([1, 2, 3, 4].map(moment), [0, 1, 0, 3], { atol: 0.1 });
  });

  it('forks streams that differ by name and leave the parent alone', () => {
    const [a, b] = [new Random(3), new Random(3)];
    const fork = a.fork('data');
    expect(a.next()).toBe(b.next());
    expect(new Random(3).fork('data').next()).toBe(fork.next());
    expect(new Random(3).fork('noise').next()).not.toBe(new Random(3).fork('data').next());
  });

  it('fills variables', () => {
    const normal = normalVariable(new Random(5), [2, 3], 0.5);
    const random = new Random(5);
    expectClose(normal, { shape: [2, 3], data: draws(6, () => random.normal() * 0.5) }, { rtol: 1e-7 });
    const constant = constantVariable([2], 3);
    expectClose(constant, [3, 3], { atol: 0 });
    expect([normal.trainable, constant.trainable]).toEqual([true, true]);
    tf.dispose([normal, constant]);
  });

  it('is not a number: what draws from it says how to make one', () => {
    const seven = 7 as unknown as Random;
    expect(() => expectRandom('initTower', seven)).toThrow(
      'initTower: random must be a Random, got 7. Pass new Random(7).',
    );
    expect(() => freshParams({ up: linearSpec(2, 2) }, seven)).toThrow('Pass new Random(7)');
    expect(() => normalVariable(undefined as never, [2], 1)).toThrow('got undefined. Pass new Random(seed)');
  });
});
