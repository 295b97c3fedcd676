import { exactMatch } from './answers';
import { ensembleScores, rankCandidates } from './choice';
import { fewShotPrompt, textOnly, type FewShotExample, type Prompt, type PromptTemplate } from './prompt';
import { shotStream, type RandomStream } from '@flamingo-ts/random';

/** Log-likelihood of each candidate text after each prompt: `result[prompt][candidate]`. */
export type CandidateScorer<Image> = (
  prompts: readonly Prompt<Image>[],
  candidates: readonly string[],
) => Promise<readonly ArrayLike<number>[]>;

/** What the model writes after each prompt up to its first `<EOC>`. */
export type AnswerGenerator<Image> = (prompts: readonly Prompt<Image>[]) => Promise<readonly string[]>;

/** The examples put in front of a query, in order; `index` is the query's place in the task. */
export type SupportSelector<Image> = (
  query: FewShotExample<Image>,
  shots: number,
  random: RandomStream,
  index: number,
) => readonly FewShotExample<Image>[];

export interface FewShotTask<Image> {
  readonly name: string;
  readonly template: PromptTemplate;
  readonly queries: readonly FewShotExample<Image>[];
  /** A pool to draw from at random, or a selection of one's own, as RICES is. */
  readonly support: readonly FewShotExample<Image>[] | SupportSelector<Image>;
  /** Closed-ended: the answer is the likeliest of these. Left out: the answer is generated. */
  readonly candidates?: readonly string[];
  /** Worth of a prediction, 0 to 1. Default: 1 if it equals the answer but for case, else 0. */
  readonly metric?: (prediction: string, query: FewShotExample<Image>) => number;
}

export interface FewShotOptions<Image> {
  /** Paper: 0, 4, 8, 16, 32. */
  readonly shots: readonly number[];
  /** Tasks with as many queries and as much support draw the same shots from the same seed: blank images change nothing else. */
  readonly seed: number;
  /** Needed by tasks with candidates. */
  readonly scorer?: CandidateScorer<Image>;
  /** Needed by tasks without. */
  readonly generator?: AnswerGenerator<Image>;
  /** Prompts handed over at once. Default 16. */
  readonly batchSize?: number;
  /** Closed-ended tasks: mean over this many orders of the shots. Paper: 6 where it ensembles. Default 1. */
  readonly permutations?: number;
}

export interface FewShotResult {
  readonly task: string;
  readonly shots: number;
  /** Mean worth over the queries. */
  readonly score: number;
  /** Binomial: sqrt(score * (1 - score) / count). */
  readonly standardError: number;
  readonly count: number;
  /** Prediction and worth of every query, in order. */
  readonly predictions: readonly { readonly prediction: string; readonly worth: number }[];
}

/** Asks every query of a task once per number of shots. */
export async function evaluateFewShot<Image>(
  task: FewShotTask<Image>,
  options: FewShotOptions<Image>,
): Promise<FewShotResult[]> {
  checkTask(task, options);
  const results: FewShotResult[] = [];
  for (const shots of options.shots) {
    const answers = task.candidates
      ? await choose(task, task.candidates, shots, options)
      : await generate(task, shots, options);
    const { metric = (prediction, query) => exactMatch(prediction, query.answer) } = task;
    const predictions = answers.map((prediction, i) => ({ prediction, worth: metric(prediction, task.queries[i]!) }));
    const count = predictions.length;
    const score = predictions.reduce((sum, p) => sum + p.worth, 0) / count;
    const standardError = Math.sqrt((score * (1 - score)) / count);
    results.push({ task: task.name, shots, score, standardError, count, predictions });
  }
  return results;
}

/** Up to `count` different orders of the items, the given one first. */
export function orders<T>(items: readonly T[], count: number, random: RandomStream): T[][] {
  let all = 1;
  for (let n = 2; n <= items.length && all < count; n++) all *= n;
  const found = new Map([[items.map((_, i) => i).join(), [...items]]]);
  while (found.size < Math.min(count, all)) {
    const order = draw(
      items.map((_, i) => i),
      items.length,
      random,
    );
    found.set(
      order.join(),
      order.map((i) => items[i]!),
    );
  }
  return [...found.values()];
}

