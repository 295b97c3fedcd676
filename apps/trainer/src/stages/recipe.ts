import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { readState, writeSafetensors } from '@flamingo-ts/checkpoint';
import { countParams, loadState, Random, stateOf, type ParamTree } from '@flamingo-ts/kernels';
import type { Chinchilla } from '@flamingo-ts/lm-chinchilla';
import type { TokenizerJson } from '@flamingo-ts/lm-core';
import type { Config } from '../config/config';
import { expectDatasets, JointModel, jointObjective } from './joint';
import { LanguageModel, languageObjective, trainTokenizer } from './lm';
import { replaceFile } from './replace-file';
import { CHECKPOINTS, readMetrics, runStage, type Objective, type StepMetrics } from './stage';
import type { StopSignal } from '../cli/stop-signal';
import type { ImageSource, TrainingData } from '../data/training-data';
import { contrastiveObjective, VisionTower } from './vision';

/** The three stages, by the command that runs each. */
export const STAGES = { vision: 'pretrain-vision', lm: 'pretrain-lm', flamingo: 'train' } as const;
export type StageName = keyof typeof STAGES;

/** What is left of a finished stage beside its weights. */
export interface StageSummary {
  readonly steps: number;
  readonly seconds: number;
  /** Share of the seconds spent waiting for data. */
  readonly waitedShare: number;
  /** Scalars trained. */
  readonly trained: number;
  readonly measured: Readonly<Record<string, number>>;
}

/** What every stage is given. */
export interface RunOptions {
  readonly config: Config;
  readonly data: TrainingData;
  readonly stop: StopSignal;
  /** Start over, whatever is in the folder. */
  readonly fresh?: boolean | undefined;
}

const MODEL_FILE = 'model.safetensors';
const TOKENIZER_FILE = 'tokenizer.json';
const SUMMARY_FILE = 'summary.json';

/** Contrastive pretraining of the vision encoder; then the statistics of its features. */
export async function pretrainVision(options: RunOptions): Promise<VisionTower> {
  const { config, data } = options;
  const tower = createTower(config);
  const objective = contrastiveObjective(tower, config, data);
  // The last stage needs them; said now, it costs nobody this one.
  expectDatasets(config, data);
  await train('vision', options, objective, tower.params, async () => {
    await tower.measureStatistics(data, config.seed);
  });
  return tower;
}

/** Pretraining of the language model on text alone, after its tokenizer; data without images will do. */
export async function pretrainLanguage(options: RunOptions): Promise<LanguageModel> {
  const { config, data } = options;
  if (config.lm.pretrained !== undefined) {
    throw new Error(
      `pretrain-lm: lm.pretrained names a trained language model, ${config.lm.pretrained}. ` +
        `There is nothing to do: go on with flamingo ${STAGES.flamingo} CONFIG, or remove the key to train one here.`,
    );
  }
  const folder = stageFolder(config, 'lm');
  prepareFolder(folder, options.fresh);
  const tokenizerFile = join(folder, TOKENIZER_FILE);
  // Without a checkpoint nothing was learned with a tokenizer that may be there, perhaps from another configuration.
  const begun = existsSync(join(folder, CHECKPOINTS));
  if (!begun || !existsSync(tokenizerFile)) replaceFile(tokenizerFile, JSON.stringify(trainTokenizer(config, data)));
  const language = createLanguage(config);
  await train('lm', { ...options, fresh: false }, languageObjective(language, config, data), language.lm.params);
  return language;
}

/** Training of what joins the two frozen models, which come from the folders of their stages. */
export async function trainJoint(options: RunOptions): Promise<JointModel> {
  const { config, data } = options;
  expectDatasets(config, data);
  const model = new JointModel(config, await loadVision(config), await loadLanguage(config), data);
  await train('flamingo', options, jointObjective(model, config, data), model.flamingo.params);
  return model;
}

/** A trained model from its folder. */
export async function openJoint(config: Config, images: ImageSource): Promise<JointModel> {
  const model = new JointModel(config, await loadVision(config), await loadLanguage(config), images);
  model.flamingo.load(...(await loadModel(config, 'flamingo')));
  return model;
}

