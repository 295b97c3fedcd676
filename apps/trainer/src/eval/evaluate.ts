import {
  evaluateFewShot,
  paperTemplates,
  promptImages,
  promptTokens,
  type FewShotOptions,
  type FewShotResult,
  type FewShotTask,
  type Prompt,
} from '@flamingo-ts/evaluation';
import type { FlamingoPrompt } from '@flamingo-ts/flamingo';
import type { Config } from '../config/config';
import {
  askable,
  attributeTask,
  bindingTask,
  CONDITIONS,
  namingTask,
  type Condition,
  type TaskOptions,
} from '../quickstart/emoji/tasks';
import type { Split } from '../quickstart/emoji/concepts';
import { EmojiData } from '../quickstart/emoji/data';
import type { EmojiWorld } from '../quickstart/emoji/world';
import { FolderData } from '../data/folder-data';
import type { JointModel } from '../stages/joint';
import { startProgress } from '../cli/progress';
import type { MediaKey, TrainingData } from '../data/training-data';

/** One row of an evaluation's table. */
export interface EvalRow {
  readonly condition: Condition;
  readonly shots: number;
  /** Share of right answers by question. */
  readonly scores: Readonly<Record<string, number>>;
  readonly mean: number;
  /** Binomial standard error of the mean. */
  readonly standardError: number;
  /** Prompts behind the mean. */
  readonly count: number;
}

/** Everything an evaluation found. */
export interface Evaluation {
  readonly split: Split | 'folder';
  readonly style: 'seen' | 'unseen';
  readonly rows: readonly EvalRow[];
  /** Made-up words bound by k examples: share right among all made-up words, guessing between two is 0.5. */
  readonly binding: readonly { readonly k: number; readonly score: number; readonly count: number }[];
  /** Names written freely after four examples. */
  readonly naming?: {
    readonly score: number;
    readonly exact: number;
    readonly count: number;
    readonly samples: readonly { readonly key: MediaKey; readonly said: string; readonly label: string }[];
  };
  readonly seconds: number;
}

/** Prompts that run together. */
const BATCH = 40;
/** Examples of each of two made-up words in the binding questions. */
const BINDINGS = [1, 2, 4] as const;
/** Tokens a free name may have. */
const NAME_TOKENS = 12;

/** Asks the model everything the configuration says. */
export async function evaluate(
  model: JointModel,
  data: TrainingData,
  config: Config,
  where: { readonly split: Split; readonly style?: 'seen' | 'unseen' } = { split: 'heldOut' },
): Promise<Evaluation> {
  const started = performance.now();
  const seconds = () => (performance.now() - started) / 1000;
  const { shots, prompts, seed } = config.eval;
  const { split, style = 'seen' } = where;
  const ask = { ...answering(model), seed, batchSize: BATCH, shots };
  if (data instanceof FolderData) {
    const results = await evaluateFewShot(await folderTask(data, model, Math.max(...shots)), ask);
    const rows = results.map((result) => rowOf('real', result.shots, [result]));
    return { split: 'folder', style, rows, binding: [], seconds: seconds() };
  }
  if (!(data instanceof EmojiData)) throw new Error('evaluate: expected emoji data or a folder.');
  const options = { split, style, prompts, seed };
  const tasks = CONDITIONS.length * askable(options).length + BINDINGS.length + 1;
  const progress = startProgress('eval', tasks, 'tasks');
  let done = 0;
  try {
    const found = await evaluateEmoji(data.world, options, ask, () => progress.update(++done));
    progress.stop(`${found.rows.length} rows`);
    return { split, style, ...found, seconds: seconds() };
  } finally {
    progress.stop();
  }
}

