import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { countClosedGateDifferences } from '@flamingo-ts/flamingo';
import type { BackendChoice } from '@flamingo-ts/kernels';
import type { Config } from '../config/config';
import { machineSummary } from '../cli/doctor';
import { EmojiData } from './emoji/data';
import { openData } from '../data/data-kinds';
import { answering, evaluate, type Evaluation } from '../eval/evaluate';
import { evaluateWords, type WordResults } from './emoji/words';
import type { JointModel } from '../stages/joint';
import { pretrainLanguage, pretrainVision, trainJoint } from '../stages/recipe';
import { readJson, replaceFile } from '../stages/files';
import { reportPage } from './report';
import type { StopSignal } from '../cli/stop-signal';

/** Contents of `results.json`, for the report and for comparing seeds. */
export interface QuickstartResults {
  readonly seed: number;
  readonly backend: string;
  readonly machine: string;
  readonly unseenStyle?: string;
  /** Seconds by part of the run. */
  readonly seconds: Readonly<Record<string, number>>;
  /** Whether the logits with gates at 0 equal those of the language model bit for bit. */
  readonly closedGatesExact: boolean;
  readonly evaluation: Evaluation;
  readonly words: WordResults;
  /** Evaluation on the style that training never saw, if there is one. */
  readonly unseenEvaluation?: Evaluation;
}

export interface QuickstartOptions {
  readonly config: Config;
  readonly backend: BackendChoice;
  readonly stop: StopSignal;
  readonly fresh?: boolean;
  /** When the command started, set-up included, in milliseconds since 1970. */
  readonly startedAt?: number;
  /** Results with other seeds, to report their spread. */
  readonly others?: readonly QuickstartResults[];
}

/** Runs the whole recipe: data, three stages, evaluation, report. Returns the results and the path of the report. */
export async function quickstart(options: QuickstartOptions): Promise<{ results: QuickstartResults; report: string }> {
  const { config, backend, stop, fresh, startedAt = Date.now() } = options;
  mkdirSync(config.out, { recursive: true });
  const seconds: Record<string, number> = { 'set-up': (Date.now() - startedAt) / 1000 };
  const timed = async <T>(name: string, work: () => Promise<T>): Promise<T> => {
    const from = performance.now();
    const value = await work();
    seconds[name] = (performance.now() - from) / 1000;
    return value;
  };

  const data = await timed('data', () => openData(config));
  if (!(data instanceof EmojiData))
    throw new Error(
      `quickstart: data.kind must be emoji, got ${config.data.kind}. For your own data, run the stages: flamingo pretrain-vision CONFIG.`,
    );
  const run = { config, data, stop, fresh };
  await timed('vision', async () => (await pretrainVision(run)).dispose());
  await timed('language', async () => (await pretrainLanguage(run)).dispose());
  const model = await timed('flamingo', () => trainJoint(run));
  const closedGatesExact = await closedGatesAreExact(model, data);
  const ask = async (split: string) => evaluate(model, await data.questions({ ...config.eval, split }), config.eval);
  const { evaluation, words } = await timed('evaluation', async () => ({
    evaluation: await ask('heldOut'),
    words: await evaluateWords(data.world, { ...config.eval, split: 'heldOut', style: 'seen' }, answering(model)),
  }));
  const { unseenStyle } = data.world;
  const unseenEvaluation = unseenStyle ? await timed('unseen style', () => ask('unseenStyle')) : undefined;
  seconds['total'] = (Date.now() - startedAt) / 1000;

  const results: QuickstartResults = {
    seed: config.seed,
    backend: backend.name,
    machine: machineSummary(),
    ...(unseenStyle && { unseenStyle }),
    seconds,
    closedGatesExact,
    evaluation,
    words,
    ...(unseenEvaluation && { unseenEvaluation }),
  };
  replaceFile(join(config.out, 'results.json'), `${JSON.stringify(results, null, 2)}\n`);
  const report = resolve(config.out, 'report.html');
  writeFileSync(report, await reportPage(config, model, data, results, options.others ?? []));
  return { results, report };
}

/** Whether, with closed gates, the logits of a prompt with an image equal those of the language model bit for bit. */
export async function closedGatesAreExact(model: JointModel, data: EmojiData): Promise<boolean> {
  const { flamingo, language, features, tower } = model;
  const [feature] = await features.get([data.world.images('heldOut')[0]!]);
  const tokens = [flamingo.config.tokens.image, ...language.tokenizer.encode('Output: red\nOutput:')];
  const visual = { kind: 'features' as const, shape: [1, 1, tower.patches, tower.encoder.featureDim], data: feature! };
  return (await countClosedGateDifferences(flamingo, { tokens, visual })) === 0;
}

/** Reads the results of an earlier run from its folder. */
export function readResults(folder: string): QuickstartResults {
  const fix = 'Remove the file and run the same command again.';
  return readJson(join(folder, 'results.json'), 'the results of a quickstart', fix) as QuickstartResults;
}
