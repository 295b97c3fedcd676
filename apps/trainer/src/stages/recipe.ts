import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { readState, writeSafetensors } from '@flamingo-ts/checkpoint';
import { countParams, loadState, Random, stateOf, type ParamTree } from '@flamingo-ts/kernels';
import type { Chinchilla } from '@flamingo-ts/lm-chinchilla';
import type { TokenizerJson } from '@flamingo-ts/lm-core';
import { parse, stringify } from 'yaml';
import { parseConfig, type Config } from '../config/config';
import type { ImageSource, TrainingData } from '../data/training-data';
import type { StopSignal } from '../cli/stop-signal';
import { emptyFolder, hashFile, makeFolder, readJson, replaceFile, writeError } from './files';
import { differences, type Fingerprint } from './fingerprint';
import { expectDatasets, JointModel, jointObjective } from './joint';
import { LanguageModel, languageObjective, trainTokenizer } from './lm';
import { readMetrics, type StepMetrics } from './metrics';
import { LOCK_FILE, withLock } from './run-lock';
import { anotherConfiguration, CHECKPOINTS, METRICS_FILE, runStage, type BestCheck, type Objective } from './stage';
import { contrastiveObjective, VisionTower } from './vision';

/** The three stages, with the command that runs each. */
export const STAGES = { vision: 'pretrain-vision', lm: 'pretrain-lm', flamingo: 'train' } as const;
export type StageName = keyof typeof STAGES;

/** Summary of a finished stage, stored next to its weights. */
export interface StageSummary {
  readonly steps: number;
  /** `validation.patience`, if it ended the stage early. */
  readonly patience?: number;
  /** The check whose weights are kept. */
  readonly best?: BestCheck;
  readonly seconds: number;
  /** Share of the seconds spent waiting for data. */
  readonly waitedShare: number;
  /** Number of trained scalars. */
  readonly trained: number;
  readonly measured: Readonly<Record<string, number>>;
  /** Hash of the file with the weights. */
  readonly model: string;
  /** What the weights depend on. */
  readonly fingerprint: Fingerprint;
}

/** Options of every stage. */
export interface RunOptions {
  readonly config: Config;
  readonly data: TrainingData;
  readonly stop: StopSignal;
  /** Removes the contents of the stage's folder and starts over. */
  readonly fresh?: boolean | undefined;
  /** Called with the metrics of each step. */
  readonly onStep?: ((metrics: StepMetrics) => void) | undefined;
}

export const MODEL_FILE = 'model.safetensors';
const TOKENIZER_FILE = 'tokenizer.json';
export const SUMMARY_FILE = 'summary.json';
/** The whole configuration that a stage ran with. */
export const CONFIG_FILE = 'config.yaml';

/** Contrastive pretraining of the vision encoder, then the statistics of its features. */
export async function pretrainVision(options: RunOptions): Promise<VisionTower> {
  const { config, data, fresh } = options;
  if (!fresh && finished(config, 'vision')) return openVision(config);
  return inStageFolder('vision', options, async () => {
    const tower = createTower(config);
    const initial = await initialWeights(config, 'vision');
    if (initial) tower.load(...initial);
    const objective = contrastiveObjective(tower, config, data);
    // The last stage requires these datasets. Checking now avoids a useless run.
    expectDatasets(config, data);
    await train('vision', options, objective, tower.params, () => tower.measureStatistics(data, config.seed));
    return tower;
  });
}

/** Trains the tokenizer and the language model on text only. Works on data without images. */
export async function pretrainLanguage(options: RunOptions): Promise<LanguageModel> {
  const { config, data, fresh } = options;
  expectNotPretrained(config);
  if (!fresh && finished(config, 'lm')) return openLanguage(config);
  return inStageFolder('lm', options, async (folder) => {
    const file = join(folder, TOKENIZER_FILE);
    // Without a checkpoint, nothing depends on an existing tokenizer, and it may belong to another configuration.
    const hasCheckpoints = existsSync(join(folder, CHECKPOINTS));
    const initial = await initialWeights(config, 'lm');
    if (!hasCheckpoints || !existsSync(file)) {
      const source = join(config.initFrom ?? '', 'lm', TOKENIZER_FILE);
      replaceFile(file, JSON.stringify(initial ? readTokenizer(source) : trainTokenizer(config, data)));
    }
    const language = createLanguage(config, folder);
    if (initial) loadState(language.lm.params, initial[0], { what: initial[1] });
    await train('lm', options, languageObjective(language, config, data), language.lm.params);
    return language;
  });
}

