import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { inspect } from 'node:util';
import { parseDocument } from 'yaml';
import { z } from 'zod';
import { dataKindOf, dataSchema, type DataConfig } from '../data/data-kinds';
import { datasetNames } from '../data/training-data';

/** Far above the size of any model, so a larger value is a typing error. */
const size = z
  .number()
  .int()
  .positive()
  .max(2 ** 20);
const count = z.number().int().positive();
const share = z.number().min(0).max(1);
const scale = z.number().positive().max(1000);
const path = z
  .string()
  .min(1)
  .refine((text) => !text.includes('\0'), { message: 'a path' });

/** AdamW and its learning rate over a stage: linear warm-up, constant, then decay to `finalShare` of the peak. */
const optimizer = z.strictObject({
  /** Peak learning rate. Adam changes a weight by about this much per step, so nothing is learned above 1. */
  learningRate: z.number().positive().max(1),
  warmupSteps: z.number().int().min(0),
  /** Shape of the decay. */
  schedule: z.enum(['linear', 'cosine']).default('linear'),
  /** Share of the steps after which the decay begins. */
  decayFrom: share.default(0),
  /** Learning rate at the last step, as a share of the peak. */
  finalShare: share.default(0),
  /** At 1 the bias correction of Adam divides by 0. */
  beta1: z.number().min(0).lt(1).default(0.9),
  beta2: z.number().min(0).lt(1).default(0.95),
  /** Below `1 / learningRate`: beyond it a step reverses the sign of a weight. */
  weightDecay: z.number().min(0),
  /** Gradients with a larger norm are scaled down to it. */
  clipNorm: z.number().positive().default(1),
  steps: count,
  checkpointEvery: count.default(100),
});

const visionModel = z.strictObject({
  imageSize: size,
  stemWidths: z.array(size).min(1),
  stemStrides: z.array(size).min(1),
  widths: z.array(size).min(1),
  depths: z.array(size).min(1),
  strides: z.array(size).min(1),
  bottleneckRatio: z.number().min(0.01).max(100).default(0.5),
  groupSize: z.number().int().min(0).default(0),
  squeezeExciteRatio: z.number().min(0.01).max(100).default(0.25),
  activation: z.enum(['scaled-gelu', 'scaled-gelu-tanh', 'scaled-relu']).default('scaled-relu'),
  finalWidth: size,
});

/** Pairs of the data that training never sees. They are measured on, see `ValidationSplit`. */
const validation = z.strictObject({
  /** Share of the pairs to hold out. The seed determines which. */
  share: z.number().positive().lt(1).optional(),
  /** Dataset of the pairs, instead of a share; relative to the configuration file. */
  path: path.optional(),
  /** Steps between two checks. The last step is checked too. */
  every: count.default(20),
  /** A stage ends after this many checks without a lower loss. By default, it never ends early. */
  patience: count.optional(),
});

/** Random changes of training images. A missing key turns its change off. */
const augmentation = z.strictObject({
  /** Smallest share of an image's area that a random crop keeps. */
  crop: z.number().positive().max(1).optional(),
  /** Largest relative change of brightness, contrast and saturation. */
  color: share.optional(),
  /** Probability of mirroring left and right. */
  flip: share.optional(),
});

const lmModel = z.strictObject({
  vocabSize: size,
  hiddenSize: size,
  numLayers: size,
  numHeads: size,
  headDim: size,
  intermediateSize: size,
  embeddingScale: scale.default(1),
  outputScale: scale.default(1),
});

const dataset = z.strictObject({
  /** Weight of this dataset's loss in the sum (lambda in the paper). */
  weight: z.number().min(1e-6).max(1e6),
  /** Documents per step. */
  batch: size,
  /** Samples are truncated to this many tokens. */
  maxTokens: size,
  /** Maximum number of images of a page; further ones are dropped. */
  maxMedia: size.default(5),
  /** Probability that the text of a page attends to the next image instead of the previous one (Flamingo, appendix A.3.2). */
  pNext: share.default(0.5),
  /** Probability that the text of a pair starts with an extra space (Flamingo, section 3.2). */
  leadingSpace: share.default(0.5),
});

