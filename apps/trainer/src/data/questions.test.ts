import { describe, expect, it } from 'vitest';
import { ownQuestions } from './questions';
import { BLANK, CONDITIONS } from './training-data';

const colors = ['red', 'green', 'blue', 'red', 'green', 'blue'];
const questions = colors.map((answer, i) => ({ image: `${i}.png`, answer }));
const options = { shots: [0, 4], seed: 7 };

describe('questions about own images', () => {
  it('are asked with real, blank and swapped images', () => {
    const { tasks, warnings } = ownQuestions('eval.jsonl', questions, options);
    expect(tasks.map(({ condition }) => condition)).toEqual(CONDITIONS);
    expect(warnings).toEqual([]);
    const [real, blank, swapped] = tasks.map(({ task }) => task);
    for (const task of [real, blank, swapped]) {
      expect(task!.candidates).toEqual(['red', 'green', 'blue']);
      expect(task!.queries.map(({ answer }) => answer)).toEqual(colors);
    }
    const support = [blank!.support].flat() as { image: string }[];
    expect([...blank!.queries, ...support].map(({ image }) => image)).toEqual(Array(12).fill(BLANK));
    for (const { image, answer } of swapped!.queries) expect(colors[parseInt(String(image))]).not.toBe(answer);
    expect(ownQuestions('eval.jsonl', questions, options).tasks[2]).toEqual(tasks[2]);
  });

  it('never use the image of the query as a shot, even if several lines have it', () => {
    const twice = [...questions, { image: '0.png', answer: 'round' }];
    const { task } = ownQuestions('eval.jsonl', twice, options).tasks[0]!;
    const ids = task.queries.map(({ id }) => id);
    expect(ids.filter((id) => id === ids[0])).toHaveLength(2);
    expect(() => ownQuestions('eval.jsonl', twice, { shots: [6], seed: 7 })).toThrow(
      'eval: 6 shots require questions about 7 readable images in eval.jsonl, got 6. Add lines to it or lower eval.shots.',
    );
  });

  it('warn about a single answer, and skip the impossible swap', () => {
    const same = questions.map(({ image }) => ({ image, answer: 'red' }));
    const { tasks, warnings } = ownQuestions('eval.jsonl', same, options);
    expect(tasks.map(({ condition }) => condition)).toEqual(['real', 'blank']);
    expect(warnings).toEqual([expect.stringMatching(/eval\.jsonl have the answer "red", so every score is 1\. Add/)]);
  });

  it('require at least one line', () => {
    expect(() => ownQuestions('eval.jsonl', [], { shots: [0], seed: 7 })).toThrow(/got 0/);
  });
});
