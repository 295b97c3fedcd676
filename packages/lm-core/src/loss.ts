import * as tf from '@tensorflow/tfjs-core';
import { crossEntropy, expectShape, gatherRows } from '@flamingo-ts/kernels';
import { hiddenStates, type CausalLM, type LMContext } from './causal-lm';

/** Text to learn from, row-major `[batch, text]`; plain arrays, so that rows can be chosen without asking a device. */
export interface TextBatch {
  readonly batch: number;
  readonly text: number;
  readonly tokens: Int32Array;
  /** The token to be predicted at each position: the next one. */
  readonly targets: Int32Array;
  /** How much a position counts; 0: not at all. */
  readonly weights: Float32Array;
}

/** Positions of a batch that count. */
export interface CountedRows {
  /** Row-major positions, to be gathered from hidden states `[batch * text, hiddenSize]`. */
  readonly rows: Int32Array;
  /** The token to be predicted at each of them. */
  readonly targets: Int32Array;
  /** The weight of each of them. */
  readonly weights: Float32Array;
}

/** Rounding the number of rows up keeps the shapes of a run few: backends prepare their kernels by shape. */
const ROWS_MULTIPLE = 32;

/** The positions whose weight is not 0, filled up with weightless ones to a multiple of 32. */
export function countedRows({ targets, weights }: Pick<TextBatch, 'targets' | 'weights'>): CountedRows {
  const positions = Array.from(weights.keys()).filter((i) => weights[i] !== 0);
  const size = Math.max(1, Math.ceil(positions.length / ROWS_MULTIPLE)) * ROWS_MULTIPLE;
  const counted = {
    rows: new Int32Array(size),
    targets: new Int32Array(size),
    weights: new Float32Array(size),
  };
  positions.forEach((position, i) => {
    counted.rows[i] = position;
    counted.targets[i] = targets[position]!;
    counted.weights[i] = weights[position]!;
  });
  return counted;
}

/** A batch for next-token prediction from rows of token ids; shorter ones are filled up on the right and do not count there. */
export function nextTokenBatch(rows: readonly (readonly number[])[]): TextBatch {
  const text = Math.max(0, ...rows.map((row) => row.length - 1));
  const size = rows.length * text;
  const tokens = new Int32Array(size);
  const targets = new Int32Array(size);
  const weights = new Float32Array(size);
  rows.forEach((row, b) => {
    for (let i = 0; i + 1 < row.length; i++) {
      tokens[b * text + i] = row[i]!;
      targets[b * text + i] = row[i + 1]!;
      weights[b * text + i] = 1;
    }
  });
  return { batch: rows.length, text, tokens, targets, weights };
}

/**
 * Mean cross-entropy of the next token over the positions that count; 0 when none does. Only for those the head is
 * computed. Text that is padded on the right needs no key mask: nothing that counts looks there.
 */
export function languageModelLoss(lm: CausalLM, batch: TextBatch, context: LMContext = {}): tf.Scalar {
  for (const name of ['tokens', 'targets', 'weights'] as const) {
    expectShape(
      `languageModelLoss: ${name}`,
      { shape: [batch[name].length] },
      [batch.batch * batch.text],
      'Lay the batch out row-major as [batch, text].',
    );
  }
  return tf.tidy(() => {
    const tokens = tf.tensor2d(batch.tokens, [batch.batch, batch.text], 'int32');
    const hidden = hiddenStates(lm, tokens, context);
    const { rows, targets, weights } = countedRows(batch);
    const counting = gatherRows(
      tf.reshape(hidden, [batch.batch * batch.text, lm.hiddenSize]),
      tf.tensor1d(rows, 'int32'),
    );
    const logits = lm.logits(tf.reshape(counting, [1, rows.length, lm.hiddenSize]));
    return crossEntropy(tf.reshape(logits, [rows.length, lm.vocabSize]), tf.tensor1d(targets, 'int32'), {
      weights: tf.tensor1d(weights),
    });
  });
}
