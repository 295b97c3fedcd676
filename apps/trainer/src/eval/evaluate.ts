import {
  evaluateFewShot,
  promptImages,
  promptTokens,
  type FewShotOptions,
  type FewShotResult,
  type FewShotTask,
  type Prompt,
} from '@flamingo-ts/evaluation';
import type { FlamingoPrompt } from '@flamingo-ts/flamingo';
import type { Config } from '../config/config';
import { startProgress } from '../cli/progress';
import { CONDITIONS, type Condition, type MediaKey, type Questions } from '../data/training-data';
import type { JointModel } from '../stages/joint';

/** Scores of one condition and number of shots. */
export interface EvalRow {
  readonly condition: Condition;
  readonly shots: number;
  /** Accuracy by task. */
  readonly scores: Readonly<Record<string, number>>;
  /** Mean accuracy over the tasks. */
  readonly mean: number;
  /** Binomial standard error of the mean. */
  readonly standardError: number;
  /** Score of always giving the most frequent answer of each task. */
  readonly majority: number;
  /** Prompts behind the mean. */
  readonly count: number;
}

/** Result of an evaluation. */
export interface Evaluation {
  /** The split that the questions are about. */
  readonly split: string;
  readonly rows: readonly EvalRow[];
  readonly warnings: readonly string[];
  readonly seconds: number;
}

/** Prompts per batch. */
const BATCH = 40;
/** Maximum length of a generated answer. */
const MAX_ANSWER_TOKENS = 12;

/** Asks the model few-shot questions. */
export async function evaluate(
  model: JointModel,
  { split, tasks, warnings }: Questions,
  { shots, seed }: Config['eval'],
): Promise<Evaluation> {
  const started = performance.now();
  const options = { ...answering(model), shots, seed, batchSize: BATCH };
  const progress = startProgress('eval', tasks.length, 'tasks');
  const asked: { condition: Condition; majority: number; result: FewShotResult }[] = [];
  try {
    for (const [i, { condition, task }] of tasks.entries()) {
      const majority = shareOfMostFrequent(task);
      for (const result of await evaluateFewShot(task, options)) asked.push({ condition, majority, result });
      progress.update(i + 1);
    }
    const rows = CONDITIONS.flatMap((condition) =>
      shots.flatMap((count) => {
        const matching = asked.filter((a) => a.condition === condition && a.result.shots === count);
        return matching.length > 0 ? [rowOf(condition, count, matching)] : [];
      }),
    );
    progress.stop(`${tasks.length} tasks`);
    return { split, rows, warnings, seconds: (performance.now() - started) / 1000 };
  } finally {
    progress.stop();
  }
}

/** Functions through which an evaluation asks the model: scores of candidates, and generated text. */
export function answering(model: JointModel): Required<Pick<FewShotOptions<MediaKey>, 'scorer' | 'generator'>> {
  const { flamingo, tokenizer } = model;
  const encode = (text: string) => Array.from(tokenizer.encode(text));
  return {
    async scorer(prompts, candidates) {
      const ids = candidates.map(encode);
      const scores = await flamingo.score(
        await toFlamingoPrompts(model, prompts),
        prompts.map(() => ids),
      );
      return scores.map((list) => list.map(({ sum }) => sum));
    },
    async generator(prompts) {
      const generated = await flamingo.generate(await toFlamingoPrompts(model, prompts), {
        maxNewTokens: MAX_ANSWER_TOKENS,
      });
      return generated.map(({ tokens }) =>
        model.language.tokenizer.decode([...tokens], { skipSpecialTokens: true }).trim(),
      );
    },
  };
}

/** Prompts with features instead of images. All images must be readable. */
async function toFlamingoPrompts(model: JointModel, prompts: readonly Prompt<MediaKey>[]): Promise<FlamingoPrompt[]> {
  const { tower, features, tokenizer } = model;
  const keys = prompts.map((prompt) => promptImages(prompt));
  const loaded = await features.get(keys.flat());
  let next = 0;
  return prompts.map((prompt, i) => {
    const promptFeatures = keys[i]!.map(() => loaded[next++]!);
    const size = tower.patches * tower.encoder.featureDim;
    const data = new Float32Array(promptFeatures.length * size);
    promptFeatures.forEach((values, n) => data.set(values, n * size));
    const shape = [promptFeatures.length, 1, tower.patches, tower.encoder.featureDim];
    return { tokens: promptTokens(prompt, tokenizer), visual: { kind: 'features', shape, data } };
  });
}

function shareOfMostFrequent({ queries }: FewShotTask<MediaKey>): number {
  const counts = new Map<string, number>();
  for (const { answer } of queries) counts.set(answer, (counts.get(answer) ?? 0) + 1);
  return Math.max(...counts.values()) / queries.length;
}

function rowOf(
  condition: Condition,
  shots: number,
  asked: readonly { readonly majority: number; readonly result: FewShotResult }[],
): EvalRow {
  const sum = (value: (a: (typeof asked)[number]) => number) => asked.reduce((total, a) => total + value(a), 0);
  return {
    condition,
    shots,
    scores: Object.fromEntries(asked.map(({ result }) => [result.task, result.score])),
    mean: sum(({ result }) => result.score) / asked.length,
    standardError: Math.sqrt(sum(({ result }) => result.standardError ** 2)) / asked.length,
    majority: sum((a) => a.majority) / asked.length,
    count: sum(({ result }) => result.count),
  };
}

/** The row of a condition and number of shots. */
export function findRow({ rows }: Evaluation, condition: Condition, shots: number): EvalRow | undefined {
  return rows.find((row) => row.condition === condition && row.shots === shots);
}

/** One line per row for people, with the majority baseline next to each score. */
export function formatEvaluation({ rows }: Evaluation): string {
  const lines = rows.map(({ condition, shots, mean, standardError, majority, count, scores }) => {
    const names = Object.keys(scores);
    const byTask = names.length > 1 ? names.map((name) => `  ${name} ${scores[name]!.toFixed(3)}`).join('') : '';
    return (
      `${condition.padEnd(8)} ${String(shots).padStart(2)} ${shots === 1 ? 'shot ' : 'shots'}  accuracy ${mean.toFixed(3)} ± ${standardError.toFixed(3)}  ` +
      `majority ${majority.toFixed(3)}  ${count} prompts${byTask}`
    );
  });
  return lines.join('\n');
}