/** Every question under every condition, then binding and naming; `onTask` is called after each. */
async function evaluateEmoji(
  world: EmojiWorld,
  options: TaskOptions,
  ask: FewShotOptions<MediaKey>,
  onTask: () => void,
): Promise<Pick<Evaluation, 'rows' | 'binding' | 'naming'>> {
  const asked = async (task: FewShotTask<MediaKey>, shots: readonly number[]) => {
    const results = await evaluateFewShot(task, { ...ask, shots });
    onTask();
    return results;
  };
  const rows: EvalRow[] = [];
  for (const condition of CONDITIONS) {
    const results: FewShotResult[] = [];
    for (const attribute of askable(options)) {
      results.push(...(await asked(attributeTask(world, attribute, condition, options), ask.shots)));
    }
    for (const n of ask.shots) {
      const own = results.filter((r) => r.shots === n);
      rows.push(rowOf(condition, n, own));
    }
  }
  const binding = [];
  for (const k of BINDINGS) {
    const [result] = await asked(bindingTask(world, k, options), [k]);
    binding.push({ k, score: result!.score, count: result!.count });
  }
  const task = namingTask(world, { ...options, prompts: Math.min(options.prompts, BATCH) });
  const [named] = await asked(task, [4]);
  const naming = {
    score: named!.score,
    exact: named!.predictions.filter((p) => p.worth === 1).length / named!.count,
    count: named!.count,
    samples: named!.predictions.map((p, i) => ({
      key: task.queries[i]!.image!,
      said: p.prediction,
      label: task.queries[i]!.answer,
    })),
  };
  return { rows, binding, naming };
}

/** The model as the evaluation asks it: scores of candidates, and free text. */
export function answering(model: JointModel): Pick<FewShotOptions<MediaKey>, 'scorer' | 'generator'> {
  const { flamingo, tokenizer } = model;
  const encode = (text: string) => Array.from(tokenizer.encode(text));
  return {
    async scorer(prompts, candidates) {
      const ids = candidates.map(encode);
      const scores = await flamingo.score(
        await toPrompts(model, prompts),
        prompts.map(() => ids),
      );
      return scores.map((list) => list.map((s) => s.sum));
    },
    async generator(prompts) {
      const made = await flamingo.generate(await toPrompts(model, prompts), { maxNewTokens: NAME_TOKENS });
      return made.map(({ tokens }) => model.language.tokenizer.decode([...tokens], { skipSpecialTokens: true }).trim());
    },
  };
}

/** Prompts with features instead of images, all of which are known to be readable. */
async function toPrompts(model: JointModel, prompts: readonly Prompt<MediaKey>[]): Promise<FlamingoPrompt[]> {
  const { tower, features, tokenizer } = model;
  const keys = prompts.map((p) => promptImages(p));
  const found = await features.get(keys.flat());
  let next = 0;
  return prompts.map((prompt, i) => {
    const own = keys[i]!.map(() => found[next++]!);
    const each = tower.patches * tower.encoder.featureDim;
    const data = new Float32Array(own.length * each);
    own.forEach((values, n) => data.set(values, n * each));
    const shape = [own.length, 1, tower.patches, tower.encoder.featureDim];
    return { tokens: promptTokens(prompt, tokenizer), visual: { kind: 'features', shape, data } };
  });
}

/** Few-shot classification among the answers that a folder's questions have; those whose image cannot be read are left out. */
async function folderTask(data: FolderData, model: JointModel, shots: number): Promise<FewShotTask<MediaKey>> {
  if (data.questions.length === 0) {
    throw new Error(
      `Data folder ${data.folder}: expected eval.jsonl with few-shot questions, got none. ` +
        'Write one line for each: {"image": "images/1.jpg", "answer": "red"}.',
    );
  }
  const found = await model.features.get(data.questions.map((q) => q.image));
  const queries = data.questions.flatMap((q, i) => (found[i] ? [{ ...q, id: String(i) }] : []));
  if (queries.length <= shots) {
    throw new Error(
      `eval: ${shots} examples and a question need ${shots + 1} readable images in eval.jsonl, got ${queries.length}. ` +
        'Add lines to it or lower eval.shots.',
    );
  }
  const candidates = [...new Set(queries.map((q) => q.answer))];
  return { name: 'folder', template: paperTemplates.caption, queries, support: queries, candidates };
}

function rowOf(condition: Condition, shots: number, results: readonly FewShotResult[]): EvalRow {
  const mean = results.reduce((sum, r) => sum + r.score, 0) / results.length;
  const count = results.reduce((sum, r) => sum + r.count, 0);
  const variance = results.reduce((sum, r) => sum + r.standardError ** 2, 0);
  return {
    condition,
    shots,
    scores: Object.fromEntries(results.map((r) => [r.task, r.score])),
    mean,
    standardError: Math.sqrt(variance) / results.length,
    count,
  };
}

/** The row of a condition and number of shots. */
export function findRow(evaluation: Evaluation, condition: Condition, shots: number): EvalRow | undefined {
  return evaluation.rows.find((r) => r.condition === condition && r.shots === shots);
}
