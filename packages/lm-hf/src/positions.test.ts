import { loadReference } from '@flamingo-ts/testing';
import { describe, expect, it } from 'vitest';
import { alibiSlopes, rotaryFrequencies } from './positions';

const recorded = (name: string, tensor: string) =>
  Array.from(
    loadReference(new URL(`../test/reference/${name}/expected`, import.meta.url)).tensors[tensor]!.data,
    Number,
  );

function expectNear(got: readonly number[], want: readonly number[]): void {
  expect(got).toHaveLength(want.length);
  got.forEach((value, i) => expect(value).toBeCloseTo(want[i]!, 7));
}

describe('rotaryFrequencies', () => {
  it('are those of the paper', () => {
    expectNear(rotaryFrequencies(8, 10000), [1, 0.1, 0.01, 0.001]);
    expectNear(rotaryFrequencies(4, 10000), recorded('gpt-neox', 'rotary.inv_freq'));
  });

  it('are slowed down by a factor', () => {
    expectNear(rotaryFrequencies(4, 10000, { kind: 'linear', factor: 4 }), [0.25, 0.0025]);
  });

  it('are stretched where Llama 3.1 stretches them', () => {
    const scaling = { kind: 'llama3', factor: 8, lowFrequency: 1, highFrequency: 4, context: 32 } as const;
    expectNear(rotaryFrequencies(8, 10000, scaling), recorded('llama-gqa-rope3', 'rotary.inv_freq'));
    // Angles of 1 turn 5.1 times over the old context, those of 0.5 2.5 times: kept, and half way between.
    const [fast, between] = rotaryFrequencies(4, 4, scaling);
    expect(fast).toBe(1);
    const kept = ((32 * 0.5) / (2 * Math.PI) - 1) / 3;
    expect(between).toBeCloseTo(kept * 0.5 + (1 - kept) * 0.0625, 12);
  });
});

describe('alibiSlopes', () => {
  it('are powers of two, for powers of two of heads', () => {
    expect(alibiSlopes(4)).toEqual([2 ** -2, 2 ** -4, 2 ** -6, 2 ** -8]);
    expect(alibiSlopes(1)).toEqual([2 ** -8]);
    expect(alibiSlopes(2, 4)).toEqual([2 ** -2, 2 ** -4]);
  });

  it('are, for other numbers, those of fewer heads and then every other of more', () => {
    expect(alibiSlopes(3)).toEqual([2 ** -4, 2 ** -8, 2 ** -2]);
    expectNear(alibiSlopes(6), recorded('mpt-heads-not-pow2', 'alibi.slopes'));
  });
});
