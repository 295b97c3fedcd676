import { shownText, TextReader, type AnswerText, type TextOptions } from './answer-text';
import { checkDecodingOptions } from './decoding-options';
import { logSoftmax, topIndices } from './log-probs';
import { logitsRule, nothingLeft, type RuleOptions } from './logits-rules';
import type { Stepper } from './session';

/** Options of a beam search. */
export interface BeamOptions extends RuleOptions, TextOptions {
  /** Maximum number of tokens of an answer, including the stop token. */
  readonly maxNewTokens: number;
  /** Tokens that end an answer. */
  readonly stopTokens?: readonly number[];
  /** Number of beams; the paper uses 3. */
  readonly beams: number;
  /**
   * Finished answers rank by log-likelihood / length ** lengthPenalty: values above 0 favor long answers, below 0 short
   * ones. Defaults to 0, the plain log-likelihood.
   */
  readonly lengthPenalty?: number;
  /**
   * When to stop once `beams` answers are finished. `true`: at once. `false` (default): when the best open beam at its
   * current length cannot beat the worst of them. `'never'`: the same at the length that favors it most.
   */
  readonly earlyStopping?: boolean | 'never';
  /**
   * Version of Hugging Face's rules. For lengths, `'current'` (default) counts the generated tokens including the stop token;
   * `'transformers-4.2x'`, with which OpenFlamingo was evaluated, counts the prompt but not the stop token.
   */
  readonly rules?: 'current' | 'transformers-4.2x';
}

/** One finished answer. */
export interface Hypothesis {
  /** Ids after the prompt, up to and including the stop token, or the token that completed a stop string, if any. */
  readonly tokens: readonly number[];
  /** Whether a stop token or a stop string ended it; otherwise it reached the maximum length. */
  readonly stopped: boolean;
  /** The score that the search ranks by; larger is better. Without beams, the log-likelihood by the model's own logits. */
  readonly score: number;
  /**
   * With a tokenizer: the text before the stop token or stop string, without an incomplete character at its end.
   */
  readonly text?: string;
  /** The stop string that ended it, if one did. */
  readonly stopString?: string;
}

interface Beam {
  readonly tokens: readonly number[];
  readonly logProb: number;
  /** Its row in the last call. */
  readonly row: number;
  /** Whether its last token ends it. */
  readonly stopped: boolean;
  readonly text?: AnswerText;
}

interface Search {
  readonly promptLength: number;
  /** Unfinished answers, best first. */
  open: Beam[];
  /** Finished answers, best first, at most `beams`. */
  finished: Hypothesis[];
  done: boolean;
}

type SearchOptions = Required<Pick<BeamOptions, 'maxNewTokens' | 'beams' | 'lengthPenalty' | 'earlyStopping'>>;
type Rules = (search: Search, candidates: readonly Beam[], length: number, options: SearchOptions) => void;

/** Beam search over any stepper: for each prompt up to `beams` finished answers, best first. */
export async function beamSearch(stepper: Stepper, options: BeamOptions): Promise<Hypothesis[][]> {
  checkDecodingOptions('beamSearch', options);
  const o = { stopTokens: [], lengthPenalty: 0, earlyStopping: false, rules: 'current', ...options } as const;
  const advance: Rules = o.rules === 'current' ? advanceCurrent : advanceLegacy;
  const rule = logitsRule(stepper.prompts, o);
  const reader = TextReader.of(o);
  // Each stop token may take the place of a candidate, so more candidates are needed.
  const keep = Math.max(2, 1 + o.stopTokens.length) * o.beams;
  const searches: Search[] = stepper.prompts.map((prompt, row) => ({
    promptLength: prompt.length,
    open: [{ tokens: [], logProb: 0, row, stopped: false, text: reader?.nothing }],
    finished: [],
    done: false,
  }));
  let logits = await stepper.start();
  for (let length = 1; ; length++) {
    searches.forEach((search, prompt) => {
      if (search.done) return;
      const candidates = bestCandidates(search.open, logits, keep, rule && ((s, answer) => rule(s, answer, prompt)));
      advance(search, withEndings(candidates, o.stopTokens, reader), length, o);
      if (search.done && search.finished.length === 0) throw nothingLeft(prompt, length - 1);
    });
    const open = searches.filter((search) => !search.done).flatMap((search) => search.open);
    if (open.length === 0) break;
    logits = await stepper.next(
      open.map((beam) => beam.row),
      open.map((beam) => beam.tokens.at(-1)!),
    );
    let row = 0;
    for (const search of searches) {
      if (!search.done) search.open = search.open.map((beam) => ({ ...beam, row: row++ }));
    }
  }
  return searches.map((search) => search.finished);
}