const vision = z.strictObject({
  model: visionModel,
  textHiddenSize: size,
  jointSize: size,
  batch: size,
  labelSmoothing: z.number().min(0).lt(1).default(0.1),
  train: optimizer,
});

const lm = z.strictObject({
  /** Folder of a published language model to use instead of training one; relative to the configuration file. */
  pretrained: path.optional(),
  /** How the weights are stored once they are frozen. */
  precision: z.enum(['float32', 'bfloat16', 'int8']).default('float32'),
  model: lmModel,
  tokenizerPages: count,
  batch: size,
  maxTokens: size,
  /** Cuts rows from one stream of documents, without padding. By default each row is one page, truncated to `maxTokens`. */
  packed: z.boolean().default(false),
  /** Starts every text with the token `<BOS>`, in later stages too. */
  bos: z.boolean().default(false),
  train: optimizer,
});

const flamingo = z.strictObject({
  resampler: z.strictObject({ visualSize: size, numLayers: size, numHeads: size, headDim: size, numLatents: size }),
  xattn: z.strictObject({ every: size, numHeads: size, headDim: size }),
  framesPerClip: size.default(4),
  /** The gates start at 0. After each of the first `steps` updates, `by` is added to every gate. With 0 steps, gates are only learned. */
  gateWalk: z
    .strictObject({ steps: z.number().int().min(0), by: z.number().min(-1).max(1) })
    .default({ steps: 0, by: 0 }),
  /** How the datasets make up an update (Flamingo, section 2.4); see `MixingStrategy`. */
  strategy: z.enum(['accumulate', 'round-robin', 'merged']).default('accumulate'),
  /** Memory limit of cached image features. A lower limit is slower but changes no result. */
  featureCacheMiB: z.number().min(0).default(1024),
  datasets: z.strictObject({
    pages: dataset.optional(),
    pairs: dataset.optional(),
    descriptions: dataset.optional(),
    clips: dataset.optional(),
  }),
  train: optimizer,
});

const evaluation = z.strictObject({
  shots: z.array(z.number().int().min(0).max(1000)).min(1).default([0, 4]),
  /** Prompts for each attribute and number of shots. */
  prompts: size.default(100),
  seed: z.number().int().min(0).default(1000),
});

const fullSchema = z.strictObject({
  seed: z.number().int().min(0).default(0),
  backend: z.enum(['auto', 'tensorflow', 'native', 'wasm', 'webgpu', 'cpu']).default('auto'),
  /** Type that the factors of large matrix products are rounded to. Sums and trained weights are always float32. */
  precision: z.enum(['float32', 'bfloat16']).default('float32'),
  /** Folder for checkpoints, metrics and the report; relative to the working directory. */
  out: path,
  /**
   * Folder of another run, relative to the working directory. Stages start from its weights, and frozen models that `out`
   * lacks are read from it.
   */
  initFrom: path.optional(),
  data: dataSchema,
  validation: validation.optional(),
  augmentation: augmentation.optional(),
  vision,
  lm,
  flamingo,
  eval: evaluation.prefault({}),
});

/** Schema for every command. Keys that a command does not require may be missing, see `requiredKeys`. */
const schema = fullSchema.extend({
  vision: vision.partial().prefault({}),
  lm: lm.partial().prefault({}),
  flamingo: flamingo.partial().prefault({}),
});

/**
 * A configuration. `loadConfig` checks the keys that the command requires. Others may be missing, although their types do
 * not show it.
 */
export type Config = z.infer<typeof fullSchema>;
export type OptimizerConfig = z.infer<typeof optimizer>;

/** The commands that read a configuration. */
export type ConfigCommand = 'pretrain-vision' | 'pretrain-lm' | 'train' | 'eval' | 'generate';

const COMMANDS: readonly ConfigCommand[] = ['pretrain-vision', 'pretrain-lm', 'train', 'eval', 'generate'];

