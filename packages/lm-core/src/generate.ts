import { Random } from '@flamingo-ts/kernels';
import { shownText, TextReader, type AnswerText } from './answer-text';
import { beamSearch, type BeamOptions, type Hypothesis } from './beam-search';
import type { CausalLM, LMContext } from './causal-lm';
import { checkDecodingOptions } from './decoding-options';
import { logSoftmax, topIndices } from './log-probs';
import { logitsRule, nothingLeft, type LogitsRule } from './logits-rules';
import { drawToken, filtered, type SamplingOptions } from './sample';
import { checkTokens, DecodingSession, type ContextOption, type Stepper } from './session';

/**
 * How to continue a prompt: beam search if `beams` is above 1; sampling if `temperature`, `topK` or `topP` is given;
 * otherwise greedy decoding.
 */
export interface GenerateOptions extends Partial<BeamOptions>, SamplingOptions {
  /** Maximum number of tokens of an answer, including the stop token. */
  readonly maxNewTokens: number;
  /** Seed for sampling. Defaults to 0. */
  readonly seed?: number;
  /**
   * Called with each token as soon as it is chosen; an error that it throws ends decoding. Not supported with `beams`,
   * because the best answer is known only at the end.
   */
  readonly onToken?: (piece: AnswerPiece) => void;
}

/** One token of an answer in progress. */
export interface AnswerPiece {
  /** Index of its prompt. */
  readonly prompt: number;
  readonly token: number;
  /**
   * New text of the answer that can no longer change: complete characters that cannot be part of a stop string. All pieces
   * of an answer joined are its `text`. Empty without a tokenizer.
   */
  readonly text: string;
}

/** Chooses the next token of a row. */
type Choose = (logits: Float32Array, prompt: number) => number;

/** Options shared by greedy decoding and sampling. */
type TokenOptions = Omit<BeamOptions, 'beams' | 'lengthPenalty' | 'earlyStopping' | 'rules'> &
  Pick<GenerateOptions, 'onToken'>;

/** Decodes with the most likely token at each step. */
export function greedy(stepper: Stepper, options: TokenOptions): Promise<Hypothesis[]> {
  return tokenByToken(stepper, options, (logits) => topIndices(logits, 1)[0]!);
}

/** Samples from the filtered distribution. Each prompt has its own random stream, so batching does not change the results. */
export function sample(
  stepper: Stepper,
  options: TokenOptions & Pick<GenerateOptions, 'seed'> & SamplingOptions,
): Promise<Hypothesis[]> {
  const seed = new Random(options.seed ?? 0);
  const streams = stepper.prompts.map((_, prompt) => seed.fork(`prompt ${prompt}`));
  return tokenByToken(stepper, options, (logits, prompt) =>
    drawToken(filtered(logits, options), streams[prompt]!.uniform()),
  );
}

/** An answer in progress. */
interface Answer {
  readonly tokens: number[];
  stopped: boolean;
  score: number;
  text: AnswerText | undefined;
  /** Number of characters already passed to `onToken`. */
  sent: number;
}

async function tokenByToken(stepper: Stepper, options: TokenOptions, choose: Choose): Promise<Hypothesis[]> {
  checkDecodingOptions('generate', options);
  const { maxNewTokens, stopTokens = [], onToken } = options;
  const rule = logitsRule(stepper.prompts, options);
  const reader = TextReader.of(options);
  const answers = stepper.prompts.map((): Answer => ({
    tokens: [],
    stopped: false,
    score: 0,
    text: reader?.nothing,
    sent: 0,
  }));
  let open = answers.map((_, prompt) => prompt);
  let logits = await stepper.start();
  while (open.length > 0) {
    open.forEach((prompt, row) => {
      const answer = answers[prompt]!;
      const logProbs = logSoftmax(logits[row]!);
      const token = choose(rule ? ruled(rule, logits[row]!, answer.tokens, prompt) : logits[row]!, prompt);
      answer.tokens.push(token);
      answer.score += logProbs[token]!;
      const isStop = stopTokens.includes(token);
      if (reader && !isStop) answer.text = reader.append(answer.text!, token);
      answer.stopped = isStop || answer.text?.stopString !== undefined;
      if (onToken) {
        const isLast = answer.stopped || answer.tokens.length === maxNewTokens;
        onToken({ prompt, token, text: reader ? newText(answer, reader, isLast) : '' });
      }
    });
    const parents: number[] = [];
    open = open.filter((prompt, row) => {
      const continues = !answers[prompt]!.stopped && answers[prompt]!.tokens.length < maxNewTokens;
      if (continues) parents.push(row);
      return continues;
    });
    // Finished rows leave the batch.
    if (open.length > 0)
      logits = await stepper.next(
        parents,
        open.map((prompt) => answers[prompt]!.tokens.at(-1)!),
      );
  }
  return answers.map(({ tokens, stopped, score, text }) => ({ tokens, stopped, score, ...shownText(text) }));
}

/** A copy of the logits with the rule applied. */
function ruled(rule: LogitsRule, logits: Float32Array, answer: readonly number[], prompt: number): Float32Array {
  const scores = logits.slice();
  rule(scores, answer, prompt);
  if (!scores.some((score) => score > -Infinity)) throw nothingLeft(prompt, answer.length);
  return scores;
}

/** Text that can no longer change and was not returned before; at the end of an answer, all the rest. */
function newText(answer: Answer, reader: TextReader, isLast: boolean): string {
  const { text } = answer.text!;
  const from = answer.sent;
  answer.sent = isLast ? text.length : reader.certain(text);
  return text.slice(from, answer.sent);
}

/**
 * Continues each prompt.
 *
 * @param lm      any `CausalLM`
 * @param prompts token ids, read as one batch, padded on the left
 * @param options `context` makes the context of each call for a model that needs more than text
 * @returns       the best answer to each prompt, including the stop token
 * @throws Error naming the first option that is unknown or out of range
 */
export async function generate<C extends LMContext>(
  lm: CausalLM<C>,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions & ContextOption<C>,
): Promise<Hypothesis[]> {
  checkDecodingOptions('generate', options);
  const { beams = 1 } = options;
  const draws = options.temperature !== undefined || options.topK !== undefined || options.topP !== undefined;
  if (draws && beams > 1) {
    throw new Error(
      `generate: expected either beams or temperature, topK and topP, got both (beams ${beams}). ` +
        'Omit beams to sample, or omit the others to use beam search.',
    );
  }
  if (options.onToken && beams > 1) {
    throw new Error(
      `generate: onToken works for greedy and sampled decoding, got ${beams} beams, whose best answer is known only at ` +
        'the end. Omit beams or onToken.',
    );
  }
  options.allowedAnswers?.forEach((answers, prompt) =>
    answers.forEach((answer, i) => {
      checkTokens(`generate: allowed answer ${i} of prompt ${prompt}`, answer, lm.vocabSize);
    }),
  );
  const session = DecodingSession.open(lm, prompts, options.context);
  try {
    if (draws) return await sample(session, options);
    if (beams === 1) return await greedy(session, options);
    return (await beamSearch(session, { ...options, beams })).map((answers) => answers[0]!);
  } finally {
    session.dispose();
  }
}