/** @throws Error if the configuration names a trained language model */
function expectNotPretrained({ lm: { pretrained } }: Config): void {
  if (pretrained === undefined) return;
  throw new Error(
    `pretrain-lm: lm.pretrained names a trained language model, ${pretrained}. ` +
      `There is nothing to do: continue with flamingo ${STAGES.flamingo} CONFIG, or remove the key to train one here.`,
  );
}

/** Trains the resampler and gated cross-attention between the two frozen models, which earlier stages have trained. */
export async function trainJoint(options: RunOptions): Promise<JointModel> {
  const { config, data, fresh } = options;
  expectDatasets(config, data);
  if (!fresh && finished(config, 'flamingo')) return openJoint(config, data);
  // Before --fresh empties the folder, because the initial weights may not match the configuration.
  const model = new JointModel(config, await loadVision(config), await loadLanguage(config), data);
  warnIfSeen(config, 'vision');
  if (config.lm.pretrained === undefined) warnIfSeen(config, 'lm');
  const initial = await initialWeights(config, 'flamingo');
  if (initial) model.flamingo.load(...initial);
  return inStageFolder('flamingo', options, async () => {
    // Trained gates are open already.
    const gateWalk = initial ? { steps: 0, by: 0 } : config.flamingo.gateWalk;
    const objective = jointObjective(model, { ...config, flamingo: { ...config.flamingo, gateWalk } }, data);
    await train('flamingo', options, objective, model.flamingo.params);
    return model;
  });
}

/** Opens a trained model from its run folder. */
export async function openJoint(config: Config, images: ImageSource): Promise<JointModel> {
  const [vision, language] = [await loadVision(config), await loadLanguage(config)];
  const [state, what] = await loadModel(config, 'flamingo');
  expectTrainedFrom(config);
  const model = new JointModel(config, vision, language, images);
  model.flamingo.load(state, what);
  return model;
}

async function openVision(config: Config): Promise<VisionTower> {
  const tower = createTower(config);
  tower.load(...(await loadModel(config, 'vision')));
  return tower;
}

export async function loadVision(config: Config): Promise<VisionTower> {
  return (await openVision(config)).freeze();
}

async function openLanguage(config: Config): Promise<LanguageModel<Chinchilla>> {
  const [state, what] = await loadModel(config, 'lm');
  const language = createLanguage(config);
  loadState(language.lm.params, state, { what });
  return language;
}

export async function loadLanguage(config: Config): Promise<LanguageModel> {
  const { pretrained, precision } = config.lm;
  if (pretrained !== undefined) return LanguageModel.load(pretrained, precision);
  const { lm, tokenizer, special } = await openLanguage(config);
  return new LanguageModel(await lm.freeze(precision), tokenizer, special);
}

export function stageFolder(config: Config, stage: StageName): string {
  return join(config.out, stage);
}

/** Folder with the trained model of a stage: in this run, or else in the run of `initFrom`. */
function modelFolder(config: Config, stage: StageName): string {
  const folder = stageFolder(config, stage);
  if (config.initFrom === undefined || stage === 'flamingo' || existsSync(join(folder, MODEL_FILE))) return folder;
  return join(config.initFrom, stage);
}

/** The weights that a stage starts from, or undefined if it starts from random ones. */
async function initialWeights(config: Config, stage: StageName) {
  const file = initialFile(config, stage);
  if (!file) return undefined;
  expectTrainedAs(config, stage, dirname(file));
  warnIfSeen(config, stage, dirname(file));
  process.stderr.write(`${STAGES[stage]}: starts from ${file}\n`);
  return [await readState(file), file] as const;
}