/** Keys that a command requires. With `lm.pretrained`, the keys for training a language model are not required. */
function requiredKeys(command: ConfigCommand, pretrained: boolean): string[] {
  const model = ['vision.model', 'vision.jointSize', ...(pretrained ? [] : ['lm.model'])];
  const joint = ['flamingo.resampler', 'flamingo.xattn'];
  switch (command) {
    case 'pretrain-vision':
      return ['model', 'textHiddenSize', 'jointSize', 'batch', 'train'].map((key) => `vision.${key}`);
    case 'pretrain-lm':
      return pretrained ? [] : ['model', 'tokenizerPages', 'batch', 'maxTokens', 'train'].map((key) => `lm.${key}`);
    case 'train':
      return [...model, ...joint, 'flamingo.datasets', 'flamingo.train'];
    default:
      return [...model, ...joint];
  }
}

/** YAML files beyond these limits are rejected before parsing, because the parser takes minutes for some of them. */
const MAX_BYTES = 2 ** 20;
const MAX_DEPTH = 64;

/**
 * Reads and checks a YAML configuration.
 *
 * @param overrides values by dotted key, from `--set`
 * @param command   checks the keys that this command requires; by default those of every command
 * @throws Error naming the file and each wrong key, with expected and actual value
 */
export function loadConfig(
  file: string,
  overrides: Readonly<Record<string, unknown>> = {},
  command?: ConfigCommand,
): Config {
  const config = parseConfig(file, applyOverrides(file, readYaml(file), overrides), command);
  const folder = dirname(file);
  const { validation } = config;
  const { pretrained } = config.lm;
  return {
    ...config,
    data: resolvePaths(config.data, folder),
    ...(validation?.path && { validation: { ...validation, path: resolve(folder, validation.path) } }),
    lm: { ...config.lm, ...(pretrained !== undefined && { pretrained: resolve(folder, pretrained) }) },
  };
}

/** Paths of the data are relative to the configuration file. */
function resolvePaths(data: DataConfig, folder: string): DataConfig {
  const given = dataKindOf(data).paths.flatMap((key) => {
    const value = data[key];
    return typeof value === 'string' ? [[key, resolve(folder, value)] as const] : [];
  });
  return { ...data, ...Object.fromEntries(given) };
}

function readYaml(file: string): Record<string, unknown> {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const reason = code === 'ENOENT' ? 'there is no such file' : `it cannot be read (${message})`;
    throw new Error(`Config ${file}: ${reason}. Pass the path of a YAML configuration.`, { cause: error });
  }
  const tooMuch =
    text.length > MAX_BYTES
      ? `larger than ${MAX_BYTES} bytes`
      : depthOf(text) > MAX_DEPTH
        ? `nested more than ${MAX_DEPTH} levels deep`
        : undefined;
  if (tooMuch) throw new Error(`Config ${file}: expected a configuration, got a file ${tooMuch}.`);
  const document = parseDocument(text);
  const [syntaxError] = document.errors;
  if (syntaxError) throw new Error(`Config ${file}: not valid YAML. ${syntaxError.message}`);
  let value: unknown;
  try {
    value = document.toJS() ?? {};
  } catch (error) {
    throw new Error(`Config ${file}: not valid YAML. ${(error as Error).message}. Write the values out.`, {
      cause: error,
    });
  }
  if (!isMapping(value)) {
    throw new Error(`Config ${file}: expected keys with values, for example "seed: 0", got ${show(value)}.`);
  }
  return value;
}

/** An upper bound of the nesting depth of a YAML text, from its indentation, its brackets, and its `- ? :` on one line. */
function depthOf(text: string): number {
  let [deepest, brackets] = [0, 0];
  for (const line of text.split('\n')) {
    const [before] = /^[\s\-?:]*/.exec(line)!;
    for (const char of line) {
      if (char === '[' || char === '{') deepest = Math.max(deepest, ++brackets);
      if (char === ']' || char === '}') brackets--;
    }
    deepest = Math.max(deepest, before.length / 2);
  }
  return deepest;
}

