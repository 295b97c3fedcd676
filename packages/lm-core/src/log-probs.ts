/**
 * Log-probabilities of one row of logits, in float64.
 *
 * @throws Error if no logit is finite: such a row has no most likely token
 */
export function logSoftmax(logits: ArrayLike<number>): Float64Array {
  const top = largest(logits);
  let total = 0;
  for (let i = 0; i < logits.length; i++) total += Math.exp(logits[i]! - top);
  const shift = top + Math.log(total);
  if (!Number.isFinite(shift)) {
    throw new Error(
      `logSoftmax: expected finite logits, got a sum of exponentials of ${total} over a largest logit of ${top}. ` +
        'The weights or activations overflowed: check the checkpoint and the precision it was frozen in.',
    );
  }
  return Float64Array.from({ length: logits.length }, (_, i) => logits[i]! - shift);
}

function largest(values: ArrayLike<number>): number {
  let top = -Infinity;
  for (let i = 0; i < values.length; i++) if (values[i]! > top) top = values[i]!;
  return top;
}

/** Indices of the `count` largest values, largest first; of equal values the earlier first. */
export function topIndices(values: ArrayLike<number>, count: number): number[] {
  const best: number[] = [];
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (best.length === count && !(value > values[best[count - 1]!]!)) continue;
    let at = best.length;
    while (at > 0 && value > values[best[at - 1]!]!) at--;
    best.splice(at, 0, i);
    if (best.length > count) best.pop();
  }
  return best;
}
