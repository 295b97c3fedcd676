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

/** @throws Error naming the first option that is out of range */
export function checkSampling({ temperature = 1, topK, topP, minTokensToKeep = 1 }: SamplingOptions): void {
  const refuse = (name: string, expected: string, got: number) => {
    throw new Error(`sampling: ${name} must be ${expected}, got ${got}. Leave it out to do without it.`);
  };
  if (!(temperature > 0)) refuse('temperature', 'above 0', temperature);
  if (topK !== undefined && !(topK >= 1)) refuse('topK', 'at least 1', topK);
  if (topP !== undefined && !(topP > 0 && topP <= 1)) refuse('topP', 'above 0 and at most 1', topP);
  if (!(minTokensToKeep >= 1)) refuse('minTokensToKeep', 'at least 1', minTokensToKeep);
}

/** Logits after temperature, top-k and top-p; tokens that fell out are at -Infinity. */
export function filterLogits(logits: ArrayLike<number>, options: SamplingOptions): Float64Array {
  checkSampling(options);
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
