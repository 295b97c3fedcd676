import * as tf from '@tensorflow/tfjs-core';
import { checkConfig, Random, rule } from '@flamingo-ts/kernels';
import { hiddenStates, type CausalLM, type LMContext } from './causal-lm';
import { DecodingSession, type ContextFactory, type ContextOption } from './session';

/** Options of `checkCausalLM`. */
export interface CheckOptions {
  /** Tokens per text. Defaults to 10. */
  readonly text?: number;
  /** Largest difference allowed, as a fraction of the largest logit. Defaults to 1e-4, which suits float32. */
  readonly tolerance?: number;
  /** Defaults to 1. */
  readonly seed?: number;
}

const RULES = {
  text: rule.optional(rule.integer({ min: 2 })),
  tolerance: rule.optional(rule.number({ min: 0 })),
  seed: rule.optional(rule.integer()),
  context: rule.optional(rule.callback),
};

/** Largest difference found for each property, as a fraction of the largest logit. */
export interface CausalLMReport {
  /** A token does not change logits before it. */
  readonly causality: number;
  /** Logits of chosen rows equal those rows of all logits. */
  readonly positionWise: number;
  /** Token by token with a cache equals one call. */
  readonly incremental: number;
  /** Masked padding on the right changes nothing. */
  readonly rightPadding: number;
  /** Masked padding on the left changes nothing, also with a cache. */
  readonly leftPadding: number;
}

/**
 * Checks the properties that decoding, training and gated blocks rely on, with random tokens. Run it on your own model.
 *
 * @throws Error naming every property that fails and by how much
 */
export async function checkCausalLM<C extends LMContext>(
  lm: CausalLM<C>,
  ...[options]: LMContext extends C ? [options?: CheckOptions & ContextOption<C>] : [CheckOptions & ContextOption<C>]
): Promise<CausalLMReport> {
  checkConfig<CheckOptions & { readonly context?: unknown }>('checkCausalLM', options ?? {}, RULES);
  const { text = 10, tolerance = 1e-4, seed = 1 } = options ?? {};
  const contextOf: ContextFactory<C> = options?.context ?? ((call) => call.base as C);
  const random = new Random(seed);
  const tokens = Array.from({ length: text }, () => random.int(lm.vocabSize));
  const full = await logitsOf(lm, tokens, contextOf);
  const scale = full.flat().reduce((top, x) => Math.max(top, Math.abs(x)), 0) || 1;
  const difference = (a: readonly ArrayLike<number>[], b: readonly ArrayLike<number>[]) => largestGap(a, b) / scale;

  const changed = [...tokens.slice(0, -1), (tokens.at(-1)! + 1) % lm.vocabSize];
  const head = Math.ceil(text / 2);
  const report: CausalLMReport = {
    causality: difference((await logitsOf(lm, changed, contextOf)).slice(0, -1), full.slice(0, -1)),
    positionWise: difference(await logitsOf(lm, tokens, contextOf, { rows: [head] }), [full[head]!]),
    incremental: difference(await decoded(lm, [tokens], head, contextOf), full.slice(head - 1)),
    rightPadding: difference((await logitsOf(lm, tokens, contextOf, { padding: 3 })).slice(0, text), full),
    leftPadding: difference(
      // The first row is the longest, so that the second is padded.
      await decoded(lm, [[...tokens, ...tokens.slice(0, 3)], tokens], head, contextOf),
      full.slice(head - 1),
    ),
  };
  const broken = Object.entries(report).filter(([, gap]) => !(gap <= tolerance));
  if (broken.length > 0) {
    throw new Error(
      `checkCausalLM: expected differences of at most ${tolerance} of the largest logit, got ` +
        `${broken.map(([name, gap]) => `${name} ${(gap as number).toExponential(1)}`).join(', ')}. ` +
        'See CausalLMReport for what each name means; positions must come from keyMask and cache, never from the shape alone.',
    );
  }
  return report;
}

/** Logits of one text in one call, by position; optionally with `padding` tokens after it, or for chosen `rows` only. */
async function logitsOf<C extends LMContext>(
  lm: CausalLM<C>,
  tokens: readonly number[],
  contextOf: ContextFactory<C>,
  { padding = 0, rows }: { padding?: number; rows?: readonly number[] } = {},
): Promise<number[][]> {
  const padded = [...tokens, ...new Array<number>(padding).fill(0)];
  const logits = tf.tidy(() => {
    const mask = padded.map((_, i) => (i < tokens.length ? 1 : 0));
    const context = contextOf({
      base: padding ? { keyMask: tf.tensor2d(mask, [1, padded.length]) } : {},
      tokens: [padded],
      prompts: [0],
      padding: [0],
      past: 0,
    });
    const x = hiddenStates(lm, tf.tensor2d(padded, [1, padded.length], 'int32'), context);
    const chosen = rows ? tf.gather(x, tf.tensor1d([...rows], 'int32'), 1) : x;
    return tf.squeeze(lm.logits(chosen), [0]);
  });
  const values = (await logits.array()) as number[][];
  logits.dispose();
  return values;
}

/**
 * Logits of the last text, from position `head - 1` on: its first `head` tokens are read as a prompt, in a batch with the
 * other texts, and the rest is fed token by token.
 */
async function decoded<C extends LMContext>(
  lm: CausalLM<C>,
  texts: readonly (readonly number[])[],
  head: number,
  contextOf: ContextFactory<C>,
): Promise<Float32Array[]> {
  const steps = texts.at(-1)!.length - head;
  const prompts = texts.map((text) => text.slice(0, text.length - steps));
  const session = DecodingSession.open(lm, prompts, contextOf);
  const parents = texts.map((_, i) => i);
  const logits = [(await session.start()).at(-1)!];
  for (let step = 0; step < steps; step++) {
    const next = texts.map((text) => text[text.length - steps + step]!);
    logits.push((await session.next(parents, next)).at(-1)!);
  }
  session.dispose();
  return logits;
}

function largestGap(a: readonly ArrayLike<number>[], b: readonly ArrayLike<number>[]): number {
  let gap = 0;
  a.forEach((row, i) => {
    for (let j = 0; j < row.length; j++) {
      const d = Math.abs(row[j]! - b[i]![j]!);
      gap = Math.max(gap, d); // NaN stays NaN
    }
  });
  return gap;
}
