import { describe, expect, it } from 'vitest';
import { evaluateFewShot, orders, type CandidateScorer, type FewShotTask } from './few-shot';
import { paperTemplates, promptImages, promptText, type FewShotExample, type Prompt } from './prompt';
import { Rices } from './rices';
import { shotStream } from '@flamingo-ts/random';

const colors = ['red', 'green', 'blue'];
/** The image of an example is its own answer and a number, so that a scorer can read it. */
const examples = Array.from({ length: 30 }, (_, i): FewShotExample<string> => {
  const answer = colors[i % 3]!;
  return { image: `${answer} ${i}`, answer, id: `${i}` };
});
const task: FewShotTask<string> = {
  name: 'color',
  template: paperTemplates.caption,
  queries: examples.slice(0, 12),
  support: examples,
  candidates: colors,
};

/** Knows the color of the query's image if there are two or more shots; otherwise it answers red. */
const scorer: CandidateScorer<string> = async (prompts, candidates) =>
  prompts.map((prompt) => {
    const images = promptImages(prompt);
    const seen = images.length > 2 ? images[images.length - 1]!.split(' ')[0] : 'red';
    return candidates.map((candidate) => (candidate === ` ${seen}` ? -1 : -5));
  });

function recording() {
  const seen: Prompt<string>[] = [];
  const record: CandidateScorer<string> = async (prompts, candidates) => {
    seen.push(...prompts);
    return scorer(prompts, candidates);
  };
  return { seen, record };
}

describe('a closed-ended task', () => {
  it('is scored per number of shots, with its standard error', async () => {
    const [zero, four] = await evaluateFewShot(task, { shots: [0, 4], seed: 1, scorer });
    expect(zero).toMatchObject({ task: 'color', shots: 0, count: 12 });
    expect(zero!.score).toBeCloseTo(1 / 3, 12);
    expect(zero!.standardError).toBeCloseTo(Math.sqrt(2 / 9 / 12), 12);
    expect(zero!.predictions[1]).toEqual({ prediction: 'red', worth: 0 });
    expect(four!).toMatchObject({ score: 1, standardError: 0 });
  });

  it('prompts with the query alone when there are no shots', async () => {
    const { seen, record } = recording();
    await evaluateFewShot(task, { shots: [0], seed: 1, scorer: record });
    expect(promptText(seen[0]!)).toBe('<image>Output:');
  });

  it('never shows a query among its own shots, and no example twice', async () => {
    const { seen, record } = recording();
    await evaluateFewShot(task, { shots: [8], seed: 1, scorer: record });
    for (const prompt of seen) {
      const images = promptImages(prompt);
      expect(new Set(images).size).toBe(9);
    }
  });

  it('draws the same shots for the same seed and different ones for another', async () => {
    const prompts = async (seed: number, t = task) => {
      const { seen, record } = recording();
      await evaluateFewShot(t, { shots: [4], seed, scorer: record });
      return seen.map((p) => promptText(p));
    };
    expect(await prompts(1)).toEqual(await prompts(1));
    expect(await prompts(1)).not.toEqual(await prompts(2));
    // Blank images change the images and nothing else.
    const blank = (all: readonly FewShotExample<string>[]) => all.map((e) => ({ ...e, image: 'blank' }));
    expect(await prompts(1, { ...task, queries: blank(task.queries), support: blank(examples) })).toEqual(
      await prompts(1),
    );
  });

  it('averages over orders of the shots', async () => {
    const { seen, record } = recording();
    await evaluateFewShot(
      { ...task, queries: examples.slice(0, 2) },
      { shots: [3], seed: 1, scorer: record, permutations: 6 },
    );
    expect(seen).toHaveLength(12);
    const selections = seen.slice(0, 6).map((prompt) => promptImages(prompt).slice(0, 3));
    expect(new Set(selections.map(String)).size).toBe(6);
    expect(new Set(selections.map((s) => String([...s].sort()))).size).toBe(1);
  });

  it('passes at most batchSize prompts per call', async () => {
    const sizes: number[] = [];
    const counting: CandidateScorer<string> = async (prompts, candidates) => {
      sizes.push(prompts.length);
      return scorer(prompts, candidates);
    };
    await evaluateFewShot(task, { shots: [1], seed: 1, scorer: counting, batchSize: 5 });
    expect(sizes).toEqual([5, 5, 2]);
  });

  it('takes its shots from a selector', async () => {
    const direction = (i: number) => [Math.cos(i / 30), Math.sin(i / 30)];
    const pool = examples.slice(10);
    const rices = new Rices(pool.map((_, i) => direction(i + 10)));
    const support: FewShotTask<string>['support'] = (_query, shots, _random, index) =>
      rices.nearest(direction(index), shots).map((i) => pool[i]!);
    const { seen, record } = recording();
    await evaluateFewShot({ ...task, support }, { shots: [2], seed: 1, scorer: record });
    expect(promptImages(seen[3]!)).toEqual(['blue 11', 'green 10', 'red 3']);
  });
});

