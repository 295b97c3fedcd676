import { exactMatch } from './answers';
import { ensembleScores, rankCandidates } from './choice';
import { fewShotPrompt, textOnly, type FewShotExample, type Prompt, type PromptTemplate } from './prompt';
import { shotStream, type RandomStream } from '@flamingo-ts/random';

/** Log-likelihood of each candidate text after each prompt: `result[prompt][candidate]`. */
export type CandidateScorer<Image> = (
  prompts: readonly Prompt<Image>[],
  candidates: readonly string[],
) => Promise<readonly ArrayLike<number>[]>;

/** The text that the model generates after each prompt, up to its first `<EOC>`. */
export type AnswerGenerator<Image> = (prompts: readonly Prompt<Image>[]) => Promise<readonly string[]>;

/** The examples placed before a query, in order; `index` is the position of the query in the task. */
export type SupportSelector<Image> = (
  query: FewShotExample<Image>,
  shots: number,
  random: RandomStream,
  index: number,
) => readonly FewShotExample<Image>[];

/** A benchmark: queries, and the examples that serve as their shots. */
export interface FewShotTask<Image> {
  readonly name: string;
  readonly template: PromptTemplate;
  readonly queries: readonly FewShotExample<Image>[];
  /** A pool to draw shots from at random, or a function that selects them (`Rices`). */
  readonly support: readonly FewShotExample<Image>[] | SupportSelector<Image>;
  /** Closed-ended tasks: the answer is the likeliest of these. Without candidates, the answer is generated. */
  readonly candidates?: readonly string[];
  /** Score of a prediction, 0 to 1. Defaults to `exactMatch`: 1 if it equals the answer, ignoring case, else 0. */
  readonly metric?: (prediction: string, query: FewShotExample<Image>) => number;
}

/** Options of `evaluateFewShot`. */
export interface FewShotOptions<Image> {
  /** Paper: 0, 4, 8, 16, 32. */
  readonly shots: readonly number[];
  /** Equal seeds draw the same shots in tasks with equally many queries and support examples, such as a blank-image control. */
  readonly seed: number;
  /** Required by tasks with candidates. */
  readonly scorer?: CandidateScorer<Image>;
  /** Required by tasks without candidates. */
  readonly generator?: AnswerGenerator<Image>;
  /** Prompts per call of the scorer or generator. Defaults to 16. */
  readonly batchSize?: number;
  /** Closed-ended tasks: averages over this many orders of the shots. The paper uses 6 for ensembling. Defaults to 1. */
  readonly permutations?: number;
}

/** The result of a task for one number of shots. */
export interface FewShotResult {
  readonly task: string;
  readonly shots: number;
  /** Mean score over the queries. */
  readonly score: number;
  /** Binomial: sqrt(score * (1 - score) / count). */
  readonly standardError: number;
  readonly count: number;
  /** Prediction and score of each query, in order. */
  readonly predictions: readonly { readonly prediction: string; readonly worth: number }[];
}

/**
 * Evaluates a task once for each number of shots.
 *
 * @throws Error if the task or an option is incomplete or out of range
 */
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
  const distinct = new Map([[items.map((_, i) => i).join(), [...items]]]);
  while (distinct.size < Math.min(count, all)) {
    const order = draw(
      items.map((_, i) => i),
      items.length,
      random,
    );
    distinct.set(
      order.join(),
      order.map((i) => items[i]!),
    );
  }
  return [...distinct.values()];
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
    const groupScores = scores.slice(next, (next += group.length));
    return candidates[rankCandidates(ensembleScores(groupScores)).order[0]!]!;
  });
}

async function generate<Image>(
  task: FewShotTask<Image>,
  shots: number,
  { seed, generator, batchSize = 16 }: FewShotOptions<Image>,
): Promise<string[]> {
  const prompts = task.queries.map((query, i) => {
    const random = shotStream(seed, shots, i);
    // Without any example the model cannot know the form of the answer, so the paper adds two as text alone.
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
      `evaluateFewShot: task "${name}" requires ${shots} support examples for query ${index}, got ${pool.length}. Use fewer ` +
        'shots or more support.',
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
        `evaluateFewShot: expected one result per prompt, ${batch.length} in total, got ${results.length}. Check the scorer or ` +
          'generator.',
      );
    }
    out.push(...results);
  }
  return out;
}

function checkTask<Image>(
  task: FewShotTask<Image>,
  { scorer, generator, shots, seed, batchSize = 16, permutations = 1 }: FewShotOptions<Image>,
): void {
  const where = `evaluateFewShot: task "${task.name}"`;
  if (task.queries.length === 0) throw new Error(`${where} has no queries. Add at least one.`);
  if (task.candidates ? !scorer : !generator) {
    const need = task.candidates
      ? 'has candidates and requires a scorer'
      : 'has no candidates and requires a generator';
    throw new Error(`${where} ${need}. Pass one in the options.`);
  }
  if (task.candidates?.length === 0)
    throw new Error(`${where} has an empty list of candidates. Add at least one, or omit the list.`);
  const wrong = shots.find((n) => !Number.isInteger(n) || n < 0);
  if (wrong !== undefined) throw new Error(`${where}: shots must be whole numbers of at least 0, got ${wrong}.`);
  for (const [name, value] of Object.entries({ batchSize, permutations })) {
    if (!Number.isInteger(value) || value < 1) {
      throw new Error(`${where}: ${name} must be a whole number of at least 1, got ${String(value)}.`);
    }
  }
  if (!Number.isInteger(seed)) throw new Error(`${where}: seed must be an integer, got ${String(seed)}.`);
}
