import { checkSamplingOptions } from './decoding-options';
import { topIndices } from './log-probs';

/** How to thin out a distribution before a token is drawn; applied in this order. */
export interface SamplingOptions {
  /** Divides the logits: below 1 sharper, above 1 flatter. Default 1. */
  readonly temperature?: number;
  /** Keeps the k most likely tokens, and all that tie with the last of them. */
  readonly topK?: number;
  /** Keeps the most likely tokens that together reach this probability, at least one. */
  readonly topP?: number;
  /** Tokens that `topK` and `topP` must leave. Default 1. */
  readonly minTokensToKeep?: number;
}

/**
 * Logits after temperature, top-k and top-p; tokens that are filtered out are at -Infinity.
 *
 * @throws Error naming the first option that is unknown or out of range
 */
export function filterLogits(logits: ArrayLike<number>, options: SamplingOptions): Float64Array {
  checkSamplingOptions('filterLogits', options);
  return filtered(logits, options);
}

/** `filterLogits` for options that were checked before. */
export function filtered(logits: ArrayLike<number>, options: SamplingOptions): Float64Array {
  const { temperature = 1, topK, topP, minTokensToKeep = 1 } = options;
  const kept = Float64Array.from({ length: logits.length }, (_, i) => logits[i]! / temperature);
  if (topK !== undefined) {
    const count = Math.min(Math.max(topK, minTokensToKeep), kept.length);
    const floor = kept[topIndices(kept, count)[count - 1]!]!;
    kept.forEach((value, i) => {
      if (value < floor) kept[i] = -Infinity;
    });
  }
  if (topP !== undefined) cutTail(kept, topP, minTokensToKeep);
  return kept;
}

/** Drops, from the least likely upwards, what together stays within a probability of 1 - topP. */
function cutTail(kept: Float64Array, topP: number, minTokensToKeep: number): void {
  const weights = softmaxWeights(kept);
  const total = weights.reduce((sum, w) => sum + w, 0);
  const ascending = Array.from(kept.keys()).sort((a, b) => kept[a]! - kept[b]!);
  let tail = 0;
  for (const i of ascending.slice(0, kept.length - minTokensToKeep)) {
    tail += weights[i]! / total;
    if (tail > 1 - topP) return;
    kept[i] = -Infinity;
  }
}

/** Position drawn with probability softmax(logits), `uniform` in [0, 1). */
export function drawToken(logits: Float64Array, uniform: number): number {
  const weights = softmaxWeights(logits);
  let left = uniform * weights.reduce((sum, w) => sum + w, 0);
  for (let i = 0; i < weights.length; i++) {
    left -= weights[i]!;
    if (left < 0) return i;
  }
  // Rounding can leave a crumb at the end of the row: the last token that may be drawn takes it.
  return weights.findLastIndex((w) => w > 0);
}

function softmaxWeights(logits: Float64Array): Float64Array {
  const top = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  return logits.map((value) => Math.exp(value - top));
}
