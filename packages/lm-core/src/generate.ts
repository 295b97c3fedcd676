import { Random } from '@flamingo-ts/kernels';
import { beamSearch, type BeamOptions, type Hypothesis } from './beam-search';
import type { CausalLM, LMContext } from './causal-lm';
import { logSoftmax, topIndices } from './log-probs';
import { checkSampling, drawToken, filterLogits, type SamplingOptions } from './sample';
import { DecodingSession, type ContextOption, type Stepper } from './session';

/**
 * How to continue a prompt. With `beams` above 1 a beam search; with any of `temperature`, `topK`, `topP` tokens are
 * drawn; otherwise the most likely token is taken.
 */
export interface GenerateOptions extends Partial<BeamOptions>, SamplingOptions {
  /** Longest answer, the stop token included. */
  readonly maxNewTokens: number;
  /** Seed of the draws. Default 0. */
  readonly seed?: number;
}

/** One way to choose the next token of a row: its index. */
type Choose = (logits: Float32Array, prompt: number) => number;

/** The most likely token at each step. */
export function greedy(
  stepper: Stepper,
  options: Pick<BeamOptions, 'maxNewTokens' | 'stopTokens'>,
): Promise<Hypothesis[]> {
  return tokenByToken(stepper, options, (logits) => topIndices(logits, 1)[0]!);
}

/** Tokens drawn from the filtered distribution, each prompt with a stream of its own: batching changes no draw. */
export function sample(
  stepper: Stepper,
  options: Pick<GenerateOptions, 'maxNewTokens' | 'stopTokens' | 'seed'> & SamplingOptions,
): Promise<Hypothesis[]> {
  checkSampling(options);
  const seed = new Random(options.seed ?? 0);
  const streams = stepper.promptLengths.map((_, prompt) => seed.fork(`prompt ${prompt}`));
  return tokenByToken(stepper, options, (logits, prompt) =>
    drawToken(filterLogits(logits, options), streams[prompt]!.uniform()),
  );
}

async function tokenByToken(
  stepper: Stepper,
  { maxNewTokens, stopTokens = [] }: Pick<BeamOptions, 'maxNewTokens' | 'stopTokens'>,
  choose: Choose,
): Promise<Hypothesis[]> {
  const answers = stepper.promptLengths.map(() => ({ tokens: [] as number[], stopped: false, score: 0 }));
  let open = answers.map((_, prompt) => prompt);
  let logits = await stepper.start();
  while (open.length > 0) {
    open.forEach((prompt, row) => {
      const answer = answers[prompt]!;
      const logProbs = logSoftmax(logits[row]!);
      const token = choose(logits[row]!, prompt);
      answer.tokens.push(token);
      answer.score += logProbs[token]!;
      answer.stopped = stopTokens.includes(token);
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
  return answers;
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
  const { beams = 1, maxNewTokens } = options;
  const draws = options.temperature !== undefined || options.topK !== undefined || options.topP !== undefined;
  checkCount('maxNewTokens', maxNewTokens);
  checkCount('beams', beams);
  if (draws && beams > 1) {
    throw new Error(
      `generate: expected either beams or temperature, topK and topP, got both (beams ${beams}). ` +
        'Leave out beams to draw tokens, or leave out the others to search.',
    );
  }
  const session = DecodingSession.open(lm, prompts, options.context);
  try {
    if (draws) return await sample(session, options);
    if (beams === 1) return await greedy(session, options);
    return (await beamSearch(session, { ...options, beams })).map((answers) => answers[0]!);
  } finally {
    session.dispose();
  }
}

function checkCount(name: string, value: number): void {
  if (!Number.isInteger(value) || value < 1) {
    throw new Error(`generate: ${name} must be a whole number of at least 1, got ${value}. Pass ${name}: 1 or more.`);
  }
}
