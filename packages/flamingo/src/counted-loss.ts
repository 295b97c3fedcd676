import { crossEntropy, gatherRows } from '@flamingo-ts/kernels';
import type { CausalLM, CountedRows, LMContext } from '@flamingo-ts/lm-core';
import * as tf from '@tensorflow/tfjs-core';

/** Numbers in the logits of one piece: 64 MiB. */
const LOGITS_PER_PIECE = 2 ** 24;

/**
 * Mean cross-entropy over the positions that count, 0 when there is none. The head sees only those, piece by piece, so
 * full logits never exist.
 *
 * @param hidden what leaves the last block, `[rows, hiddenSize]`
 */
export function countedLoss<C extends LMContext>(
  lm: CausalLM<C>,
  hidden: tf.Tensor,
  { rows, targets, weights }: CountedRows,
  logitsPerPiece = LOGITS_PER_PIECE,
): tf.Scalar {
  const most = Math.max(1, Math.floor(logitsPerPiece / lm.vocabSize));
  return tf.tidy(() => {
    const sums: tf.Scalar[] = [];
    for (let from = 0; from < rows.length; from += most) {
      const to = Math.min(from + most, rows.length);
      const counting = gatherRows(hidden, tf.tensor1d(rows.subarray(from, to), 'int32'));
      const logits = lm.logits(tf.reshape(counting, [1, to - from, lm.hiddenSize]));
      sums.push(
        crossEntropy(tf.reshape(logits, [to - from, lm.vocabSize]), tf.tensor1d(targets.subarray(from, to), 'int32'), {
          weights: tf.tensor1d(weights.subarray(from, to)),
          reduction: 'sum',
        }),
      );
    }
    const total = weights.reduce((a, b) => a + b, 0);
    return tf.mul(tf.addN(sums), total > 0 ? 1 / total : 0);
  });
}
