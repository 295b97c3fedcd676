import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { parseDocument } from 'yaml';
import { z } from 'zod';
import { dataKindOf, dataSchema, type DataConfig } from '../data/data-kinds';
import { datasetNames } from '../data/training-data';

const positive = z.number().int().positive();
const share = z.number().min(0).max(1);
const path = z.string().min(1);

/** Learning rate over a stage: linear warm-up, constant, then down to `finalShare` of the top. */
const schedule = z.strictObject({
  learningRate: z.number().positive(),
  warmupSteps: z.number().int().min(0),
  /** What it goes down along; left out: a line. Not a default: checkpoints of before stay those of the same configuration. */
  schedule: z.enum(['linear', 'cosine']).optional(),
  /** Share of the steps after which the decay begins. */
  decayFrom: share.default(0),
  /** Rate at the last step, as a share of the top. */
  finalShare: share.default(0),
});

const optimizer = schedule.extend({
  beta1: share.default(0.9),
  beta2: share.default(0.95),
  weightDecay: z.number().min(0),
  clipNorm: z.number().positive().default(1),
  steps: positive,
  checkpointEvery: positive.default(100),
});

const visionModel = z.strictObject({
  imageSize: positive,
  stemWidths: z.array(positive).min(1),
  stemStrides: z.array(positive).min(1),
  widths: z.array(positive).min(1),
  depths: z.array(positive).min(1),
  strides: z.array(positive).min(1),
  bottleneckRatio: z.number().positive().default(0.5),
  groupSize: z.number().int().min(0).default(0),
  squeezeExciteRatio: z.number().positive().default(0.25),
  activation: z.enum(['scaled-gelu', 'scaled-gelu-tanh', 'scaled-relu']).default('scaled-relu'),
  finalWidth: positive,
});

const lmModel = z.strictObject({
  vocabSize: positive,
  hiddenSize: positive,
  numLayers: positive,
  numHeads: positive,
  headDim: positive,
  intermediateSize: positive,
  embeddingScale: z.number().positive().default(1),
  outputScale: z.number().positive().default(1),
});

const dataset = z.strictObject({
  /** Factor of this dataset's loss in the sum (the paper's lambda). */
  weight: z.number().positive(),
  /** Documents per step. */
  batch: positive,
  /** Tokens a sample is cut to. */
  maxTokens: positive,
  /** Images of a page that count; the rest is dropped. */
  maxMedia: positive.default(5),
  /** Probability that a page's text looks at the next image instead of the previous one (Flamingo, appendix A.3.2). */
  pNext: share.default(0.5),
  /** Probability that a pair's text starts with an extra space (Flamingo, section 3.2). */
  leadingSpace: share.default(0.5),
});

const configSchema = z.strictObject({
  seed: z.number().int().min(0).default(0),
  backend: z.enum(['auto', 'tensorflow', 'native', 'wasm', 'webgpu', 'cpu']).default('auto'),
  /** What the factors of large products are rounded to; sums, and all that is trained, are float32 either way. */
  precision: z.enum(['float32', 'bfloat16']).default('float32'),
  /** Folder for checkpoints, metrics and the report; relative to the place the command runs in. */
  out: z.string().min(1),
  data: dataSchema,
  vision: z.strictObject({
    model: visionModel,
    textHiddenSize: positive,
    jointSize: positive,
    batch: positive,
    labelSmoothing: share.default(0.1),
    train: optimizer,
  }),
  lm: z.strictObject({
    /** Folder of a published language model, in place of one trained here; relative to the configuration. */
    pretrained: path.optional(),
    /** How its weights are held once it is frozen. */
    precision: z.enum(['float32', 'bfloat16', 'int8']).default('float32'),
    model: lmModel,
    tokenizerPages: positive,
    batch: positive,
    maxTokens: positive,
    /** Rows are cut from one stream of documents, without padding; left out: a page for each row, cut to maxTokens. */
    packed: z.boolean().optional(),
    /** A token `<BOS>` begins every text, in the stages after too; left out: none does. */
    bos: z.boolean().optional(),
    train: optimizer,
  }),
  flamingo: z.strictObject({
    resampler: z.strictObject({
      visualSize: positive,
      numLayers: positive,
      numHeads: positive,
      headDim: positive,
      numLatents: positive,
    }),
    xattn: z.strictObject({ every: positive, numHeads: positive, headDim: positive }),
    framesPerClip: positive.default(4),
    /** The gates start at 0; for the first `steps` updates `by` is added to each after the update. 0 steps: learned only. */
    gateWalk: z.strictObject({ steps: z.number().int().min(0), by: z.number() }).default({ steps: 0, by: 0 }),
    /** How the sets make up an update (Flamingo, section 2.4); `MixingStrategy` tells them apart. */
    strategy: z.enum(['accumulate', 'round-robin', 'merged']).default('accumulate'),
    datasets: z.strictObject({
      pages: dataset.optional(),
      pairs: dataset.optional(),
      descriptions: dataset.optional(),
      clips: dataset.optional(),
    }),
    train: optimizer,
  }),
  eval: z.strictObject({
    shots: z.array(z.number().int().min(0)).min(1),
    /** Prompts per attribute and number of shots. */
    prompts: positive,
    seed: z.number().int().min(0).default(1000),
  }),
});

