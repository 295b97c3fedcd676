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

  it('are scaled as in Llama 3.1', () => {
    const scaling = { kind: 'llama3', factor: 8, lowFrequency: 1, highFrequency: 4, context: 32 } as const;
    expectNear(rotaryFrequencies(8, 10000, scaling), recorded('llama-gqa-rope3', 'rotary.inv_freq'));
    // An angle of 1 makes 5.1 turns over the old context and is kept; one of 0.5 makes 2.5 turns, halfway between the limits.
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

  it('start, for other numbers of heads, with every second slope of the next power of two', () => {
    expect(alibiSlopes(3)).toEqual([2 ** -4, 2 ** -8, 2 ** -2]);
    expectNear(alibiSlopes(6), recorded('mpt-heads-not-pow2', 'alibi.slopes'));
  });
});