async function choose<Image>(
  task: FewShotTask<Image>,
  candidates: readonly string[],
  shots: number,
  { seed, scorer, batchSize = 16, permutations = 1 }: FewShotOptions<Image>,
): Promise<string[]> {
  const texts = candidates.map((candidate) => task.template.answer(candidate));
  const groups = task.queries.map((query, i) => {
    const random = shotStream(seed, shots, i);
    const support = selectSupport(task, query, shots, random, i);
    return orders(support, permutations, random).map((order) => fewShotPrompt(task.template, order, query));
  });
  const scores = await inBatches(groups.flat(), batchSize, (prompts) => scorer!(prompts, texts));
  let next = 0;
  return groups.map((group) => {
    const own = scores.slice(next, (next += group.length));
    return candidates[rankCandidates(ensembleScores(own)).order[0]!]!;
  });
}

async function generate<Image>(
  task: FewShotTask<Image>,
  shots: number,
  { seed, generator, batchSize = 16 }: FewShotOptions<Image>,
): Promise<string[]> {
  const prompts = task.queries.map((query, i) => {
    const random = shotStream(seed, shots, i);
    // Without any example the model cannot know the form of the answer: the paper gives two as text alone.
    const support =
      shots === 0 ? textOnly(selectSupport(task, query, 2, random, i)) : selectSupport(task, query, shots, random, i);
    return fewShotPrompt(task.template, support, query);
  });
  return inBatches(prompts, batchSize, (batch) => generator!(batch));
}

function selectSupport<Image>(
  { support, name }: FewShotTask<Image>,
  query: FewShotExample<Image>,
  shots: number,
  random: RandomStream,
  index: number,
): readonly FewShotExample<Image>[] {
  if (typeof support === 'function') return support(query, shots, random, index);
  const pool = support.filter((s) => s !== query && (s.id === undefined || s.id !== query.id));
  if (pool.length < shots) {
    throw new Error(
      `evaluateFewShot: task "${name}" needs ${shots} support examples for query ${index}, got ${pool.length}.`,
    );
  }
  return draw(pool, shots, random);
}

/** `count` different items in random order. */
function draw<T>(items: readonly T[], count: number, random: RandomStream): T[] {
  const rest = [...items];
  return Array.from({ length: count }, (_, i) => {
    const j = i + random.int(rest.length - i);
    [rest[i], rest[j]] = [rest[j]!, rest[i]!];
    return rest[i]!;
  });
}

async function inBatches<In, Out>(
  items: readonly In[],
  size: number,
  run: (batch: readonly In[]) => Promise<readonly Out[]>,
) {
  const out: Out[] = [];
  for (let i = 0; i < items.length; i += size) {
    const batch = items.slice(i, i + size);
    const results = await run(batch);
    if (results.length !== batch.length) {
      throw new Error(
        `evaluateFewShot: ${batch.length} prompts were handed over, ${results.length} results came back.`,
      );
    }
    out.push(...results);
  }
  return out;
}

function checkTask<Image>(task: FewShotTask<Image>, { scorer, generator, shots }: FewShotOptions<Image>): void {
  const where = `evaluateFewShot: task "${task.name}"`;
  if (task.queries.length === 0) throw new Error(`${where} has no queries.`);
  if (task.candidates ? !scorer : !generator) {
    throw new Error(`${where} ${task.candidates ? 'has candidates: give a scorer' : 'has none: give a generator'}.`);
  }
  if (task.candidates?.length === 0) throw new Error(`${where} has an empty list of candidates.`);
  const wrong = shots.find((n) => !Number.isInteger(n) || n < 0);
  if (wrong !== undefined) throw new Error(`${where}: shots must be whole numbers from 0, got ${wrong}.`);
}