export async function loadVision(config: Config): Promise<VisionTower> {
  const tower = createTower(config);
  tower.load(...(await loadModel(config, 'vision')));
  return tower.freeze();
}

export async function loadLanguage(config: Config): Promise<LanguageModel> {
  const { pretrained, precision } = config.lm;
  if (pretrained !== undefined) return LanguageModel.load(pretrained, precision);
  const [state, what] = await loadModel(config, 'lm');
  const { lm, tokenizer, special } = createLanguage(config);
  loadState(lm.params, state, { what });
  return new LanguageModel(await lm.freeze(precision), tokenizer, special);
}

export function stageFolder(config: Config, stage: StageName): string {
  return join(config.out, stage);
}

/** What a finished stage wrote down. */
export function readSummary(config: Config, stage: StageName): StageSummary {
  return JSON.parse(readFileSync(join(stageFolder(config, stage), SUMMARY_FILE), 'utf8')) as StageSummary;
}

export function stageMetrics(config: Config, stage: StageName): StepMetrics[] {
  return readMetrics(join(stageFolder(config, stage), 'metrics.jsonl'));
}

function createTower(config: Config): VisionTower {
  return VisionTower.create(config.vision.model, config.vision.jointSize, new Random(config.seed).fork('vision'));
}

function createLanguage(config: Config): LanguageModel<Chinchilla> {
  const file = join(stageFolder(config, 'lm'), TOKENIZER_FILE);
  const tokenizer = readTokenizer(file);
  try {
    return LanguageModel.create(config.lm.model, tokenizer, new Random(config.seed).fork('lm'));
  } catch (error) {
    throw new Error(`${file} and lm.model of the configuration do not fit: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

function readTokenizer(file: string): TokenizerJson {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as TokenizerJson;
  } catch (error) {
    throw new Error(
      `${file}: expected the tokenizer that pretrain-lm wrote, got an error: ${(error as Error).message}. ` +
        `Remove the file if it is there, and run: flamingo ${STAGES.lm} CONFIG. It makes the same one again.`,
      { cause: error },
    );
  }
}

/** Runs a stage and writes its weights and summary; `finish` comes between. */
async function train(
  stage: StageName,
  options: RunOptions,
  objective: Objective,
  params: ParamTree,
  finish?: () => Promise<void>,
): Promise<void> {
  const { config, stop } = options;
  const folder = stageFolder(config, stage);
  prepareFolder(folder, options.fresh);
  const settings = config[stage];
  const result = await runStage({
    name: STAGES[stage],
    folder,
    config: settings.train,
    fingerprint: { seed: config.seed, data: config.data, ...dependsOn(config, stage) },
    objective,
    stop,
  });
  await finish?.();
  await writeSafetensors(join(folder, MODEL_FILE), await stateOf(params));
  const summary: StageSummary = {
    steps: settings.train.steps,
    seconds: result.seconds,
    waitedShare: result.waitedShare,
    trained: countParams(objective.params),
    measured: result.measured,
  };
  replaceFile(join(folder, SUMMARY_FILE), `${JSON.stringify(summary, null, 2)}\n`);
}

/** Keys of the configuration that the weights of a stage depend on. */
function dependsOn(config: Config, stage: StageName): object {
  const { pretrained, precision, ...lm } = config.lm;
  if (stage === 'vision') return { vision: config.vision };
  return stage === 'lm' ? { lm } : { flamingo: config.flamingo, frozen: { pretrained, precision } };
}

function prepareFolder(folder: string, fresh = false): void {
  if (fresh) rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
}

async function loadModel(config: Config, stage: StageName) {
  const file = join(stageFolder(config, stage), MODEL_FILE);
  if (!existsSync(file)) {
    throw new Error(
      `${file}: there is no trained model, expected the result of an earlier stage. ` +
        `Run first: flamingo ${STAGES[stage]} CONFIG.`,
    );
  }
  try {
    return [await readState(file), file] as const;
  } catch (error) {
    throw new Error(`${(error as Error).message} From its checkpoints: flamingo ${STAGES[stage]} CONFIG.`, {
      cause: error,
    });
  }
}