/** Checks a configuration object. `where` names it in errors; for `command` see `loadConfig`. */
export function parseConfig(where: string, value: unknown, command?: ConfigCommand): Config {
  const result = schema.safeParse(value);
  const lines = result.success ? [] : result.error.issues.map((issue) => explain(issue, value));
  lines.push(...missingKeys(value, command));
  if (result.success && lines.length === 0) return checkAgreement(where, result.data as Config);
  const list = lines.map((line) => `  ${line}`).join('\n');
  throw new Error(`Config ${where} is not valid:\n${list}\nCorrect these keys and run the command again.`);
}

/** Returns a line for each missing key that is required. */
function missingKeys(value: unknown, command?: ConfigCommand): string[] {
  const pretrained = valueAt(value, ['lm', 'pretrained']) !== undefined;
  const required = new Map<string, string[]>();
  for (const by of command ? [command] : COMMANDS) {
    for (const key of requiredKeys(by, pretrained)) required.set(key, [...(required.get(key) ?? []), by]);
  }
  return Array.from(required)
    .filter(([key]) => valueAt(value, key.split('.')) === undefined)
    .map(([key, by]) => `${key}: required by ${by.join(', ')}, got nothing`);
}

function explain(issue: z.core.$ZodIssue, value: unknown): string {
  const path = issue.path.join('.');
  if (issue.code === 'unrecognized_keys') {
    const names = issue.keys.map((k) => (path ? `${path}.${k}` : k)).join(', ');
    return `${names}: unknown key${issue.keys.length > 1 ? 's' : ''}${nearest(issue.keys[0]!, path)}`;
  }
  const received = valueAt(value, issue.path);
  return `${path || '(top)'}: expected ${expectedBy(issue)}, got ${received === undefined ? 'nothing' : show(received)}`;
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>((at, key) => (isObject(at) && Object.hasOwn(at, key) ? at[key] : undefined), value);
}

const TYPES: Readonly<Record<string, string>> = {
  number: 'a number',
  int: 'a whole number',
  string: 'a string',
  boolean: 'true or false',
  array: 'a list',
  object: 'nested keys',
  record: 'nested keys',
};

/** What an issue expects, in words. */
function expectedBy(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case 'invalid_type':
      return TYPES[issue.expected] ?? issue.expected;
    case 'invalid_value':
      return `${issue.values.length > 1 ? 'one of ' : ''}${issue.values.join(', ')}`;
    case 'too_small':
      // Strings and lists have no other minimum.
      if (issue.origin === 'string' || issue.origin === 'array') return `${TYPES[issue.origin]} that is not empty`;
      return `${TYPES[issue.origin]} ${issue.inclusive ? 'of at least' : 'above'} ${issue.minimum}`;
    case 'too_big':
      return `${TYPES[issue.origin]} ${issue.inclusive ? 'of at most' : 'below'} ${issue.maximum}`;
    case 'invalid_union':
      return 'options' in issue ? `one of ${(issue.options as unknown[]).join(', ')}` : issue.message;
    default:
      return issue.message;
  }
}

/** Formats a value on one line. Cuts off deep and circular ones. */
function show(value: unknown): string {
  const text = isObject(value) ? inspect(value, { depth: 1, breakLength: Infinity }) : JSON.stringify(value);
  return text.length > 100 ? `${text.slice(0, 100)}...` : text;
}

function isObject(value: unknown): value is Record<PropertyKey, unknown> {
  return typeof value === 'object' && value !== null;
}

function isMapping(value: unknown): value is Record<string, unknown> {
  return isObject(value) && !Array.isArray(value);
}

/** Suggests the most similar key of the schema for an unknown key, or lists all keys. */
function nearest(key: string, path: string): string {
  let at: unknown = schema;
  for (const part of path ? path.split('.') : []) at = valueAt(shapeOf(at), [part]);
  const known = Object.keys(shapeOf(at) ?? {});
  const [best] = known.map((k) => ({ k, d: editDistance(k, key) })).sort((a, b) => a.d - b.d);
  if (best && best.d <= Math.min(3, key.length / 2)) return `, did you mean ${best.k}?`;
  return known.length ? `, expected one of: ${known.join(', ')}` : '';
}

/** The fields of an object schema, unwrapped from defaults and optionals. */
function shapeOf(part: unknown): Record<string, unknown> | undefined {
  let s = part as { shape?: Record<string, unknown>; unwrap?: () => unknown } | undefined;
  while (s && !s.shape && s.unwrap) s = s.unwrap() as typeof s;
  return s?.shape;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}

