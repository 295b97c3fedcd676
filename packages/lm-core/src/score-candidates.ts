import type { CausalLM, LMContext } from './causal-lm';
import { logSoftmax } from './log-probs';
import { checkTokens, DecodingSession, type ContextOption } from './session';

/** How likely one candidate is after its prompt. */
export interface CandidateScore {
  /** Natural log-probability of each of its tokens, given the prompt and the tokens before. */
  readonly tokenLogProbs: readonly number[];
  /** Log-likelihood: the paper ranks closed-ended answers by it. */
  readonly sum: number;
  /** Log-likelihood per token. */
  readonly mean: number;
}

/** Rows per call of the model: limits the memory for many candidates. */
const ROWS_PER_CALL = 64;

/**
 * Scores candidate answers. Each prompt is read only once, and candidates of one token need no further call of the model.
 *
 * @param lm         any `CausalLM`
 * @param prompts    token ids, read as one batch, padded on the left
 * @param candidates for each prompt the token ids of its candidates
 * @returns          for each prompt the scores of its candidates, in their order
 */
export async function scoreCandidates<C extends LMContext>(
  lm: CausalLM<C>,
  prompts: readonly (readonly number[])[],
  candidates: readonly (readonly (readonly number[])[])[],
  ...[options]: LMContext extends C ? [options?: ContextOption<C>] : [options: ContextOption<C>]
): Promise<CandidateScore[][]> {
  if (candidates.length !== prompts.length) {
    throw new Error(
      `scoreCandidates: candidates must have one list per prompt, ${prompts.length} in total, got ${candidates.length}. ` +
        'For the same candidates for every prompt, pass prompts.map(() => candidates).',
    );
  }
  const rows = candidates.flatMap((list, prompt) =>
    list.map((tokens, i) => {
      checkTokens(`scoreCandidates: candidate ${i} of prompt ${prompt}`, tokens, lm.vocabSize);
      return { prompt, tokens, logProbs: [] as number[] };
    }),
  );
  const session = DecodingSession.open(lm, prompts, options?.context);
  try {
    const first = (await session.start()).map(logSoftmax);
    for (const row of rows) row.logProbs.push(first[row.prompt]![row.tokens[0]!]!);
    const longer = rows.filter((row) => row.tokens.length > 1);
    for (let from = 0; from < longer.length; from += ROWS_PER_CALL) {
      await scoreRest(session, longer.slice(from, from + ROWS_PER_CALL));
    }
  } finally {
    session.dispose();
  }
  let next = 0;
  return candidates.map((list) => list.map(() => toScore(rows[next++]!.logProbs)));
}

interface CandidateRow {
  readonly prompt: number;
  readonly tokens: readonly number[];
  readonly logProbs: number[];
}

async function scoreRest<C extends LMContext>(session: DecodingSession<C>, rows: CandidateRow[]): Promise<void> {
  const fork = session.fork(rows.map((row) => row.prompt));
  try {
    const logits = await fork.extend(rows.map((row) => row.tokens.slice(0, -1)));
    let next = 0;
    for (const row of rows) {
      for (const token of row.tokens.slice(1)) row.logProbs.push(logSoftmax(logits[next++]!)[token]!);
    }
  } finally {
    fork.dispose();
  }
}

function toScore(tokenLogProbs: readonly number[]): CandidateScore {
  const sum = tokenLogProbs.reduce((a, b) => a + b, 0);
  return { tokenLogProbs, sum, mean: sum / tokenLogProbs.length };
}
