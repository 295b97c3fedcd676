import { loadReference } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { filterLogits, logSoftmax } from './index';
import { drawToken } from './sample';

// Recorded from the temperature, top-k and top-p warpers of transformers 5.18.0.
const reference = loadReference(new URL('../test/reference/decode', import.meta.url));
const { specs, rows_where_top_p_cuts_inside_a_tie: ties } = reference.meta.filters as {
  specs: Record<string, { temperature?: number; top_k?: number; top_p?: number; keep?: number }>;
  rows_where_top_p_cuts_inside_a_tie: Record<string, number[]>;
};
const row = (name: string, i: number): number[] => {
  const { data, shape } = reference.tensors[`filter.${name}`]!;
  return Array.from(data.slice(i * shape[1]!, (i + 1) * shape[1]!), Number);
};

it.each(Object.entries(specs))('%s keeps the recorded tokens with the recorded probabilities', (name, spec) => {
  for (let i = 0; i < reference.tensors['filter.logits']!.shape[0]!; i++) {
    const kept = filterLogits(row('logits', i), {
      temperature: spec.temperature,
      topK: spec.top_k,
      topP: spec.top_p,
      minTokensToKeep: spec.keep,
    });
    const probs = Array.from(logSoftmax(kept), Math.exp);
    let want = row(`${name}.probs`, i);
    if (ties[name]?.includes(i)) {
      // Which of equal tokens survive depends on the sort.
      probs.sort((a, b) => a - b);
      want = want.sort((a, b) => a - b);
    } else {
      expect(probs.map((p) => Number(p > 0))).toEqual(row(`${name}.keep`, i));
    }
    probs.forEach((p, j) => expect(Math.abs(p - want[j]!)).toBeLessThan(1e-6));
  }
});

it('draws by probability and never a token that was filtered out', () => {
  const logits = Float64Array.of(Math.log(0.25), -Infinity, Math.log(0.75), -Infinity);
  expect([0, 0.24, 0.26, 0.999999].map((u) => drawToken(logits, u))).toEqual([0, 0, 2, 2]);
});

it('refuses values out of range', () => {
  expect(() => filterLogits([1, 2], { temperature: 0 })).toThrow(
    /temperature must be a finite number greater than 0, got 0/,
  );
  expect(() => filterLogits([1, 2], { topK: 0 })).toThrow(/topK must be a whole number of at least 1, got 0/);
});
