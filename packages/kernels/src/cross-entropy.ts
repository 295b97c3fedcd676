import * as tf from '@tensorflow/tfjs-core';
import { checkConfig, rule, type ConfigRules } from './check-config';
import { fusedOp } from './fused-op';
import { expectIndices } from './gather-rows';
import { expectShape } from './shape';

/** Options of `crossEntropy`. */
export interface CrossEntropyOptions {
  /** float32 `[n]`, one per row; a row of weight 0 contributes nothing, whatever its logits. Data: gets no gradient. */
  readonly weights?: tf.Tensor1D;
  /** Share of the target spread evenly over all classes, 0 to 1. */
  readonly labelSmoothing?: number;
  /** `mean` (default) divides by the sum of the weights; `sum` does not. */
  readonly reduction?: 'mean' | 'sum';
}

const RULES: ConfigRules<Omit<CrossEntropyOptions, 'weights'>> = {
  labelSmoothing: rule.optional(rule.number({ min: 0, max: 1 })),
  reduction: rule.optional(rule.oneOf(['mean', 'sum'])),
};

interface CrossEntropyAttrs {
  readonly labelSmoothing: number;
  readonly reduction: 'mean' | 'sum';
}

/** `{logits [n, vocab], targets int32 [n], weights? [n]}` -> `[loss [], probabilities [n, vocab]]` */
const crossEntropyOp = fusedOp<CrossEntropyAttrs>({
  name: 'FlamingoCrossEntropy',
  forward: ({ logits, targets, weights }, { labelSmoothing, reduction, taped }) => {
    const [n, vocab] = logits!.shape as [number, number];
    // Rows of weight 0 may hold infinity or NaN, and 0 times infinity is NaN.
    const safe = weights
      ? tf.where(tf.expandDims(tf.notEqual(weights, 0), 1), logits!, tf.zerosLike(logits!))
      : logits!;
    const shifted = tf.sub(safe, tf.max(safe, 1, true));
    const exps = tf.exp(shifted);
    const total = tf.sum(exps, 1, true);
    const atTarget = tf.gather(tf.reshape(shifted, [n * vocab]), flatTargets(targets!, vocab));
    let losses = tf.sub(tf.log(tf.reshape(total, [n])), tf.mul(atTarget, 1 - labelSmoothing));
    if (labelSmoothing) losses = tf.sub(losses, tf.mul(tf.mean(shifted, 1), labelSmoothing));
    const loss = tf.sum(weights ? tf.mul(losses, weights) : losses);
    const result = reduction === 'mean' ? tf.mul(loss, inverseCount(n, weights)) : loss;
    return taped ? [result, tf.div(exps, total)] : [result];
  },
  saveInputs: ['targets', 'weights'],
  saveOutputs: [false, true],
  gradient: ([dy], { targets, weights, out1: probabilities }, attrs) => ({
    logits: () => crossEntropyGradOp({ dy, probabilities, targets, weights }, attrs)[0]!,
  }),
});

/** `{dy [], probabilities [n, vocab], targets int32 [n], weights? [n]}` -> dlogits `[n, vocab]` */
const crossEntropyGradOp = fusedOp<CrossEntropyAttrs>({
  name: 'FlamingoCrossEntropyGrad',
  forward: ({ dy, probabilities, targets, weights }, { labelSmoothing, reduction }) => {
    const [n, vocab] = probabilities!.shape as [number, number];
    const perRow = reduction === 'mean' ? tf.mul(dy!, inverseCount(n, weights)) : dy!;
    const rows = weights ? tf.mul(weights, perRow) : tf.mul(tf.ones([n]), perRow); //           [n]
    const soft = labelSmoothing ? tf.sub(probabilities!, labelSmoothing / vocab) : probabilities!;
    const indices = tf.reshape(flatTargets(targets!, vocab), [n, 1]);
    const atTarget = tf.scatterND(indices, tf.mul(rows, 1 - labelSmoothing), [n * vocab]);
    return [tf.sub(tf.mul(soft, tf.reshape(rows, [n, 1])), tf.reshape(atTarget, [n, vocab]))];
  },
});

/** 1 / (sum of the weights), or 0 if nothing counts: then the loss is 0, not NaN. */
function inverseCount(n: number, weights?: tf.Tensor): tf.Tensor {
  if (!weights) return tf.scalar(n ? 1 / n : 0);
  const total = tf.sum(weights);
  const any = tf.step(total);
  return tf.div(any, tf.add(total, tf.sub(1, any)));
}

/** Index of each row's target in the flattened logits: int32 `[n]`. */
function flatTargets(targets: tf.Tensor, vocab: number): tf.Tensor1D {
  return tf.tensor1d(
    Int32Array.from(targets.dataSync(), (target, row) => row * vocab + target),
    'int32',
  );
}

/**
 * Cross-entropy of integer targets.
 *
 * @param logits  float32 `[n, vocab]`
 * @param targets int32 `[n]`, each in [0, vocab)
 * @returns       float32 scalar; `mean` is sum(weight * loss) / sum(weight), and 0 if no row counts
 */
export function crossEntropy(logits: tf.Tensor, targets: tf.Tensor, o: CrossEntropyOptions = {}): tf.Scalar {
  const { weights, ...rest } = o;
  checkConfig('crossEntropy', rest, RULES);
  const { labelSmoothing = 0, reduction = 'mean' } = rest;
  expectShape('crossEntropy: logits', logits, ['n', 'vocab'], 'Flatten the leading axes first.');
  const [n, vocab] = logits.shape as [number, number];
  expectShape('crossEntropy: targets', targets, [n], 'Pass one class number per row.');
  if (weights) expectShape('crossEntropy: weights', weights, [n], 'Pass one weight per row.');
  expectIndices(
    'crossEntropy: targets',
    targets,
    vocab,
    'Remove rows without a target, or give them weight 0 and target 0.',
  );
  return crossEntropyOp({ logits, targets, weights }, { labelSmoothing, reduction })[0] as tf.Scalar;
}
