/** All inputs of a cross-entropy except the logits. */
export interface CrossEntropyCase {
  readonly targets: readonly number[];
  readonly weights?: readonly number[];
  readonly labelSmoothing?: number;
  readonly reduction?: 'mean' | 'sum';
}

/** Cross-entropy of logits `[n, vocab]`, row by row and class by class. */
export function crossEntropyReference(logits: Float64Array, vocab: number, c: CrossEntropyCase): number {
  const { targets, labelSmoothing = 0 } = c;
  let [total, count] = [0, 0];
  targets.forEach((target, n) => {
    const weight = c.weights ? c.weights[n]! : 1;
    if (weight === 0) return;
    const row = logits.subarray(n * vocab, (n + 1) * vocab);
    const top = Math.max(...row);
    const logSum = top + Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - top), 0));
    row.forEach((logit, i) => {
      const wanted = (i === target ? 1 - labelSmoothing : 0) + labelSmoothing / vocab;
      total += weight * wanted * (logSum - logit);
    });
    count += weight;
  });
  return c.reduction === 'sum' ? total : count === 0 ? 0 : total / count;
}
