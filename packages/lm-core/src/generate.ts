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
 * How to continue a prompt. With `beams` above 1 a beam search; with any of `temperature`, `topK`, `topP` tokens are
 * drawn; otherwise the most likely token is taken.
 */
export interface GenerateOptions extends Partial<BeamOptions>, SamplingOptions {
  /** Longest answer, the stop token included. */
  readonly maxNewTokens: number;
  /** Seed of the draws. Default 0. */
  readonly seed?: number;
  /**
   * Called with every token as soon as it is chosen; what it throws ends the decoding. Not with `beams`: which answer is
   * the best is known at the end.
   */
  readonly onToken?: (piece: AnswerPiece) => void;
}

/** One token of an answer that is being made. */
export interface AnswerPiece {
  /** Position of its prompt in the list of prompts. */
  readonly prompt: number;
  readonly token: number;
  /**
   * What is new in the answer's text and will not change: complete characters, and none that may begin a stop string.
   * The pieces of an answer joined are its `text`. Empty without a tokenizer.
   */
  readonly text: string;
}

/** One way to choose the next token of a row: its index. */
type Choose = (logits: Float32Array, prompt: number) => number;

/** What decoding token by token heeds of the options, however the token is chosen. */
type TokenOptions = Omit<BeamOptions, 'beams' | 'lengthPenalty' | 'earlyStopping' | 'rules'> &
  Pick<GenerateOptions, 'onToken'>;

/** The most likely token at each step. */
export function greedy(stepper: Stepper, options: TokenOptions): Promise<Hypothesis[]> {
  return tokenByToken(stepper, options, (logits) => topIndices(logits, 1)[0]!);
}

/** Tokens drawn from the filtered distribution, each prompt with a stream of its own: batching changes no draw. */
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

/** An answer while it is made. */
interface Answer {
  readonly tokens: number[];
  stopped: boolean;
  score: number;
  text: AnswerText | undefined;
  /** How much of the text has been handed out. */
  told: number;
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
    told: 0,
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
        const over = answer.stopped || answer.tokens.length === maxNewTokens;
        onToken({ prompt, token, text: reader ? news(answer, reader, over) : '' });
      }
    });
    const parents: number[] = [];
    open = open.filter((prompt, row) => {
      const goesOn = !answers[prompt]!.stopped && answers[prompt]!.tokens.length < maxNewTokens;
      if (goesOn) parents.push(row);
      return goesOn;
    });
    // Rows that are done leave the batch.
    if (open.length > 0)
      logits = await stepper.next(
        parents,
        open.map((prompt) => answers[prompt]!.tokens.at(-1)!),
      );
  }
  return answers.map(({ tokens, stopped, score, text }) => ({ tokens, stopped, score, ...shownText(text) }));
}

/** A copy of the logits with the rule applied; the stepper's own stay as they are. */
function ruled(rule: LogitsRule, logits: Float32Array, answer: readonly number[], prompt: number): Float32Array {
  const scores = logits.slice();
  rule(scores, answer, prompt);
  if (!scores.some((score) => score > -Infinity)) throw nothingLeft(prompt, answer.length);
  return scores;
}

/** Text that has become certain since this was asked last; at the end of an answer all of it is. */
function news(answer: Answer, reader: TextReader, over: boolean): string {
  const { text } = answer.text!;
  const from = answer.told;
  answer.told = over ? text.length : reader.certain(text);
  return text.slice(from, answer.told);
}

/**
 * Continues each prompt.
 *
 * @param lm      any `CausalLM`
 * @param prompts token ids; several are read as one batch, padded left
 * @param options how; `context` makes the context of each call for a model that wants more than text
 * @returns       the best answer to each prompt, the stop token included
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
        'Leave out beams to draw tokens, or leave out the others to search.',
    );
  }
  if (options.onToken && beams > 1) {
    throw new Error(
      `generate: onToken works for greedy and sampled decoding, got ${beams} beams, whose best answer is known only at ` +
        'the end. Leave out beams or onToken.',
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