/** The most likely continuations by one token over all open beams, best first, without those that the rule excludes. */
function bestCandidates(
  open: readonly Beam[],
  logits: readonly Float32Array[],
  keep: number,
  rule: ((scores: Float64Array, answer: readonly number[]) => void) | undefined,
): Beam[] {
  const candidates = open.flatMap((beam) => {
    const row = logits[beam.row]!;
    const logProbs = logSoftmax(row);
    rule?.(logProbs, beam.tokens);
    const best = topIndices(rule ? logProbs : row, keep);
    return (rule ? best.filter((token) => logProbs[token]! > -Infinity) : best).map((token) => ({
      ...beam,
      tokens: [...beam.tokens, token],
      logProb: beam.logProb + logProbs[token]!,
    }));
  });
  return candidates.sort((a, b) => b.logProb - a.logProb).slice(0, keep);
}

/** Adds to each candidate the text of its last token, and whether that token ends it. */
function withEndings(
  candidates: readonly Beam[],
  stopTokens: readonly number[],
  reader: TextReader | undefined,
): readonly Beam[] {
  return candidates.map((beam) => {
    const token = beam.tokens.at(-1)!;
    if (stopTokens.includes(token)) return { ...beam, stopped: true };
    if (!reader) return beam;
    const text = reader.append(beam.text!, token);
    return { ...beam, text, stopped: text.stopString !== undefined };
  });
}

/** An ended candidate finishes only if it ranks among the first `beams`; the best others continue. */
const advanceCurrent: Rules = (search, candidates, length, o) => {
  const atLimit = length === o.maxNewTokens;
  candidates.slice(0, o.beams).forEach((beam) => {
    if (beam.stopped || atLimit) finish(search, beam, beam.logProb / length ** o.lengthPenalty, o.beams);
  });
  search.open = atLimit ? [] : candidates.filter((beam) => !beam.stopped).slice(0, o.beams);
  const best = search.open[0]?.logProb ?? -Infinity;
  const favored = o.earlyStopping === 'never' && o.lengthPenalty > 0 ? o.maxNewTokens : length;
  search.done = atLimit || !canImprove(search, best / favored ** o.lengthPenalty, o);
};

/** Like `advanceCurrent`, but lengths count the prompt and not the last token, and open beams become answers at the limit. */
const advanceLegacy: Rules = (search, candidates, length, o) => {
  const before = search.promptLength + length - 1;
  const open: Beam[] = [];
  candidates.forEach((beam, rank) => {
    if (!beam.stopped) {
      if (open.length < o.beams) open.push(beam);
    } else if (rank < o.beams) {
      finish(search, beam, beam.logProb / before ** o.lengthPenalty, o.beams);
    }
  });
  search.open = open;
  const favored = o.earlyStopping === 'never' && o.lengthPenalty > 0 ? search.promptLength + o.maxNewTokens : before;
  const best = candidates[0]?.logProb ?? -Infinity;
  search.done = !canImprove(search, best / favored ** o.lengthPenalty, o);
  if (!search.done && length === o.maxNewTokens) {
    for (const beam of open) finish(search, beam, beam.logProb / (before + 1) ** o.lengthPenalty, o.beams);
    search.done = true;
  }
};

/** Whether an open answer with at most this score could still enter the finished ones. */
function canImprove(search: Search, attainable: number, { beams, earlyStopping }: SearchOptions): boolean {
  if (search.finished.length < beams) return search.open.length > 0;
  return earlyStopping !== true && attainable > search.finished.at(-1)!.score;
}

function finish(search: Search, { tokens, stopped, text }: Beam, score: number, beams: number): void {
  const at = search.finished.findIndex((other) => score > other.score);
  const answer = { tokens, stopped, score, ...shownText(text) };
  search.finished.splice(at < 0 ? search.finished.length : at, 0, answer);
  search.finished.splice(beams);
}