export type Config = z.infer<typeof configSchema>;
export type OptimizerConfig = z.infer<typeof optimizer>;

/**
 * Reads and checks a YAML configuration.
 *
 * @throws Error naming the file, each key at fault, what was expected and what came
 */
export function loadConfig(file: string, overrides: Readonly<Record<string, unknown>> = {}): Config {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch {
    throw new Error(`Config ${file}: there is no such file. Give the path of a YAML configuration.`);
  }
  const document = parseDocument(text);
  const [syntaxError] = document.errors;
  if (syntaxError) throw new Error(`Config ${file}: not valid YAML. ${syntaxError.message}`);
  const value = document.toJS() as Record<string, unknown>;
  const config = parseConfig(file, applyOverrides(value ?? {}, overrides));
  const { pretrained } = config.lm;
  return {
    ...config,
    data: resolvePaths(config.data, dirname(file)),
    lm: { ...config.lm, ...(pretrained !== undefined && { pretrained: resolve(dirname(file), pretrained) }) },
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

/** Checks a configuration that is already an object; `where` names it in errors. */
export function parseConfig(where: string, value: unknown): Config {
  const result = configSchema.safeParse(value);
  if (result.success) return checkFit(where, result.data);
  const lines = result.error.issues.map((issue) => `  ${explain(issue, value)}`);
  throw new Error(`Config ${where} does not fit:\n${lines.join('\n')}\nCorrect these keys and run the command again.`);
}

function explain(issue: z.core.$ZodIssue, value: unknown): string {
  const path = issue.path.join('.');
  if (issue.code === 'unrecognized_keys') {
    const names = issue.keys.map((k) => (path ? `${path}.${k}` : k)).join(', ');
    return `${names}: unknown key${issue.keys.length > 1 ? 's' : ''}${nearest(issue.keys[0]!, path)}`;
  }
  const came = issue.path.reduce<unknown>((v, key) => (v as Record<PropertyKey, unknown> | undefined)?.[key], value);
  const got = came === undefined ? 'nothing' : JSON.stringify(came);
  const expected = issue.message.replace(/^Invalid (input|option): /, '').replace(/, received .*/, '');
  return `${path || '(top)'}: ${expected}, got ${got}`;
}

/** "did you mean" for a misspelt key, from the keys the schema knows at that place. */
function nearest(key: string, path: string): string {
  let schema: unknown = configSchema;
  for (const part of path ? path.split('.') : []) schema = shapeOf(schema)?.[part];
  const known = Object.keys(shapeOf(schema) ?? {});
  const [best] = known.map((k) => ({ k, d: editDistance(k, key) })).sort((a, b) => a.d - b.d);
  if (best && best.d <= Math.min(3, key.length / 2)) return `, did you mean ${best.k}?`;
  return known.length ? `, expected one of: ${known.join(', ')}` : '';
}

function shapeOf(schema: unknown): Record<string, unknown> | undefined {
  let s = schema as { shape?: Record<string, unknown>; unwrap?: () => unknown } | undefined;
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

/** Sizes that must agree across parts; zod sees each key alone. */
function checkFit(where: string, config: Config): Config {
  const { stemWidths, stemStrides, widths, depths, strides } = config.vision.model;
  const equal = (what: string, a: readonly unknown[], b: readonly unknown[]) => {
    if (a.length !== b.length) {
      throw new Error(`Config ${where}: ${what} must have one entry each, got ${a.length} and ${b.length}.`);
    }
  };
  equal('vision.model.stemWidths and stemStrides', stemWidths, stemStrides);
  equal('vision.model.widths and depths', widths, depths);
  equal('vision.model.widths and strides', widths, strides);
  const { imageSize } = config.vision.model;
  const fixedSize = dataKindOf(config.data).imageSize;
  if (fixedSize !== undefined && imageSize !== fixedSize) {
    throw new Error(
      `Config ${where}: vision.model.imageSize must be ${fixedSize}, the side of the ${config.data.kind} images, got ${imageSize}. Correct it.`,
    );
  }
  if (Object.keys(config.flamingo.datasets).length === 0) {
    throw new Error(
      `Config ${where}: flamingo.datasets must name at least one of ${datasetNames.join(', ')}, got none. ` +
        'Add for example pages: { weight: 1, batch: 24, maxTokens: 64 }.',
    );
  }
  return config;
}

/** Sets dotted keys: `{'flamingo.train.steps': 10}`; values that parse as JSON are taken as such. */
function applyOverrides(value: Record<string, unknown>, overrides: Readonly<Record<string, unknown>>) {
  for (const [path, to] of Object.entries(overrides)) {
    const keys = path.split('.');
    let at = value;
    for (const key of keys.slice(0, -1)) {
      if (typeof at[key] !== 'object' || at[key] === null) at[key] = {};
      at = at[key] as Record<string, unknown>;
    }
    at[keys[keys.length - 1]!] = to;
  }
  return value;
}
