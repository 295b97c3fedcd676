import {
  borrowValues,
  widened,
  type FrozenPrecision,
  type FrozenValues,
  type WeightSource,
} from '@flamingo-ts/kernels';
import { ParameterCollector } from '@flamingo-ts/lm-core';
import type { ModuleName, Names, Source } from './family';
import { gathered, isMatrix, Transformer, transformerShapes, type TransformerConfig } from './transformer';

/** Options for reading weights. */
export interface ReadOptions {
  /**
   * Packs the matrices as they are read, for use without training. If the backend packs, at most one matrix at a time is in
   * memory as float32, and none if the checkpoint's are bfloat16.
   */
  readonly freeze?: FrozenPrecision;
  /**
   * Rows of embedding and head, for added tokens: at least as many as in the checkpoint. New rows are the mean of the others,
   * so that new tokens do not start as the most likely ones.
   */
  readonly vocabSize?: number;
}

/** A parameter and its place in a stored tensor. */
interface Part {
  readonly name: string;
  readonly shape: readonly number[];
  readonly source: Source;
}

/**
 * Reads a model from a checkpoint, tensor by tensor.
 *
 * @param config from the checkpoint's config.json
 * @param what   the folder or file, for error messages
 * @throws Error listing all missing, unexpected and misshapen names together, before any weight is read
 */
export async function readTransformer(
  config: TransformerConfig,
  names: Names,
  weights: WeightSource,
  options: ReadOptions,
  what: string,
): Promise<Transformer> {
  const { freeze, vocabSize = config.vocabSize } = options;
  if (!Number.isInteger(vocabSize) || vocabSize < config.vocabSize) {
    throw new Error(
      `${what}: vocabSize must be a whole number of at least the checkpoint's ${config.vocabSize}, got ${vocabSize}. ` +
        'Tokens can be added, not removed.',
    );
  }
  const grown = { ...config, vocabSize };
  const shapes = transformerShapes(grown);
  const collected = new ParameterCollector(freeze, { isMatrix, tiedHead: config.tiedHead });
  try {
    for (const [stored, parts] of locate(config, names, weights, what)) {
      const borrowed = freeze && (await borrowValues(weights, stored));
      const data = borrowed?.values ?? (await weights.read(stored)).data;
      let keeps = false;
      try {
        for (const { name, shape, source } of parts) {
          const want = shapes[name]! as [number, number];
          const values = withRows(take(data, shape, source), shape, want);
          const isBorrowed = values === borrowed?.values;
          // Packed matrices may keep borrowed values until they release them, and values that were computed here.
          const release = isBorrowed ? borrowed.close : values === data || !freeze ? undefined : () => undefined;
          const isKept = collected.add(name, values, want, release);
          keeps ||= isKept && isBorrowed;
        }
      } finally {
        if (!keeps) borrowed?.close();
      }
    }
  } catch (error) {
    collected.dispose();
    throw error;
  }
  return new Transformer(grown, gathered(grown, collected.params), collected.head);
}

/** Finds every parameter in the checkpoint and checks its shape. @returns the parts of each stored tensor by its name */
function locate(config: TransformerConfig, names: Names, weights: WeightSource, what: string): Map<string, Part[]> {
  const has = new Set(weights.names);
  const located = new Map<string, Part[]>();
  const missing = new Set<string>();
  const misshapen = new Set<string>();
  for (const [name, shape] of Object.entries(transformerShapes(config))) {
    const { candidates, source } = storedName(name, names);
    const stored = candidates.find((candidate) => has.has(candidate));
    if (stored === undefined) {
      missing.add(candidates[0]!);
      continue;
    }
    const want = storedShape(shape, source);
    const got = weights.info(stored).shape;
    if (got.join() !== want.join()) misshapen.add(`${stored}: expected [${want.join(', ')}], got [${got.join(', ')}]`);
    located.set(stored, [...(located.get(stored) ?? []), { name, shape, source }]);
  }
  // A tied head may also be stored under its own name.
  const heads = new Set(config.tiedHead ? names.heads.map((head) => `${head}.weight`) : []);
  const unexpected = weights.names.filter(
    (name) => !located.has(name) && !heads.has(name) && !names.ignored?.test(name),
  );
  const lists = [
    ['missing', [...missing]],
    ['unexpected', unexpected],
    ['wrong shape', [...misshapen]],
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

/** Names under which a parameter may be stored, the usual one first. */
function storedName(name: string, names: Names): { candidates: string[]; source: Source } {
  const [, layer, module, leaf] = /^(?:layers\.(\d+)\.)?(.+)\.(weight|bias)$/.exec(name)!;
  if (module === 'head') return { candidates: names.heads.map((head) => `${head}.${leaf}`), source: { name: 'head' } };
  const entry = names.modules[module as ModuleName]!;
  const source = typeof entry === 'string' ? { name: entry } : entry;
  const path = `${layer === undefined ? '' : `${names.layer}${layer}.`}${source.name}.${leaf}`;
  return { candidates: [names.prefix + path, path], source };
}

/** Shape of the stored tensor for a parameter of this shape. */
function storedShape([rows = 1, ...rest]: readonly number[], { transposed, part }: Source): number[] {
  const whole = [rows * (part?.of ?? 1), ...rest];
  return transposed ? whole.reverse() : whole;
}

/** A parameter's values, row-major, from its stored tensor; bfloat16 bits are not converted. */
function take(
  data: FrozenValues | ArrayLike<number | bigint>,
  shape: readonly number[],
  { transposed, part }: Source,
): FrozenValues {
  const [rows = 1, width = 1] = shape;
  const { index, of, turns } = part ?? { index: 0, of: 1, turns: 1 };
  const isBits = data instanceof Uint16Array;
  if (!transposed && of === 1) return isBits ? data : widened(data);
  const values = new (isBits ? Uint16Array : Float32Array)(rows * width);
  const run = rows / turns;
  const columns = rows * of;
  if (!transposed && (isBits || data instanceof Float32Array)) {
    // Copies the contiguous rows of each turn.
    for (let turn = 0; turn < turns; turn++) {
      const from = (turn * of + index) * run * width;
      values.set(data.subarray(from, from + run * width), turn * run * width);
    }
    return values;
  }
  for (let row = 0; row < rows; row++) {
    const from = (Math.floor(row / run) * of + index) * run + (row % run);
    for (let i = 0; i < width; i++) {
      values[row * width + i] = Number(data[transposed && shape.length === 2 ? i * columns + from : from * width + i]);
    }
  }
  return values;
}

/** The values with additional rows up to the wanted shape, each the mean of the existing rows. */
function withRows(
  given: FrozenValues,
  [rows = 1, width = 1]: readonly number[],
  want: readonly number[],
): FrozenValues {
  if (want[0] === rows) return given;
  const values = widened(given);
  const mean = new Float64Array(width);
  values.forEach((value, i) => (mean[i % width]! += value / rows));
  const more = new Float32Array(want[0]! * width);
  more.set(values);
  for (let i = values.length; i < more.length; i += width) more.set(mean, i);
  return more;
}
