// answer_metric.json: OpenFlamingo's vqa_metric.py (October 2023), run on made-up answers.
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { openFlamingoCaption, openFlamingoVqaAnswer } from './answers';
import { normalizeVqaAnswer, processPunctuation, vqaAccuracy, type VqaAnswer } from './vqa-metric';

const reference = JSON.parse(readFileSync(new URL('../test/reference/answer_metric.json', import.meta.url), 'utf8'));
const ten = (...answers: [string, number][]) => answers.flatMap(([answer, count]) => Array<string>(count).fill(answer));

describe('the rule of OpenFlamingo', () => {
  it('normalizes like the reference', () => {
    for (const row of reference.normalisation) {
      expect(processPunctuation(row.in), row.in).toBe(row.after_punctuation);
      expect(normalizeVqaAnswer(row.in), row.in).toBe(row.out);
    }
  });

  it('returns the accuracies of the reference', () => {
    for (const { annotations, entries } of reference.accuracy) {
      for (const { prediction, answers, accuracy_percent } of entries) {
        const got = 100 * vqaAccuracy(prediction, answers, 'open-flamingo');
        expect(Number(got.toFixed(8)), `${annotations}: ${prediction}`).toBe(accuracy_percent);
      }
    }
  });

  it('trims generated text like the reference', () => {
    for (const row of reference.vqa_postprocess) expect(openFlamingoVqaAnswer(row.in)).toBe(row.out);
    for (const row of reference.caption_postprocess) expect(openFlamingoCaption(row.in)).toBe(row.out);
  });

  it('stops removing full stops after 32, like the original program', () => {
    expect(processPunctuation('.'.repeat(40))).toBe('.'.repeat(8));
  });
});

describe('the rule of the benchmark', () => {
  it('scores 1 for three matches among the other nine', () => {
    expect(vqaAccuracy('red', ten(['red', 1], ['blue', 9]))).toBeCloseTo(0.3, 12);
    expect(vqaAccuracy('red', ten(['red', 2], ['blue', 8]))).toBeCloseTo(0.6, 12);
    expect(vqaAccuracy('red', ten(['red', 3], ['blue', 7]))).toBeCloseTo(0.9, 12);
    expect(vqaAccuracy('red', ten(['red', 4], ['blue', 6]))).toBe(1);
  });

  it('scores the right answer 1 when all agree, where OpenFlamingo without ids scores 0', () => {
    const records = ten(['red', 10]).map((answer): VqaAnswer => ({ answer, answer_confidence: 'yes' }));
    expect(vqaAccuracy('red', records)).toBe(1);
    expect(vqaAccuracy('red', records, 'open-flamingo')).toBe(0);
  });

  it('normalizes only if annotators disagree', () => {
    expect(vqaAccuracy('Two', ten(['2', 10]))).toBe(0);
    expect(vqaAccuracy('Two', ten(['2', 9], ['three', 1]))).toBe(1);
    expect(vqaAccuracy(' 2\n', ten(['2', 10]))).toBe(1);
  });

  it('requires answers', () => {
    expect(() => vqaAccuracy('red', [])).toThrow('answers is empty');
  });
});
