/** Candidates from the most to the least likely, with their probabilities. */
export interface Ranking {
  /** Indices of candidates, best first; ties keep their order. */
  readonly order: readonly number[];
  /** Softmax over the candidates, in their own order. */
  readonly probabilities: readonly number[];
}

/** Ranks the candidates of a closed-ended task by the log-likelihoods of their texts. */
export function rankCandidates(logLikelihoods: ArrayLike<number>): Ranking {
  const scores = Array.from(logLikelihoods);
  const order = scores.map((_, i) => i).sort((a, b) => scores[b]! - scores[a]! || a - b);
  const best = scores[order[0]!] ?? 0;
  const exps = scores.map((score) => Math.exp(score - best));
  const total = exps.reduce((a, b) => a + b, 0);
  return { order, probabilities: exps.map((e) => e / total) };
}

/** The paper's prompt ensembling: the mean log-likelihood of each candidate over prompts that order the shots differently. */
export function ensembleScores(perPrompt: readonly ArrayLike<number>[]): number[] {
  const first = perPrompt[0];
  if (!first) throw new Error('ensembleScores: perPrompt is empty. Pass the scores of at least one prompt.');
  return Array.from(first, (_, c) => perPrompt.reduce((sum, scores) => sum + scores[c]!, 0) / perPrompt.length);
}

/**
 * Area under the ROC curve: the probability that a positive scores above a negative; a tie counts as half.
 *
 * @param labels true for positives
 */
export function rocAuc(scores: ArrayLike<number>, labels: readonly boolean[]): number {
  const positives = labels.filter(Boolean).length;
  const negatives = labels.length - positives;
  if (scores.length !== labels.length || positives === 0 || negatives === 0) {
    throw new Error(
      `rocAuc: expected one score per label and labels of both kinds, got ${scores.length} scores, ${positives} positive ` +
        `and ${negatives} negative labels.`,
    );
  }
  const order = labels.map((_, i) => i).sort((a, b) => scores[a]! - scores[b]!);
  let rankSum = 0;
  for (let start = 0; start < order.length;) {
    let end = start + 1;
    while (end < order.length && scores[order[end]!] === scores[order[start]!]) end++;
    // Equal scores share the mean of their ranks start + 1 ... end.
    for (let i = start; i < end; i++) if (labels[order[i]!]) rankSum += (start + 1 + end) / 2;
    start = end;
  }
  return (rankSum - (positives * (positives + 1)) / 2) / (positives * negatives);
}
