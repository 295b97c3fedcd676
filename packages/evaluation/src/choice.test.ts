import { readFileSync } from 'node:fs';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { exactMatch, trimAnswer } from './answers';
import { ensembleScores, rankCandidates, rocAuc } from './choice';
import { Rices } from './rices';

// OpenFlamingo's evaluation (October 2023), run on random numbers.
const { retrieval, class_choice: choice } = JSON.parse(
  readFileSync(new URL('../test/reference/prompts_and_retrieval.json', import.meta.url), 'utf8'),
);

describe('rankCandidates', () => {
  it('ranks and scores like the reference', () => {
    choice.mean_logprobs.forEach((row: number[], i: number) => {
      const { order, probabilities } = rankCandidates(row);
      expect(order.slice(0, 2).map((c) => 'abcd'[c])).toEqual(choice.top_2[i]);
      // The reference computes in float32.
      expect(Math.abs(probabilities[order[0]!]! - choice.score_of_best[i])).toBeLessThan(1e-6);
    });
  });

  it('handles log-likelihoods of whole texts, and keeps the order of ties', () => {
    const { order, probabilities } = rankCandidates([-4000, -3999, -3999, -Infinity]);
    expect(order).toEqual([1, 2, 0, 3]);
    expect(probabilities.reduce((a, b) => a + b)).toBeCloseTo(1, 12);
  });
});

describe('ensembleScores', () => {
  it('is the mean over prompts', () => {
    expect(ensembleScores([[-1, -2], Float32Array.of(-3, -2)])).toEqual([-2, -2]);
    expect(() => ensembleScores([])).toThrow('perPrompt is empty');
  });
});

describe('rocAuc', () => {
  it('is the share of pairs in the right order, where a tie counts as half', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 0, max: 4 }), fc.boolean()), { minLength: 2, maxLength: 20 }),
        (rows) => {
          const positive = rows.filter(([, label]) => label).map(([score]) => score);
          const negative = rows.filter(([, label]) => !label).map(([score]) => score);
          fc.pre(positive.length > 0 && negative.length > 0);
          const pairs = positive.flatMap((p) => negative.map((n) => (p > n ? 1 : p === n ? 0.5 : 0)));
          const want = pairs.reduce((a: number, b) => a + b, 0) / pairs.length;
          const got = rocAuc(
            rows.map(([score]) => score),
            rows.map(([, label]) => label),
          );
          expect(got).toBeCloseTo(want, 12);
        },
      ),
    );
  });

  it('requires labels of both kinds', () => {
    expect(() => rocAuc([1, 2], [true, true])).toThrow('2 positive and 0 negative labels');
    expect(() => rocAuc([1], [true, false])).toThrow('got 1 scores');
  });
});

describe('Rices', () => {
  it('finds what the reference finds, most similar last', () => {
    const rices = new Rices(retrieval.bank);
    for (const [count, found] of Object.entries<number[][]>(retrieval.found_by_count)) {
      const got = retrieval.queries_not_normalised.map((query: number[]) => rices.nearest(query, Number(count)));
      expect(got).toEqual(found);
    }
  });

  it('ignores the norm of vectors', () => {
    expect(
      new Rices([
        [1, 0],
        [50, 50],
        [0, 3],
      ]).nearest([0, 9], 3),
    ).toEqual([0, 1, 2]);
    expect(
      new Rices([
        [0, 0],
        [1, 1],
      ]).nearest([1, 1], 5),
    ).toEqual([0, 1]);
  });

  it('refuses vectors of another width', () => {
    expect(() => new Rices([[1, 2], [1]])).toThrow(
      'Rices: vectors must have 2 numbers like vector 0, got 1 in vector 1',
    );
    expect(() => new Rices([[1, 2]]).nearest([1], 1)).toThrow(
      'query must have 2 numbers like the support vectors, got 1',
    );
  });
});

describe('answers', () => {
  it('are cut before the next prompt', () => {
    expect(trimAnswer(' two dogs Output: a cat')).toBe('two dogs');
    expect(trimAnswer('red\n')).toBe('red');
  });

  it('match ignoring case and surrounding white space', () => {
    expect(exactMatch(' Red', 'red ')).toBe(1);
    expect(exactMatch('dark red', 'red')).toBe(0);
  });
});
