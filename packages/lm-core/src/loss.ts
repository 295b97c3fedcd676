import * as tf from '@tensorflow/tfjs-core';
import { crossEntropy, expectShape, gatherRows, valueAndGrads, variables } from '@flamingo-ts/kernels';
import { hiddenStates, type CausalLM, type LMContext } from './causal-lm';

/** Training text, row-major `[batch, text]`. Plain arrays, so that rows can be selected without reading from a device. */
export interface TextBatch {
  readonly batch: number;
  readonly text: number;
  readonly tokens: Int32Array;
  /** The token to predict at each position: the next one. */
  readonly targets: Int32Array;
  /** Weight of each position in the loss; 0 = ignored. */
  readonly weights: Float32Array;
}

/** Positions of a batch whose weight is not 0. */
export interface CountedRows {
  /** Row-major positions, for gathering from hidden states `[batch * text, hiddenSize]`. */
  readonly rows: Int32Array;
  /** The token to predict at each of them. */
  readonly targets: Int32Array;
  /** The weight of each of them. */
  readonly weights: Float32Array;
}

/** Rounding up the number of rows keeps the number of shapes small: backends prepare kernels per shape. */
const ROWS_MULTIPLE = 32;

/** The positions whose weight is not 0, padded with positions of weight 0 to a multiple of 32. */
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

/** A batch for next-token prediction from rows of token ids; shorter rows are padded on the right with weight 0. */
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

/** Logits per chunk: 16 MiB, which fits into a processor's cache. */
const LOGITS_PER_CHUNK = 2 ** 22;

/**
 * Mean cross-entropy over the given positions, or 0 if there is none.
 *
 * The head runs only on these, in chunks: the gradient of a chunk is computed at once and its logits are freed, so that the
 * logits of only one chunk exist at a time.
 *
 * @param hidden  output of the last block, `[rows, hiddenSize]`
 * @param trained variables within the head that receive gradients; others receive none
 */
export function countedLoss<C extends LMContext>(
  lm: CausalLM<C>,
  hidden: tf.Tensor,
  { rows, targets, weights }: CountedRows,
  trained: Readonly<Record<string, tf.Variable>> = {},
  logitsPerChunk = LOGITS_PER_CHUNK,
): tf.Scalar {
  const most = Math.max(1, Math.floor(logitsPerChunk / lm.vocabSize));
  // Chunks of about the same size: backends prepare kernels per shape.
  const size = Math.min(most, Math.ceil(rows.length / Math.ceil(rows.length / most) / ROWS_MULTIPLE) * ROWS_MULTIPLE);
  return tf.tidy(() => {
    const counting = gatherRows(hidden, tf.tensor1d(rows, 'int32'));
    const total = weights.reduce((a, b) => a + b, 0);
    const lossOf = (x: tf.Tensor, from: number, to: number): tf.Scalar => {
      const logits = lm.logits(tf.reshape(x, [1, to - from, lm.hiddenSize]));
      const sum = crossEntropy(
        tf.reshape(logits, [to - from, lm.vocabSize]),
        tf.tensor1d(targets.subarray(from, to), 'int32'),
        { weights: tf.tensor1d(weights.subarray(from, to)), reduction: 'sum' },
      );
      return tf.mul(sum, total > 0 ? 1 / total : 0);
    };
    const chunks: { readonly from: number; readonly to: number }[] = [];
    for (let from = 0; from < rows.length; from += size) chunks.push({ from, to: Math.min(from + size, rows.length) });
    if (!tf.engine().isTapeOn()) {
      return tf.addN(chunks.map(({ from, to }) => lossOf(rowsOf(counting, from, to), from, to)));
    }
    const names = Object.keys(trained);
    const computed = chunks.map(({ from, to }) => {
      const x = rowsOf(counting, from, to);
      return valueAndGrads(() => lossOf(x, from, to), { ...trained, [HIDDEN]: x });
    });
    const gradients = [
      tf.concat(computed.map(({ grads }) => grads[HIDDEN]!)),
      ...names.map((name) =>
        sumOf(
          computed.flatMap(({ grads }) => grads[name] ?? []),
          trained[name]!,
        ),
      ),
    ];
    const known = tf.customGrad((...args) => {
      (args.at(-1) as unknown as tf.GradSaveFunc)(gradients);
      return {
        value: tf.addN(computed.map(({ value }) => value)),
        gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => saved.map((gradient) => tf.mul(gradient, dy)),
      };
    });
    return known(counting, ...Object.values(trained)) as tf.Scalar;
  });
}

/** Not a valid parameter name. */
const HIDDEN = ' hidden';

function rowsOf(x: tf.Tensor, from: number, to: number): tf.Tensor {
  return tf.slice(x, [from, 0], [to - from, x.shape[1]!]);
}

function sumOf(gradients: tf.Tensor[], like: tf.Tensor): tf.Tensor {
  return gradients.length > 0 ? tf.addN(gradients) : tf.zerosLike(like);
}

/**
 * Mean cross-entropy of the next token over the positions whose weight is not 0; 0 if there is none. The head runs only on
 * these. Text that is padded on the right needs no key mask: no position with a weight attends to padding.
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
    const hidden = tf.reshape(hiddenStates(lm, tokens, context), [batch.batch * batch.text, lm.hiddenSize]);
    return countedLoss(lm, hidden, countedRows(batch), variables(lm.params));
  });
}
