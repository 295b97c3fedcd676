import { disposeParams, Random } from '@flamingo-ts/kernels';
import {
  checkCausalLM,
  DecodingSession,
  type CausalLM,
  type CausalLMReport,
  type ContextFactory,
  type LMContext,
} from '@flamingo-ts/lm-core';
import * as tf from '@tensorflow/tfjs-core';
import { interleave } from './interleave';
import { MediaContext, type MediaLMContext } from './media-context';

/** Options of `checkInterleaving`. */
export interface InterleavingOptions {
  /** Largest difference allowed, as a fraction of the largest logit. Defaults to 1e-4, which suits float32. */
  readonly tolerance?: number;
  /** Defaults to 1. */
  readonly seed?: number;
}

/** Differences measured by `checkInterleaving`. */
export interface InterleavingReport {
  /** Differences of the bare model. */
  readonly alone: CausalLMReport;
  /** Differences of the model with open gates and an image. */
  readonly seeing: CausalLMReport;
  /** How much another image changes the logits of the tokens that see it, as a fraction of the largest logit. */
  readonly seen: number;
  /** The same for a token before the image. */
  readonly blind: number;
}

/** Tokens before the image, and tokens after it that are read in one call; one more is read alone. */
const BLIND = 3;
const AFTER = 4;

/**
 * Checks that gated blocks work in a language model. It must meet the contract of `CausalLM`. Gated blocks with closed
 * gates must not change the logits of the bare model by a single bit. With open gates, an image must affect the logits of
 * the tokens that follow it, and only those. Run this check on your own language model before you train with it.
 *
 * @throws Error naming the check that failed
 */
export async function checkInterleaving(
  lm: CausalLM,
  { tolerance = 1e-4, seed = 1 }: InterleavingOptions = {},
): Promise<InterleavingReport> {
  const alone = await checkCausalLM(lm, { tolerance, seed });
  const random = new Random(seed);
  const tokens = Array.from({ length: BLIND + AFTER + 1 }, () => random.int(lm.vocabSize));
  const sizes = { hiddenSize: lm.hiddenSize, visualSize: 8, numHeads: 2, headDim: 4, intermediateSize: 16 };
  const variant = { activation: 'squared-relu', normMedia: true, every: 1, placement: 'paper' } as const;
  const gated = interleave(lm, { ...sizes, ...variant }, random);
  const [image, other] = [imagesOf(random), imagesOf(random)];
  try {
    const plain = await logitsOf(lm, tokens, ({ base }) => base);
    const closed = await logitsOf(gated, tokens, showing(image));
    const changed = plain.filter((logits, i) => logits.some((x, j) => x !== closed[i]![j]));
    if (changed.length > 0) {
      throw new Error(
        `checkInterleaving: closed gates must change nothing, but ${changed.length} of ${plain.length} rows of logits differ from the bare model's. ` +
          'The output of a block may depend only on the values of x and on the context: not on the block before it, and not on the identity of the tensor x.',
      );
    }

    for (const { params } of gated.gated) {
      tf.tidy(() => [params.attnGate, params.mlpGate].forEach((gate) => gate.assign(tf.ones([1]))));
    }
    const seeing = await checkCausalLM<MediaLMContext>(gated, { tolerance, seed, context: showing(image) });
    const [before, ...after] = differences(
      await logitsOf(gated, tokens, showing(image)),
      await logitsOf(gated, tokens, showing(other)),
    );
    const [blind, seen] = [before!, Math.min(...after)];
    if (!(blind <= tolerance) || !(seen > 0)) {
      throw new Error(
        `checkInterleaving: expected another image to change the logits of all tokens after it and of none before it, got a change of ` +
          `${seen.toExponential(1)} after and ${blind.toExponential(1)} before, of the largest logit. ` +
          'Blocks must use the x that they receive, and mix positions only in their causal attention.',
      );
    }
    return { alone, seeing, seen, blind };
  } finally {
    tf.dispose([image, other]);
    disposeParams(gated.params.xattn);
  }
}

/** The same image for two prompts, because `checkCausalLM` reads two and expects equal results. */
function imagesOf(random: Random): tf.Tensor4D {
  const latents = Array.from({ length: 3 * 8 }, () => random.normal());
  return tf.tensor4d([...latents, ...latents], [2, 1, 3, 8]);
}

/** Every text sees the image from its fourth token on. */
function showing(latents: tf.Tensor4D): ContextFactory<MediaLMContext> {
  return ({ base, tokens, prompts, padding, past }) => {
    const index = tokens.flatMap((row, r) => row.map((_, i) => (past + i - padding[r]! >= BLIND ? 1 : 0)));
    return { ...base, media: new MediaContext(latents, index, tokens[0]!.length, { owners: prompts }) };
  };
}

/** Logits from the last token before the image on: a prompt in one call, then several tokens, then one more. */
async function logitsOf<C extends LMContext>(
  lm: CausalLM<C>,
  tokens: readonly number[],
  contextOf: ContextFactory<C>,
): Promise<Float32Array[]> {
  const session = DecodingSession.open(lm, [tokens.slice(0, BLIND)], contextOf);
  try {
    const first = await session.start();
    const more = await session.extend([tokens.slice(BLIND, BLIND + AFTER)]);
    return [...first, ...more, ...(await session.next([0], tokens.slice(-1)))];
  } finally {
    session.dispose();
  }
}

/** Largest difference of each row, as a fraction of the largest logit. */
function differences(a: readonly Float32Array[], b: readonly Float32Array[]): number[] {
  const largest = (values: ArrayLike<number>) => Array.from(values).reduce((top, x) => Math.max(top, Math.abs(x)), 0);
  const scale = Math.max(...a.map(largest)) || 1;
  return a.map((row, i) => largest(row.map((x, j) => x - b[i]![j]!)) / scale);
}
