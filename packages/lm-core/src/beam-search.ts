import { logSoftmax, topIndices } from './log-probs';
import type { Stepper } from './session';

/** Settings of a beam search. */
export interface BeamOptions {
  /** Longest answer, the stop token included. */
  readonly maxNewTokens: number;
  /** Tokens that end an answer. */
  readonly stopTokens?: readonly number[];
  /** Answers followed at a time; the paper uses 3. */
  readonly beams: number;
  /**
   * A finished answer ranks by its log-likelihood / length ** lengthPenalty: above 0 favours long answers, below 0
   * short ones. Default 0: the plain log-likelihood.
   */
  readonly lengthPenalty?: number;
  /**
   * When to stop once `beams` answers are finished: `true` at once; `false` (default) when the best open beam, taken at
   * its present length, cannot beat the worst of them; `'never'` the same at the length most in its favour.
   */
  readonly earlyStopping?: boolean | 'never';
  /**
   * Which version of Hugging Face's rules. `'current'` (default) counts generated tokens, the stop token included;
   * `'transformers-4.2x'`, what OpenFlamingo was evaluated with, counts the prompt too and the stop token not.
   */
  readonly rules?: 'current' | 'transformers-4.2x';
}

/** One finished answer. */
export interface Hypothesis {
  /** Ids after the prompt, up to and including the stop token if there is one. */
  readonly tokens: readonly number[];
  /** Whether a stop token ended it; otherwise it reached the longest length. */
  readonly stopped: boolean;
  /** What the search ranks by, larger is better. */
  readonly score: number;
}

interface Beam {
  readonly tokens: readonly number[];
  readonly logProb: number;
  /** Row of the last call that holds it. */
  readonly row: number;
}

interface Search {
  readonly promptLength: number;
  /** Answers that go on, best first. */
  open: Beam[];
  /** Finished answers, best first, at most `beams`. */
  finished: Hypothesis[];
  done: boolean;
}

type Rules = (search: Search, candidates: readonly Beam[], length: number, options: Required<BeamOptions>) => void;

/** Beam search over any stepper: for each prompt up to `beams` finished answers, best first. */
export async function beamSearch(stepper: Stepper, options: BeamOptions): Promise<Hypothesis[][]> {
  const o = { stopTokens: [], lengthPenalty: 0, earlyStopping: false, rules: 'current', ...options } as const;
  const advance: Rules = o.rules === 'current' ? advanceCurrent : advanceLegacy;
  // Every stop token may take a candidate's place, so that many more are looked at.
  const keep = Math.max(2, 1 + o.stopTokens.length) * o.beams;
  const searches: Search[] = stepper.promptLengths.map((promptLength, row) => ({
    promptLength,
    open: [{ tokens: [], logProb: 0, row }],
    finished: [],
    done: false,
  }));
  let logits = await stepper.start();
  for (let length = 1; ; length++) {
    for (const search of searches) {
      if (!search.done) advance(search, bestCandidates(search.open, logits, keep), length, o);
    }
    const going = searches.filter((search) => !search.done).flatMap((search) => search.open);
    if (going.length === 0) break;
    logits = await stepper.next(
      going.map((beam) => beam.row),
      going.map((beam) => beam.tokens.at(-1)!),
    );
    let row = 0;
    for (const search of searches) {
      if (!search.done) search.open = search.open.map((beam) => ({ ...beam, row: row++ }));
    }
  }
  return searches.map((search) => search.finished);
}

/** The most likely continuations by one token of all open beams together, best first. */
function bestCandidates(open: readonly Beam[], logits: readonly Float32Array[], keep: number): Beam[] {
  const candidates = open.flatMap((beam) => {
    const row = logits[beam.row]!;
    const logProbs = logSoftmax(row);
    return topIndices(row, keep).map((token) => ({
      tokens: [...beam.tokens, token],
      logProb: beam.logProb + logProbs[token]!,
      row: beam.row,
    }));
  });
  return candidates.sort((a, b) => b.logProb - a.logProb).slice(0, keep);
}

/** A stop token finishes an answer only if it ranks among the first `beams`; the best others go on. */
const advanceCurrent: Rules = (search, candidates, length, o) => {
  const isStop = (beam: Beam) => o.stopTokens.includes(beam.tokens.at(-1)!);
  const atLimit = length === o.maxNewTokens;
  candidates.slice(0, o.beams).forEach((beam) => {
    if (isStop(beam) || atLimit) {
      finish(search, { ...beam, stopped: isStop(beam), score: beam.logProb / length ** o.lengthPenalty }, o.beams);
    }
  });
  search.open = atLimit ? [] : candidates.filter((beam) => !isStop(beam)).slice(0, o.beams);
  const best = search.open[0]?.logProb ?? -Infinity;
  const favoured = o.earlyStopping === 'never' && o.lengthPenalty > 0 ? o.maxNewTokens : length;
  search.done = atLimit || !canImprove(search, best / favoured ** o.lengthPenalty, o);
};

/** As above, but lengths count the prompt and not the stop token, and open beams count as answers at the limit. */
const advanceLegacy: Rules = (search, candidates, length, o) => {
  const before = search.promptLength + length - 1;
  const open: Beam[] = [];
  candidates.forEach((beam, rank) => {
    if (!o.stopTokens.includes(beam.tokens.at(-1)!)) {
      if (open.length < o.beams) open.push(beam);
    } else if (rank < o.beams) {
      finish(search, { ...beam, stopped: true, score: beam.logProb / before ** o.lengthPenalty }, o.beams);
    }
  });
  search.open = open;
  const favoured = o.earlyStopping === 'never' && o.lengthPenalty > 0 ? search.promptLength + o.maxNewTokens : before;
  search.done = !canImprove(search, candidates[0]!.logProb / favoured ** o.lengthPenalty, o);
  if (!search.done && length === o.maxNewTokens) {
    for (const beam of open) {
      finish(search, { ...beam, stopped: false, score: beam.logProb / (before + 1) ** o.lengthPenalty }, o.beams);
    }
    search.done = true;
  }
};

/** Whether an answer still open, at best of this score, could enter the finished ones. */
function canImprove(search: Search, attainable: number, { beams, earlyStopping }: Required<BeamOptions>): boolean {
  if (search.finished.length < beams) return search.open.length > 0;
  return earlyStopping !== true && attainable > search.finished.at(-1)!.score;
}

function finish(search: Search, { tokens, stopped, score }: Hypothesis, beams: number): void {
  const at = search.finished.findIndex((other) => score > other.score);
  search.finished.splice(at < 0 ? search.finished.length : at, 0, { tokens, stopped, score });
  search.finished.splice(beams);
}
