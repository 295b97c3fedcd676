import * as tf from '@tensorflow/tfjs-core';
import { FrozenMatrix, type FrozenPrecision, type Parameter } from '@flamingo-ts/kernels';
import type { ModuleName, Names, Source } from './family';
import { isMatrix, paramsFrom, Transformer, transformerShapes, type TransformerConfig } from './transformer';

/** Values of a tensor as a file or a state holds them. */
interface Values {
  readonly shape: readonly number[];
  readonly data: ArrayLike<number | bigint>;
}

/** A checkpoint whose tensors are read one by one, as `openCheckpoint` gives it. */
export interface Weights {
  readonly names: readonly string[];
  info(name: string): { readonly shape: readonly number[] };
  read(name: string): Promise<Values>;
}

/** How weights become a model. */
export interface ReadOptions {
  /** Packs the matrices as they are read, for use without training; the whole model never lies in memory as float32. */
  readonly freeze?: FrozenPrecision;
  /**
   * Rows that embedding and head shall have, where tokens are added: at least those of the checkpoint. The new rows are
   * the mean of the others, so that new tokens are as likely as a common one.
   */
  readonly vocabSize?: number;
}

/** A parameter of ours and the tensor that holds it. */
interface Located {
  readonly name: string;
  readonly shape: readonly number[];
  readonly stored: string;
  readonly source: Source;
}

/**
 * A model with the weights of a checkpoint, read tensor by tensor.
 *
 * @param config as the checkpoint's config.json says it
 * @param what   named in errors: the folder or file
 * @throws Error listing, together, the names missing, unexpected and of another shape, before any weight is read
 */
export async function readTransformer(
  config: TransformerConfig,
  names: Names,
  weights: Weights,
  options: ReadOptions,
  what: string,
): Promise<Transformer> {
  const { freeze, vocabSize = config.vocabSize } = options;
  if (!Number.isInteger(vocabSize) || vocabSize < config.vocabSize) {
    throw new Error(
      `${what}: vocabSize must be a whole number of at least the checkpoint's ${config.vocabSize}, got ${vocabSize}. ` +
        'Tokens can be added, not taken away.',
    );
  }
  const params = new Map<string, Parameter>();
  let packedHead: FrozenMatrix | undefined;
  try {
    let last: { readonly name: string; readonly values: Values } | undefined;
    for (const { name, shape, stored, source } of locate(config, names, weights, what)) {
      // Parts of one tensor follow each other.
      if (last?.name !== stored) last = { name: stored, values: await weights.read(stored) };
      const grows = name === 'embed.weight' || name === 'head.weight';
      const rows = grows ? vocabSize : shape[0]!;
      const values = grown(take(last.values, shape, source), rows * (shape[1] ?? 1), shape);
      const grownShape = [rows, ...shape.slice(1)];
      const pack = () => new FrozenMatrix(values, grownShape as [number, number], freeze);
      params.set(name, freeze && isMatrix(name, shape) ? pack() : variable(values, grownShape));
      if (name === 'embed.weight' && config.tiedHead && freeze === 'bfloat16') packedHead = pack();
    }
  } catch (error) {
    packedHead?.dispose();
    for (const p of params.values()) p.dispose();
    throw error;
  }
  const actual = { ...config, vocabSize };
  return new Transformer(actual, paramsFrom(actual, params), packedHead);
}

/** Finds every parameter in the checkpoint and checks its shape there. */
function locate(config: TransformerConfig, names: Names, weights: Weights, what: string): Located[] {
  const has = new Set(weights.names);
  const missing: string[] = [];
  const misshapen: string[] = [];
  const located = Object.entries(transformerShapes(config)).flatMap(([name, shape]): Located[] => {
    const { candidates, source } = storedName(name, names);
    const stored = candidates.find((candidate) => has.has(candidate));
    if (stored === undefined) {
      missing.push(candidates[0]!);
      return [];
    }
    const want = storedShape(shape, source);
    const got = weights.info(stored).shape;
    if (got.join() !== want.join()) misshapen.push(`${stored}: expected [${want.join(', ')}], got [${got.join(', ')}]`);
    return [{ name, shape, stored, source }];
  });
  const used = new Set(located.map(({ stored }) => stored));
  // A tied head may be there once more under its own name.
  const heads = new Set(config.tiedHead ? names.heads.map((head) => `${head}.weight`) : []);
  const unexpected = weights.names.filter((name) => !used.has(name) && !heads.has(name) && !names.ignored?.test(name));
  const lists = [
    ['missing', [...new Set(missing)]],
    ['unexpected', unexpected],
    ['wrong shape', [...new Set(misshapen)]],
  ] as const;
  const problems = lists.filter(([, list]) => list.length > 0);
  if (problems.length > 0) {
    const shown = problems.map(([title, list]) => {
      return `${title} (${list.length}): ${list.slice(0, 8).join('; ')}${list.length > 8 ? '; ...' : ''}`;
    });
    throw new Error(
      `${what}: the weights do not fit config.json. ${shown.join('. ')}. ` +
        'Fetch config.json and the weights again, both from one version.',
    );
  }
  return located;
}

/** Names under which a parameter of ours may be stored, the usual one first. */
function storedName(name: string, names: Names): { candidates: string[]; source: Source } {
  const [, layer, module, leaf] = /^(?:layers\.(\d+)\.)?(.+)\.(weight|bias)$/.exec(name)!;
  if (module === 'head') return { candidates: names.heads.map((head) => `${head}.${leaf}`), source: { name: 'head' } };
  const entry = names.modules[module as ModuleName]!;
  const source = typeof entry === 'string' ? { name: entry } : entry;
  const path = `${layer === undefined ? '' : `${names.layer}${layer}.`}${source.name}.${leaf}`;
  return { candidates: [names.prefix + path, path], source };
}

/** Shape of the tensor that holds a parameter of this shape. */
function storedShape([rows = 1, ...rest]: readonly number[], { transposed, part }: Source): number[] {
  const whole = [rows * (part?.of ?? 1), ...rest];
  return transposed ? whole.reverse() : whole;
}

/** A parameter's values, row-major, out of the tensor that holds it. */
function take({ data }: Values, shape: readonly number[], { transposed, part }: Source): Float32Array {
  const [rows = 1, width = 1] = shape;
  const { index, of, turns } = part ?? { index: 0, of: 1, turns: 1 };
  if (!transposed && of === 1) return data instanceof Float32Array ? data : Float32Array.from(data, Number);
  const values = new Float32Array(rows * width);
  const run = rows / turns;
  const columns = rows * of;
  for (let row = 0; row < rows; row++) {
    const from = (Math.floor(row / run) * of + index) * run + (row % run);
    for (let i = 0; i < width; i++) {
      values[row * width + i] = Number(data[transposed && shape.length === 2 ? i * columns + from : from * width + i]);
    }
  }
  return values;
}

/** Values of a matrix with more rows: the mean of those there are. */
function grown(values: Float32Array, size: number, [rows = 1, width = 1]: readonly number[]): Float32Array {
  if (values.length === size) return values;
  const mean = new Float64Array(width);
  values.forEach((value, i) => (mean[i % width]! += value / rows));
  const more = new Float32Array(size);
  more.set(values);
  for (let i = values.length; i < size; i += width) more.set(mean, i);
  return more;
}

function variable(values: Float32Array, shape: readonly number[]): tf.Variable {
  return tf.tidy(() => tf.variable(tf.tensor(values, [...shape])));
}