describe('an open-ended task', () => {
  const open = { ...task, candidates: undefined };
  const echo = async (prompts: readonly Prompt<string>[]) =>
    prompts.map((prompt) => ` ${promptImages(prompt).pop()!.split(' ')[0]!.toUpperCase()}`);

  it('generates answers and compares them ignoring case', async () => {
    const [result] = await evaluateFewShot(open, { shots: [1], seed: 1, generator: echo });
    expect(result!.score).toBe(1);
    expect(result!.predictions[0]!.prediction).toBe(' RED');
  });

  it('has two examples as text in its zero-shot prompt', async () => {
    const texts: string[] = [];
    const record = async (prompts: readonly Prompt<string>[]) => {
      texts.push(...prompts.map((p) => promptText(p)));
      return echo(prompts);
    };
    await evaluateFewShot(open, { shots: [0], seed: 1, generator: record });
    expect(texts[0]).toMatch(/^Output: \w+<EOC>Output: \w+<EOC><image>Output:$/);
  });

  it('accepts another metric', async () => {
    const metric = (prediction: string, query: FewShotExample<string>) =>
      prediction.length > query.answer.length ? 0.5 : 0;
    const [result] = await evaluateFewShot({ ...open, metric }, { shots: [1], seed: 1, generator: echo });
    expect(result).toMatchObject({ score: 0.5, count: 12 });
  });
});

describe('an incomplete task', () => {
  const options = { shots: [1], seed: 1, scorer };

  it('throws an error that names what is missing', async () => {
    const failing = async (t: Partial<FewShotTask<string>>, o = {}) =>
      evaluateFewShot({ ...task, ...t }, { ...options, ...o }).catch((e: Error) => e.message);
    expect(await failing({ queries: [] })).toContain('task "color" has no queries');
    expect(await failing({ candidates: [] })).toContain('empty list of candidates');
    expect(await failing({ candidates: undefined })).toContain('has no candidates and requires a generator');
    expect(await failing({}, { scorer: undefined })).toContain('has candidates and requires a scorer');
    expect(await failing({}, { shots: [-1] })).toContain('shots must be whole numbers of at least 0, got -1');
    expect(await failing({}, { batchSize: 0 })).toContain('batchSize must be a whole number of at least 1, got 0');
    expect(await failing({}, { permutations: 1.5 })).toContain(
      'permutations must be a whole number of at least 1, got 1.5',
    );
    expect(await failing({}, { seed: undefined })).toContain('seed must be an integer, got undefined');
    expect(await failing({ support: examples.slice(0, 2) }, { shots: [2] })).toContain(
      'requires 2 support examples for query 0, got 1',
    );
    expect(await failing({}, { scorer: async () => [] })).toContain(
      'expected one result per prompt, 12 in total, got 0',
    );
  });
});

describe('orders', () => {
  it('are different, start with the given one, and do not exceed the number of possible orders', () => {
    const some = orders(['a', 'b', 'c', 'd', 'e'], 6, shotStream(1)).map(String);
    expect(some[0]).toBe('a,b,c,d,e');
    expect(new Set(some).size).toBe(6);
    expect(orders(['a', 'b'], 6, shotStream(1))).toHaveLength(2);
    expect(orders([], 6, shotStream(1))).toEqual([[]]);
    // Equal items still count as different items.
    expect(orders(['a', 'a', 'a'], 6, shotStream(1))).toHaveLength(6);
  });
});
