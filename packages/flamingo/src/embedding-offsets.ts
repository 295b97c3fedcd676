import type { CausalLM, LMContext } from '@flamingo-ts/lm-core';
import * as tf from '@tensorflow/tfjs-core';

/** Rows of the language model's embedding that are compared at a time. */
const rowsAtATime = 1024;
/** Bounds of the relative error of one rounding to bfloat16, and of several to float32. */
const bfloat16Step = 2 ** -8;
const float32Step = 2 ** -20;

/** How the embedding table of a checkpoint differs from that of a language model. */
export interface EmbeddingOffsets {
  /** float32 `[ids, hiddenSize]`, row-major: what training added to the rows of `ids`. */
  readonly offsets: Float32Array;
  /** Other rows that differ: none if the table was trained on this language model. */
  readonly strays: readonly number[];
  /** Number of rows compared. */
  readonly compared: number;
}

/**
 * Compares an embedding table from a checkpoint with that of a language model.
 *
 * @param table float32 `[vocabSize, hiddenSize]`, row-major
 * @param ids   special tokens, whose rows were trained
 */
export async function embeddingOffsets<C extends LMContext>(
  lm: CausalLM<C>,
  table: Float32Array,
  ids: readonly number[],
): Promise<EmbeddingOffsets> {
  const width = lm.hiddenSize;
  const vocabSize = table.length / width;
  const rowOf = (row: number) => table.subarray(row * width, (row + 1) * width);
  // The last row may be that of a padding token, which OpenFlamingo adds after the special tokens and does not train.
  const isPadding = (row: number) => row === vocabSize - 1 && row > Math.max(...ids);
  /** Untrained rows that differ after `shift` is subtracted from the language model's rows. */
  const differing = async (shift: ArrayLike<number>): Promise<number[]> => {
    const rows: number[] = [];
    for (let from = 0; from < vocabSize; from += rowsAtATime) {
      const lmRows = await embedded(lm, from, Math.min(from + rowsAtATime, vocabSize));
      for (let at = 0; at < lmRows.length; at += width) {
        const row = from + at / width;
        if (ids.includes(row) || isPadding(row)) continue;
        if (!isSameRow(lmRows.subarray(at, at + width), rowOf(row), shift, bfloat16Step)) rows.push(row);
      }
    }
    return rows;
  };
  let shift: ArrayLike<number> = new Float32Array(width);
  let strays = await differing(shift);
  if (strays.length > 0) {
    // A model with learned positions adds the vector of the first position to its embedding.
    const candidate = commonDifference(await embedded(lm, 0, Math.min(rowsAtATime, vocabSize)), table, width);
    const left = await differing(candidate);
    if (left.length < strays.length) [shift, strays] = [candidate, left];
  }
  const offsets = new Float32Array(ids.length * width);
  for (const [i, id] of ids.entries()) {
    const lmRow = await embedded(lm, id, id + 1);
    // An untrained row keeps the language model's exact values.
    if (isSameRow(lmRow, rowOf(id), shift, float32Step)) continue;
    for (let j = 0; j < width; j++) offsets[i * width + j] = rowOf(id)[j]! - (lmRow[j]! - shift[j]!);
  }
  return { offsets, strays, compared: vocabSize - ids.length - (isPadding(vocabSize - 1) ? 1 : 0) };
}

/** Median, for each column, of the differences between the rows of two tables. */
function commonDifference(lmRows: Float32Array, rows: Float32Array, width: number): Float32Array {
  const count = lmRows.length / width;
  return Float32Array.from({ length: width }, (_, j) => {
    const differences = Float32Array.from({ length: count }, (__, i) => lmRows[i * width + j]! - rows[i * width + j]!);
    return differences.sort()[Math.floor(count / 2)]!;
  });
}

/**
 * Whether two rows are equal except for rounding by `step`: relative to each value, or, with a shift (itself
 * inexact), relative to the largest value.
 */
function isSameRow(lmRow: Float32Array, row: Float32Array, shift: ArrayLike<number>, step: number): boolean {
  const largest = Math.max(...row.map(Math.abs));
  return row.every((value, j) => {
    const by = shift[j]!;
    const error = Math.abs(lmRow[j]! - by - value);
    return error <= step * (by === 0 ? Math.abs(value) : Math.max(largest, Math.abs(by)));
  });
}

/** Embeddings of single tokens with ids `from` to `to - 1`, `[to - from, hiddenSize]` flattened. */
async function embedded<C extends LMContext>(lm: CausalLM<C>, from: number, to: number): Promise<Float32Array> {
  const rows = tf.tidy(() => {
    const ids = Int32Array.from({ length: to - from }, (_, i) => from + i);
    return lm.embed(tf.tensor2d(ids, [to - from, 1], 'int32'), {} as C);
  });
  const values = (await rows.data()) as Float32Array;
  rows.dispose();
  return values;
}