/** @throws Error if `initFrom` names a folder without any trained stage */
function initialFile({ initFrom }: Config, stage: StageName): string | undefined {
  if (initFrom === undefined) return undefined;
  const fileOf = (name: string) => join(initFrom, name, MODEL_FILE);
  if (existsSync(fileOf(stage))) return fileOf(stage);
  if (Object.keys(STAGES).some((name) => existsSync(fileOf(name)))) return undefined;
  throw new Error(
    `${STAGES[stage]}: initFrom must be the folder of another run with trained models, such as ${fileOf('vision')}, ` +
      `got ${initFrom}. Correct it, or remove it to start from random weights.`,
  );
}

/** The summary of a finished stage in the run folder `out`. */
export function readSummary(out: string, stage: StageName): StageSummary {
  const expected = `the summary that ${STAGES[stage]} wrote`;
  const fix = `Remove the file and run flamingo ${STAGES[stage]} CONFIG, which writes it again.`;
  return readJson(join(out, stage, SUMMARY_FILE), expected, fix) as StageSummary;
}

export function stageMetrics(config: Config, stage: StageName): StepMetrics[] {
  return readMetrics(join(stageFolder(config, stage), METRICS_FILE));
}

/**
 * Checks a stage before anything is loaded for it.
 *
 * @param fresh whether the stage starts over
 * @returns     the summary if the stage is finished; undefined if there is something to train
 * @throws Error naming the keys that differ from those of the finished stage
 */
export function checkStage(config: Config, stage: StageName, fresh = false): StageSummary | undefined {
  if (stage === 'lm') expectNotPretrained(config);
  return fresh ? undefined : finished(config, stage);
}

function finished(config: Config, stage: StageName): StageSummary | undefined {
  const folder = stageFolder(config, stage);
  if (![SUMMARY_FILE, MODEL_FILE].every((file) => existsSync(join(folder, file)))) return undefined;
  if (stage === 'lm') {
    const tokenizer = join(folder, TOKENIZER_FILE);
    // A missing one is trained again on the same data.
    if (!existsSync(tokenizer)) return undefined;
    readTokenizer(tokenizer);
  }
  const summary = readSummary(config.out, stage);
  // Damaged weights are written again, from the last checkpoint.
  if (hashFile(join(folder, MODEL_FILE)) !== summary.model) return undefined;
  const changed = differences(fingerprintOf(config, stage), summary.fingerprint);
  if (changed.length > 0) throw new Error(anotherConfiguration(STAGES[stage], `the model in ${folder}`, changed));
  const isEarly = summary.patience !== undefined && summary.patience === config.validation?.patience;
  return isEarly || summary.steps === config[stage].train.steps ? summary : undefined;
}

function createTower(config: Config): VisionTower {
  return VisionTower.create(config.vision.model, config.vision.jointSize, new Random(config.seed).fork('vision'));
}