/** Checks values that must agree with each other; the schema checks each key by itself. Skips missing keys. */
function checkAgreement(where: string, config: Config): Config {
  const fail = (problem: string) => {
    throw new Error(`Config ${where}: ${problem}`);
  };
  const kind = dataKindOf(config.data);
  for (const key of ['validation', 'augmentation'] as const) {
    if (kind.isGenerated && config[key]) {
      fail(`${key} requires images of your own, data of kind folder or shards, got kind ${config.data.kind}.`);
    }
  }
  const { validation } = config;
  if (validation && (validation.share === undefined) === (validation.path === undefined)) {
    const got = validation.path === undefined ? 'neither' : 'both';
    fail(`validation requires either share or path, got ${got}. Set for example validation.share: 0.1.`);
  }
  const model = config.vision.model as Config['vision']['model'] | undefined;
  if (model) {
    const { stemWidths, stemStrides, widths, depths, strides } = model;
    const equal = (what: string, a: readonly unknown[], b: readonly unknown[]) => {
      if (a.length !== b.length) fail(`${what} must have one entry each, got ${a.length} and ${b.length}.`);
    };
    equal('vision.model.stemWidths and stemStrides', stemWidths, stemStrides);
    equal('vision.model.widths and depths', widths, depths);
    equal('vision.model.widths and strides', widths, strides);
    const fixedSize = kind.imageSize;
    if (fixedSize !== undefined && model.imageSize !== fixedSize) {
      fail(
        `vision.model.imageSize must be ${fixedSize}, the side of the ${config.data.kind} images, got ${model.imageSize}.`,
      );
    }
  }
  for (const stage of ['vision', 'lm', 'flamingo'] as const) {
    const train = config[stage].train as OptimizerConfig | undefined;
    if (train && train.learningRate * train.weightDecay >= 1) {
      fail(
        `${stage}.train.weightDecay must be below 1 / learningRate = ${1 / train.learningRate}, got ${train.weightDecay}.`,
      );
    }
  }
  const datasets = config.flamingo.datasets as object | undefined;
  if (datasets && Object.keys(datasets).length === 0) {
    fail(
      `flamingo.datasets must name at least one of ${datasetNames.join(', ')}, got none. ` +
        'Add for example pages: { weight: 1, batch: 24, maxTokens: 64 }.',
    );
  }
  if (validation && datasets && !('pairs' in datasets || 'descriptions' in datasets)) {
    fail(
      `validation measures pairs, so flamingo.datasets must name pairs or descriptions, got ${Object.keys(datasets).join(', ')}. ` +
        'Add for example pairs: { weight: 0.2, batch: 10, maxTokens: 32 }.',
    );
  }
  return config;
}

/** Sets dotted keys: `{'flamingo.train.steps': 10}`. */
function applyOverrides(
  file: string,
  value: Record<string, unknown>,
  overrides: Readonly<Record<string, unknown>>,
): Record<string, unknown> {
  for (const [path, to] of Object.entries(overrides)) {
    const keys = path.split('.');
    const refuse = (reason: string) => {
      throw new Error(`Config ${file}: --set ${path} ${reason}`);
    };
    if (keys.some((key) => key === '' || key in Object.prototype)) {
      refuse('is not a key of a configuration. Separate nested keys by dots, for example lm.train.steps.');
    }
    let at = value;
    for (const [i, key] of keys.entries()) {
      if (Array.isArray(at) && !(key in at && /^\d+$/.test(key))) {
        refuse(`requires the index of an entry, 0 to ${at.length - 1}, after ${keys.slice(0, i).join('.')}.`);
      }
      if (i === keys.length - 1) {
        at[key] = to;
        break;
      }
      at[key] ??= {};
      if (!isObject(at[key]))
        refuse(`cannot be set: ${keys.slice(0, i + 1).join('.')} is ${show(at[key])}, not a section.`);
      at = at[key] as Record<string, unknown>;
    }
  }
  return value;
}
