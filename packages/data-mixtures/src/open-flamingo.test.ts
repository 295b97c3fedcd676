// text_building.json and label_masking.json: OpenFlamingo's data.py and train_utils.py (October 2023), run on made-up rows.
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { assignMaximum } from './assignment';
import { IGNORED_LABEL, openFlamingoLabels, openFlamingoPage, openFlamingoPair } from './open-flamingo';

const reference = (name: string) =>
  JSON.parse(readFileSync(new URL(`../test/reference/${name}.json`, import.meta.url), 'utf8'));

const tokenize = (text: string) => text.split(/(<image>|<\|endofchunk\|>|<\/s>)|\s+/).filter(Boolean);

describe('text building', () => {
  const { interleaved, pairs } = reference('text_building');

  it('matches the texts, slots and rejections of the reference', () => {
    for (const page of interleaved) {
      const got = openFlamingoPage(
        { sentences: page.sentences, imageBytes: page.image_bytes, similarity: page.similarity },
        {
          threshold: page.threshold,
          minImages: page.min_images,
          maxImages: page.max_images,
          maxTokens: page.max_tokens,
          coin: page.coin,
          endOfText: '</s>',
          tokenize,
        },
      );
      const expected = page.rejected ? { rejected: page.rejected } : { text: page.text, imageSlots: page.image_slots };
      expect(got, page.sentences[0]).toEqual(expected);
    }
  });

  it('wraps captions', () => {
    for (const { caption, text } of pairs) expect(openFlamingoPair(caption, '</s>')).toBe(text);
  });
});

describe('labels', () => {
  const { special_ids: ids, interleaved, pairs, ignore } = reference('label_masking');
  const special = { image: ids['<image>'], endOfChunk: ids['<|endofchunk|>'], pad: ids.pad };

  it('match the reference', () => {
    expect(ignore).toBe(IGNORED_LABEL);
    for (const row of interleaved) {
      expect(Array.from(openFlamingoLabels(row.input_ids, special, 'open-flamingo-interleaved')), row.what).toEqual(
        row.labels,
      );
    }
    for (const row of pairs) {
      expect(Array.from(openFlamingoLabels(row.input_ids, special, 'open-flamingo-pairs')), row.what).toEqual(
        row.labels,
      );
    }
  });
});

describe('assignMaximum', () => {
  it('finds the best total, even if the greedy choice is wrong', () => {
    // Greedy takes 9 and is left with 1; the best is 8 + 7.
    expect(
      assignMaximum([
        [9, 8],
        [7, 1],
      ]),
    ).toEqual([
      [0, 1],
      [1, 0],
    ]);
  });

  it('handles more rows than columns and nothing at all', () => {
    expect(assignMaximum([[1], [3], [2]])).toEqual([[1, 0]]);
    expect(assignMaximum([])).toEqual([]);
    expect(assignMaximum([[], []])).toEqual([]);
  });

  it('breaks ties like SciPy', () => {
    // scipy.optimize.linear_sum_assignment(maximize=True) of SciPy 1.17.
    expect(
      assignMaximum([
        [1, 1, 1, 1],
        [0, 2, 2, 2],
        [2, 0, 0, 1],
      ]),
    ).toEqual([
      [0, 2],
      [1, 1],
      [2, 0],
    ]);
    expect(
      assignMaximum([
        [2, 0, 1, 2],
        [1, 0, 0, 0],
        [1, 1, 0, 2],
      ]),
    ).toEqual([
      [0, 2],
      [1, 0],
      [2, 3],
    ]);
  });
});
