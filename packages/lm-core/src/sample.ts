import { checkSamplingOptions } from './decoding-options';
import { topIndices } from './log-probs';

/** How to filter a distribution before sampling; applied in this order. */
export interface SamplingOptions {
  /** Divides the logits: sharper below 1, flatter above 1. Defaults to 1. */
  readonly temperature?: number;
  /** Keeps the k most likely tokens, and those that tie with the last of them. */
  readonly topK?: number;
  /** Keeps the most likely tokens that together reach this probability, at least one. */
  readonly topP?: number;
  /** Minimum number of tokens that `topK` and `topP` keep. Defaults to 1. */
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

/** Drops the least likely tokens whose probabilities add up to at most 1 - topP. */
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

/** An index drawn with probability softmax(logits), from `uniform` in [0, 1). */
export function drawToken(logits: Float64Array, uniform: number): number {
  const weights = softmaxWeights(logits);
  let left = uniform * weights.reduce((sum, w) => sum + w, 0);
  for (let i = 0; i < weights.length; i++) {
    left -= weights[i]!;
    if (left < 0) return i;
  }
  // Rounding can leave a small rest: it belongs to the last token with a positive probability.
  return weights.findLastIndex((w) => w > 0);
}

function softmaxWeights(logits: Float64Array): Float64Array {
  const top = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  return logits.map((value) => Math.exp(value - top));
}
