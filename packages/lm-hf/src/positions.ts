import * as tf from '@tensorflow/tfjs-core';
import type { LMContext } from '@flamingo-ts/lm-core';

/** How a model encodes positions. */
export type Positions =
  /** A vector per position added to the embedding; position p has row p + offset. */
  | { readonly kind: 'learned'; readonly rows: number; readonly offset: number }
  /** Rotates the pairs of channels (j, j + n) of queries and keys by position * frequencies[j]; n is their number. */
  | { readonly kind: 'rotary'; readonly frequencies: readonly number[] }
  /** Adds slopes[head] * (position of the key - position of the query) to the scores. */
  | { readonly kind: 'alibi'; readonly slopes: readonly number[] };

/** How the positions of a rotary model were scaled after pretraining. */
export type RotaryScaling =
  | { readonly kind: 'linear'; readonly factor: number }
  | {
      /** Llama 3.1: scales low frequencies, keeps high ones and blends between. */
      readonly kind: 'llama3';
      readonly factor: number;
      readonly lowFrequency: number;
      readonly highFrequency: number;
      /** Context length of pretraining. */
      readonly context: number;
    };

/**
 * Angles per position of rotary embeddings (Su et al. 2021), fastest first.
 *
 * @param width number of rotary channels per head; even
 * @param base  10000 in the paper
 */
export function rotaryFrequencies(width: number, base: number, scaling?: RotaryScaling): number[] {
  return Array.from({ length: width / 2 }, (_, j) => stretched(base ** ((-2 * j) / width), scaling));
}

function stretched(frequency: number, scaling: RotaryScaling | undefined): number {
  if (!scaling) return frequency;
  const slow = frequency / scaling.factor;
  if (scaling.kind === 'linear') return slow;
  const { lowFrequency, highFrequency, context } = scaling;
  const turns = (context * frequency) / (2 * Math.PI);
  const kept = Math.min(1, Math.max(0, (turns - lowFrequency) / (highFrequency - lowFrequency)));
  return kept * frequency + (1 - kept) * slow;
}

/**
 * Slopes of ALiBi (Press et al. 2022): powers of 2 ** -(strongest / P), where P is the number of heads rounded up to a power
 * of two. For other numbers of heads every second slope comes first.
 *
 * @param strongest -log2 of the smallest slope; 8 in the paper
 */
export function alibiSlopes(numHeads: number, strongest = 8): number[] {
  const power = 2 ** Math.ceil(Math.log2(numHeads));
  const slopes = Array.from({ length: power }, (_, k) => 2 ** ((-strongest * (k + 1)) / power));
  if (power === numHeads) return slopes;
  return [...slopes.filter((_, k) => k % 2 === 1), ...slopes.filter((_, k) => k % 2 === 0)].slice(0, numHeads);
}

/** Number of real tokens before each key; 0 for padding on the left. @returns float32 `[batch, keys]` */
function keyPositions(keyMask: tf.Tensor2D): tf.Tensor2D {
  return tf.relu(tf.sub(tf.cumsum(keyMask, 1), 1) as tf.Tensor2D);
}

/** Positions of the tokens of a call that follow `past` keys: int32 `[batch, text]`. */
export function tokenPositions(keyMask: tf.Tensor2D, past: number, text: number): tf.Tensor2D {
  return tf.cast(tf.slice(keyPositions(keyMask), [0, past], [keyMask.shape[0], text]), 'int32');
}

/** Shortest table; longer ones double in length. */
const SHORTEST_TABLE = 64;

/** A cached table that is rebuilt at least twice as long when a longer one is needed. */
class GrowingTable<T extends tf.Tensor> {
  private table: T | undefined;
  private length = 0;

  constructor(private readonly make: (length: number) => T) {}

  /** The table for at least this many positions. Do not dispose it. */
  atLeast(length: number): T {
    if (!this.table || this.length < length) {
      this.dispose();
      this.length = Math.max(SHORTEST_TABLE, 2 ** Math.ceil(Math.log2(length)));
      this.table = tf.keep(tf.tidy(() => this.make(this.length)));
    }
    return this.table;
  }

  dispose(): void {
    this.table?.dispose();
    this.table = undefined;
  }
}

/** Cosines and sines of rotary positions. */
export class RotaryTable {
  private readonly table: GrowingTable<tf.Tensor2D>;

  constructor(private readonly frequencies: readonly number[]) {
    this.table = new GrowingTable((length) => cosinesAndSines(length, frequencies));
  }

  /** For the tokens of a call: float32 `[1|batch, text, 2 * frequencies]`, the cosines first. */
  rows(text: number, past: number, keyMask: tf.Tensor2D | undefined): tf.Tensor3D {
    const table = this.table.atLeast(past + text);
    if (keyMask) return tf.gather(table, tokenPositions(keyMask, past, text)) as tf.Tensor as tf.Tensor3D;
    const width = 2 * this.frequencies.length;
    return tf.reshape(tf.slice(table, [past, 0], [text, width]), [1, text, width]);
  }

  dispose(): void {
    this.table.dispose();
  }
}

function cosinesAndSines(length: number, frequencies: readonly number[]): tf.Tensor2D {
  const n = frequencies.length;
  const values = new Float32Array(length * 2 * n);
  for (let position = 0; position < length; position++) {
    for (let j = 0; j < n; j++) {
      values[position * 2 * n + j] = Math.cos(position * frequencies[j]!);
      values[position * 2 * n + n + j] = Math.sin(position * frequencies[j]!);
    }
  }
  return tf.tensor2d(values, [length, 2 * n]);
}

/**
 * What ALiBi adds to the scores. Only differences between keys matter for a query, so the last key has distance 0 for all
 * queries, and one row serves all of them.
 */
export class AlibiTable {
  private readonly table: GrowingTable<tf.Tensor4D>;

  constructor(private readonly slopes: readonly number[]) {
    this.table = new GrowingTable((length) => ramps(length, slopes));
  }

  /** For all keys so far: float32 `[1|batch, heads, 1, keys]`. */
  bias(keys: number, keyMask: tf.Tensor2D | undefined): tf.Tensor4D {
    const heads = this.slopes.length;
    if (keyMask) {
      const positions = keyPositions(keyMask);
      const distances = tf.sub(positions, tf.max(positions, 1, true)); // [b, s]
      const slopes = tf.tensor4d([...this.slopes], [1, heads, 1, 1]);
      return tf.mul(tf.reshape(distances, [keyMask.shape[0], 1, 1, keys]), slopes);
    }
    const table = this.table.atLeast(keys);
    return tf.slice(table, [0, 0, 0, table.shape[3] - keys], [1, heads, 1, keys]);
  }

  dispose(): void {
    this.table.dispose();
  }
}

/** `[1, heads, 1, length]`: slope times -(length - 1) ... 0. */
function ramps(length: number, slopes: readonly number[]): tf.Tensor4D {
  const values = slopes.flatMap((slope) => Array.from({ length }, (_, j) => slope * (j + 1 - length)));
  return tf.tensor4d(values, [1, slopes.length, 1, length]);
}

/** Number of keys before the current call. */
export function pastOf({ cache }: LMContext): number {
  return cache?.length ?? 0;
}
