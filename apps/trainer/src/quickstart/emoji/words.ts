import { evaluateFewShot, type FewShotOptions } from '@flamingo-ts/evaluation';
import type { MediaKey } from '../../data/training-data';
import { bindingTask, namingTask, type TaskOptions } from './tasks';
import type { EmojiWorld } from './world';

/** Shots for each of the two made-up words in the binding questions. */
const BINDINGS = [1, 2, 4] as const;
const NAMING_SHOTS = 4;
/** Names to generate, and prompts per batch. */
const BATCH = 40;

/** Results of the questions about words: made-up words and names. */
export interface WordResults {
  /** Accuracy among all made-up words after `k` shots of each of two. Guessing between the two gives 0.5. */
  readonly binding: readonly { readonly k: number; readonly score: number; readonly count: number }[];
  /** Generated names after four shots. */
  readonly naming: {
    readonly score: number;
    readonly exact: number;
    readonly count: number;
    readonly samples: readonly { readonly key: MediaKey; readonly prediction: string; readonly label: string }[];
  };
}

/** Asks the binding and naming questions. */
export async function evaluateWords(
  world: EmojiWorld,
  options: TaskOptions,
  answering: Pick<FewShotOptions<MediaKey>, 'scorer' | 'generator'>,
): Promise<WordResults> {
  const ask = { ...answering, seed: options.seed, batchSize: BATCH };
  const binding = [];
  for (const k of BINDINGS) {
    const [result] = await evaluateFewShot(bindingTask(world, k, options), { ...ask, shots: [k] });
    binding.push({ k, score: result!.score, count: result!.count });
  }
  const task = namingTask(world, { ...options, prompts: Math.min(options.prompts, BATCH) });
  const [result] = await evaluateFewShot(task, { ...ask, shots: [NAMING_SHOTS] });
  const { score, count, predictions } = result!;
  const naming = {
    score,
    exact: predictions.filter(({ worth }) => worth === 1).length / count,
    count,
    samples: predictions.map(({ prediction }, i) => ({
      key: task.queries[i]!.image!,
      prediction,
      label: task.queries[i]!.answer,
    })),
  };
  return { binding, naming };
}
