import * as tf from '@tensorflow/tfjs-core';
import { causalMask } from './attention';
import { checkValue, rule } from './check-config';
import { fusedOp } from './fused-op';
import { mergeHeads, splitHeads } from './heads';
import { expectShape } from './shape';

interface RelativeScoresAttrs {
  readonly numHeads: number;
}

/** `[s, h*d] -> [1, h, s, d]` */
function rowHeads(r: tf.Tensor, numHeads: number): tf.Tensor4D {
  return splitHeads(tf.expandDims(r, 0), numHeads);
}

/** `{q [b, t, h*d], r [s, h*d]}` -> `[b, h, t, s]` */
const relativeScoresOp = fusedOp<RelativeScoresAttrs>({
  name: 'FlamingoRelativeScores',
  forward: ({ q, r }, { numHeads }) => {
    const [b, t] = q!.shape as [number, number];
    const s = r!.shape[0]!;
    const byDistance = tf.matMul(splitHeads(q!, numHeads), rowHeads(r!, numHeads), false, true); // [b, h, t, s]
    // Row i must shift left by t-1-i places: adding a column and reshaping to another row length does that.
    const padded = tf.reshape(
      tf.pad(byDistance, [
        [0, 0],
        [0, 0],
        [0, 0],
        [1, 0],
      ]),
      [b, numHeads, s + 1, t],
    );
    const shifted = tf.reshape(tf.slice(padded, [0, 0, 1, 0], [b, numHeads, s, t]), [b, numHeads, t, s]);
    return [tf.mul(shifted, causalMask(t, s))];
  },
  saveInputs: ['q', 'r'],
  gradient: ([dy], { q, r }, attrs) => {
    const [dq, dr] = relativeScoresGradOp({ dy, q, r }, attrs);
    return { q: () => dq!, r: () => dr! };
  },
});

/** `{dy [b, h, t, s], q, r}` -> `[dq, dr]` */
const relativeScoresGradOp = fusedOp<RelativeScoresAttrs>({
  name: 'FlamingoRelativeScoresGrad',
  forward: ({ dy, q, r }, { numHeads }) => {
    const [b, t] = q!.shape as [number, number];
    const s = r!.shape[0]!;
    const live = tf.reshape(tf.mul(dy!, causalMask(t, s)), [b, numHeads, s, t]);
    const padded = tf.reshape(
      tf.pad(live, [
        [0, 0],
        [0, 0],
        [1, 0],
        [0, 0],
      ]),
      [b, numHeads, t, s + 1],
    );
    const byDistance = tf.slice(padded, [0, 0, 0, 1], [b, numHeads, t, s]);
    const dr = tf.sum(tf.matMul(byDistance, splitHeads(q!, numHeads), true), 0, true); //           [1, h, s, d]
    return [mergeHeads(tf.matMul(byDistance, rowHeads(r!, numHeads))), tf.reshape(mergeHeads(dr), r!.shape)];
  },
});

/**
 * Scores of queries against relative positions (Dai et al. 2019), which `attention` accepts as `bias`.
 *
 * @param q        float32 `[b, t, h*d]`; query i is at key position s - t + i
 * @param r        float32 `[s, h*d]`, row n is the projected sinusoid of distance s-1-n, so distance 0 is last
 * @param numHeads h
 * @returns        float32 `[b, h, t, s]`: entry (i, j) = q_i . r(distance s-t+i-j), 0 where the key is later than the query
 */
export function relativeScores(q: tf.Tensor, r: tf.Tensor, numHeads: number): tf.Tensor4D {
  checkValue('relativeScores', 'numHeads', numHeads, rule.size);
  expectShape('relativeScores: q', q, ['batch', 'queries', 'heads*headDim'], 'Leave the heads side by side.');
  const [, t, width] = q.shape as [number, number, number];
  expectShape(
    'relativeScores: r',
    r,
    ['distances', width],
    'Pass one projected sinusoid per distance, distance 0 last.',
  );
  if (width % numHeads !== 0) {
    throw new Error(`relativeScores: the width ${width} of q must be a multiple of numHeads, got ${numHeads}.`);
  }
  if (r.shape[0]! < t) {
    throw new Error(
      `relativeScores: r must have at least one row for each of the ${t} queries, got ${r.shape[0]} rows.`,
    );
  }
  return relativeScoresOp({ q, r }, { numHeads })[0] as tf.Tensor4D;
}
