import { Random } from '@flamingo-ts/random';
import { expectClose } from '@flamingo-ts/testing';
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import { describe, expect, it } from 'vitest';
import { freshParams, linearSpec } from './param-spec';
import { constantVariable, expectRandom, normalVariable } from './random';

describe('variables drawn from a Random', () => {
  it('fills variables', () => {
    const normal = normalVariable(new Random(5), [2, 3], 0.5);
    const random = new Random(5);
    expectClose(
      normal,
      { shape: [2, 3], data: Array.from({ length: 6 }, () => random.normal() * 0.5) },
      { rtol: 1e-7 },
    );
    const constant = constantVariable([2], 3);
    expectClose(constant, [3, 3], { atol: 0 });
    expect([normal.trainable, constant.trainable]).toEqual([true, true]);
    tf.dispose([normal, constant]);
  });

  it('rejects a number and says how to create a Random', () => {
    const seven = 7 as unknown as Random;
    expect(() => expectRandom('initTower', seven)).toThrow(
      'initTower: random must be a Random, got 7. Pass new Random(7).',
    );
    expect(() => freshParams({ up: linearSpec(2, 2) }, seven)).toThrow('Pass new Random(7)');
    expect(() => normalVariable(undefined as never, [2], 1)).toThrow('got undefined. Pass new Random(seed)');
  });
});