function createLanguage(config: Config, folder = modelFolder(config, 'lm')): LanguageModel<Chinchilla> {
  const file = join(folder, TOKENIZER_FILE);
  const tokenizer = readTokenizer(file);
  try {
    return LanguageModel.create(config.lm.model, tokenizer, new Random(config.seed).fork('lm'));
  } catch (error) {
    throw new Error(`${file} does not match lm.model of the configuration: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

function readTokenizer(file: string): TokenizerJson {
  const fix = `Remove the file if it exists, and run flamingo ${STAGES.lm} CONFIG, which creates the same tokenizer again.`;
  return readJson(file, `the tokenizer that ${STAGES.lm} wrote`, fix) as TokenizerJson;
}

/** Runs something in a stage's folder while no other process may write to it. */
async function inStageFolder<T>(
  stage: StageName,
  { config, fresh }: RunOptions,
  run: (folder: string) => Promise<T>,
): Promise<T> {
  const folder = stageFolder(config, stage);
  makeFolder(folder);
  return withLock(STAGES[stage], folder, () => {
    if (fresh) emptyFolder(folder, LOCK_FILE);
    return run(folder);
  });
}

/** Runs a stage and writes its configuration, weights and summary; `finish` runs before the weights are written. */
async function train(
  stage: StageName,
  options: RunOptions,
  objective: Objective,
  params: ParamTree,
  finish?: () => Promise<void>,
): Promise<void> {
  const { config, data, stop, onStep } = options;
  const folder = stageFolder(config, stage);
  const fingerprint = fingerprintOf(config, stage);
  const trainConfig = config[stage].train;
  const begin = () => replaceFile(join(folder, CONFIG_FILE), configText(config, stage));
  if (data.validation) {
    const { pairs, skipped } = data.validation;
    process.stderr.write(
      `${STAGES[stage]}: validates on ${pairs.length} pairs, whose images are in ${skipped} documents that training skips\n`,
    );
  }
  const result = await runStage({
    name: STAGES[stage],
    folder,
    config: trainConfig,
    fingerprint,
    objective,
    stop,
    validation: config.validation,
    onStep,
    begin,
  });
  await finish?.();
  await writeModel(join(folder, MODEL_FILE), params, STAGES[stage]);
  const { steps, best } = result;
  const patience = config.validation?.patience;
  const summary: StageSummary = {
    steps,
    ...(steps < trainConfig.steps && patience !== undefined && { patience }),
    ...(best && { best }),
    seconds: result.seconds,
    waitedShare: result.waitedShare,
    trained: countParams(objective.params),
    measured: result.measured,
    model: hashFile(join(folder, MODEL_FILE)),
    fingerprint,
  };
  replaceFile(join(folder, SUMMARY_FILE), `${JSON.stringify(summary, null, 2)}\n`);
}

/** @throws Error naming the first tensor with a value that is not finite, and then writes nothing */
async function writeModel(file: string, params: ParamTree, name: string): Promise<void> {
  const state = await stateOf(params);
  const bad = Object.keys(state).find((key) => !state[key]!.data.every(Number.isFinite));
  if (bad) throw new Error(`${name}: ${bad} has values that are not finite, so ${file} was not written.`);
  try {
    await writeSafetensors(file, state);
  } catch (error) {
    throw writeError(error, file, 'The checkpoints are whole: run the same command again to write it.');
  }
}

function configText(config: Config, stage: StageName): string {
  return `# What flamingo ${STAGES[stage]} ran with, defaults and --set included.\n${stringify(config)}`;
}

/**
 * What the weights of a stage depend on: part of the configuration, and the contents of the files that it starts from.
 * Excludes `train`, which may change between runs, and keys that change no result.
 */
function fingerprintOf(config: Config, stage: StageName): Fingerprint {
  const { data, augmentation, vision, lm, flamingo } = config;
  const initial = initialFile(config, stage);
  const validation = splitOf(config);
  const seed = {
    seed: config.seed,
    ...(initial && { initFrom: hashFile(initial) }),
    ...(validation && { validation }),
  };
  if (stage === 'vision') return { ...seed, data, augmentation, vision: { ...vision, train: undefined } };
  if (stage === 'lm') {
    const { precision: _, pretrained: __, ...model } = lm;
    return { ...seed, data, lm: { ...model, train: undefined }, files: hashes(config, [['lm', TOKENIZER_FILE]]) };
  }
  return {
    ...seed,
    data,
    augmentation,
    flamingo: { ...flamingo, train: undefined, featureCacheMiB: undefined },
    lm: { precision: lm.precision },
    files: frozenFiles(config),
  };
}

/** The configuration that the stage in a folder ran with; undefined if it is not there. */
function savedConfig(stage: StageName, folder: string): Config | undefined {
  const file = join(folder, CONFIG_FILE);
  return existsSync(file) ? parseConfig(file, parse(readFileSync(file, 'utf8')), STAGES[stage]) : undefined;
}

/** What determines the validation split, besides the data and the seed. */
function splitOf({ validation }: Config) {
  return validation && { share: validation.share, path: validation.path };
}

/** Warns if a model has learned from pairs that are held out now. */
function warnIfSeen(config: Config, stage: StageName, folder = modelFolder(config, stage)): void {
  const trained = config.validation && savedConfig(stage, folder);
  if (!trained || differences(config.data, trained.data).length > 0) return;
  const split = (of: Config) => ({ seed: of.seed, validation: splitOf(of) });
  const changed = differences(split(config), split(trained));
  if (changed.length === 0) return;
  process.stderr.write(
    `Warning: ${folder} was trained on the same data with another validation split, so it has seen validation pairs ` +
      `(${changed.join('; ')}).\n`,
  );
}

/** Hashes of the files of the two frozen models. */
function frozenFiles(config: Config): Record<string, string> {
  const vision = [['vision', MODEL_FILE]] as const;
  const { pretrained } = config.lm;
  if (pretrained === undefined) return hashes(config, [...vision, ['lm', MODEL_FILE], ['lm', TOKENIZER_FILE]]);
  const names = existsSync(pretrained) ? readdirSync(pretrained).sort() : [];
  const files = names.filter((name) => /\.(safetensors|json|model|bin|pt)$/.test(name));
  return {
    ...hashes(config, vision),
    ...Object.fromEntries(files.map((name) => [`lm.pretrained: ${name}`, hashFile(join(pretrained, name))])),
  };
}

function hashes(config: Config, files: readonly (readonly [StageName, string])[]): Record<string, string> {
  const existing = files.filter(([stage, name]) => existsSync(join(modelFolder(config, stage), name)));
  return Object.fromEntries(
    existing.map(([stage, name]) => [`${stage}/${name}`, hashFile(join(modelFolder(config, stage), name))]),
  );
}

/** Configuration keys that must be the same when the weights of a stage are used as when they were trained. */
const MODEL_KEYS = {
  vision: ({ vision }: Config) => ({ vision: { model: vision.model, jointSize: vision.jointSize } }),
  lm: ({ lm }: Config) => ({ lm: { model: lm.model, bos: lm.bos } }),
  flamingo: ({ flamingo: { resampler, xattn, framesPerClip } }: Config) => ({
    flamingo: { resampler, xattn, framesPerClip },
  }),
} as const;

/** @throws Error naming the keys of `MODEL_KEYS` that differ from those of the training */
function expectTrainedAs(config: Config, stage: StageName, folder = modelFolder(config, stage)): void {
  const trained = savedConfig(stage, folder);
  // Weights that were copied without it are only checked by their shapes.
  if (!trained) return;
  const changed = differences(MODEL_KEYS[stage](config), MODEL_KEYS[stage](trained));
  // The seed determines the split of the data. With another seed, held-out images may have been trained on.
  if (stage === 'flamingo' && differences(config.data, trained.data).length === 0) {
    changed.push(...differences({ seed: config.seed }, { seed: trained.seed }));
  }
  if (changed.length > 0) {
    throw new Error(
      `${folder} was made with another configuration:\n${changed.map((line) => `  ${line}\n`).join('')}` +
        `Restore these values (those of the run are in ${join(folder, CONFIG_FILE)}), or train again: flamingo ${STAGES[stage]} CONFIG --fresh.`,
    );
  }
}

/** @throws Error if a frozen model is no longer the one that the Flamingo was trained with */
function expectTrainedFrom(config: Config): void {
  if (!existsSync(join(stageFolder(config, 'flamingo'), SUMMARY_FILE))) return;
  const { files } = readSummary(config.out, 'flamingo').fingerprint;
  const changed = differences(frozenFiles(config), files);
  if (changed.length > 0) {
    throw new Error(
      `${stageFolder(config, 'flamingo')} was trained with other frozen models:\n${changed.map((line) => `  ${line}\n`).join('')}` +
        `Restore these files, or train again: flamingo ${STAGES.flamingo} CONFIG --fresh.`,
    );
  }
}

async function loadModel(config: Config, stage: StageName) {
  const file = join(modelFolder(config, stage), MODEL_FILE);
  if (!existsSync(file)) {
    throw new Error(`${file}: there is no trained model yet. Run first: flamingo ${STAGES[stage]} CONFIG.`);
  }
  expectTrainedAs(config, stage);
  try {
    return [await readState(file), file] as const;
  } catch (error) {
    throw new Error(`${(error as Error).message} To write it from its checkpoints: flamingo ${STAGES[stage]} CONFIG.`, {
      cause: error,
    });
  }
}
