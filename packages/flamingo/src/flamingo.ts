import {
  checkConfig,
  constantSpec,
  expectParams,
  expectRandom,
  freezeParams,
  freshParams,
  loadState,
  retire,
  rule,
  shapesOf,
  stateOf,
  type ConfigRules,
  type FrozenPrecision,
  type ParamsOf,
  type Random,
  type StateTensor,
} from '@flamingo-ts/kernels';
import {
  initInterleave,
  InterleavedLM,
  interleaveRules,
  interleaveSpecs,
  MediaContext,
  type InterleaveConfig,
  type MediaLMContext,
} from '@flamingo-ts/gated-xattn';
import {
  countedLoss,
  countedRows,
  generate,
  hiddenStates,
  scoreCandidates,
  type CandidateScore,
  type CausalLM,
  type ContextFactory,
  type GenerateOptions,
  type Hypothesis,
  type LMContext,
} from '@flamingo-ts/lm-core';
import {
  initResampler,
  PerceiverResampler,
  resamplerRules,
  resamplerSpecs,
  type ResamplerConfig,
} from '@flamingo-ts/perceiver-resampler';
import * as tf from '@tensorflow/tfjs-core';
import {
  expectBatch,
  expectMediaBatch,
  nextTokens,
  promptMediaIndex,
  stackVisuals,
  type FlamingoBatch,
  type FlamingoPrompt,
  type MediaBatch,
} from './inputs';
import { TrainedTokens } from './trained-tokens';
import { visualFeatures, type VisionEncoder, type Visual } from './vision';

// --- Config and params ---

/** Sizes of the trained layers between a vision encoder and a language model. */
export interface FlamingoConfig {
  readonly resampler: ResamplerConfig;
  readonly xattn: InterleaveConfig;
  /** Ids of `<image>` and `<EOC>` in the language model's vocabulary. */
  readonly tokens: { readonly image: number; readonly endOfChunk: number };
  /**
   * Trains the special tokens' rows of a head that is not tied to the embedding. Without it the model hardly learns to
   * end an answer with `<EOC>`. Requires a language model that is a `SeparateHead`. Defaults to false.
   */
  readonly separateHead?: boolean;
}

const RULES: ConfigRules<FlamingoConfig> = {
  resampler: rule.object(resamplerRules),
  xattn: rule.object(interleaveRules),
  tokens: rule.object({ image: rule.integer({ min: 0 }), endOfChunk: rule.integer({ min: 0 }) }),
  separateHead: rule.optional(rule.boolean),
};

/** Specs of all trained parameters, for a language model of `numLayers` blocks. */
export function flamingoSpecs(config: FlamingoConfig, numLayers: number) {
  return {
    resampler: resamplerSpecs(config.resampler),
    xattn: interleaveSpecs(config.xattn, numLayers),
    ...offsetSpecs(config),
  };
}

/** `[2, hiddenSize]` each: what training adds to the rows of `<image>` and `<EOC>` in embedding and separate head. */
function offsetSpecs({ xattn, separateHead }: FlamingoConfig) {
  return {
    tokenOffsets: constantSpec([2, xattn.hiddenSize], 0),
    ...(separateHead && { headOffsets: constantSpec([2, xattn.hiddenSize], 0) }),
  };
}

/** All trained parameters; encoder and language model stay frozen. Paths joined by dots are names in a checkpoint. */
export type FlamingoParams = ParamsOf<ReturnType<typeof flamingoSpecs>>;

/** Fresh parameters for a language model of `numLayers` blocks. All gates are 0, so its output is unchanged at first. */
export function initFlamingo(config: FlamingoConfig, numLayers: number, random: Random): FlamingoParams {
  checkConfig('initFlamingo', config, RULES);
  expectRandom('initFlamingo', random);
  return {
    resampler: initResampler(config.resampler, random.fork('resampler')),
    xattn: initInterleave(config.xattn, numLayers, random.fork('xattn')),
    ...freshParams(offsetSpecs(config), random),
  };
}

/** The frozen models that Flamingo builds on. */
export interface FlamingoParts<C extends LMContext = LMContext> {
  readonly lm: CausalLM<C>;
  /** Required for images given as pixels. */
  readonly vision?: VisionEncoder;
}

// --- Model ---

/** Images of prompts, encoded once for all steps of decoding. */
export interface PreparedMedia<C extends LMContext = LMContext> {
  /** Makes the context of each call of `model.lm` for these prompts. */
  readonly context: ContextFactory<MediaLMContext<C>>;
  dispose(): void;
}

/** A visual language model (Alayrac et al. 2022): vision encoder, resampler, and a language model with gated blocks. */
export class Flamingo<C extends LMContext = LMContext> {
  /** The language model with gated blocks and trained special tokens; works with every tool for a `CausalLM`. */
  readonly lm: InterleavedLM<C>;
  readonly resampler: PerceiverResampler;

  constructor(
    readonly config: FlamingoConfig,
    readonly params: FlamingoParams,
    readonly parts: FlamingoParts<C>,
  ) {
    checkConfig('Flamingo', config, RULES);
    checkWidths(config, parts.vision);
    const { resampler: _, xattn: __, ...offsets } = params;
    expectParams('Flamingo', offsets, shapesOf(offsetSpecs(config)));
    const { image, endOfChunk } = config.tokens;
    const lm = new TrainedTokens(parts.lm, [image, endOfChunk], params.tokenOffsets, params.headOffsets);
    this.lm = new InterleavedLM(lm, config.xattn, params.xattn);
    this.resampler = new PerceiverResampler(config.resampler, params.resampler);
  }

  /**
   * Turns images into the input of the gated blocks: features, latents, and projected latents.
   *
   * @returns float32 `[batch, media, numLatents, xattn.visualSize]`
   */
  latents(visual: Visual): tf.Tensor4D {
    return tf.tidy(() => this.lm.projectMedia(this.resampler.apply(visualFeatures(visual, this.parts.vision))));
  }

  /**
   * Encodes the images of a batch for the context of a call of `lm`; undefined without images.
   *
   * @throws Error if images and media index do not fit each other
   */
  encodeMedia(batch: MediaBatch): MediaContext | undefined {
    expectMediaBatch('Flamingo.encodeMedia', batch);
    const { text, mediaIndex, visual } = batch;
    return visual?.shape[1] ? new MediaContext(this.latents(visual), mediaIndex, text) : undefined;
  }

  /**
   * Mean cross-entropy over the tokens that count, or 0 if none does: the term of one dataset in the paper's objective
   * (equation 2). For `tf.variableGrads(() => model.loss(batch), ...)` over the variables of `params`.
   *
   * The head runs only on the counted positions, in chunks, so that the full logits are never in memory. Of the head's
   * parameters, only the offsets of the special tokens get gradients.
   *
   * @param head variables of the language model's final norm and head that are trained too
   * @throws Error if the batch is malformed, or has more `<image>` tokens than images
   */
  loss(batch: FlamingoBatch, head: Readonly<Record<string, tf.Variable>> = {}): tf.Scalar {
    expectBatch('Flamingo.loss', batch, this.config.tokens.image);
    const { size, text } = batch;
    return tf.tidy(() => {
      const tokens = tf.tensor2d(batch.tokens, [size, text], 'int32');
      const context = { media: this.encodeMedia(batch) } as MediaLMContext<C>;
      const hidden = tf.reshape(hiddenStates(this.lm, tokens, context), [size * text, this.lm.hiddenSize]);
      const { tokenOffsets, headOffsets } = this.params;
      const offsets = { tokenOffsets, ...(headOffsets && { headOffsets }) };
      return countedLoss(this.lm, hidden, countedRows(nextTokens(batch)), { ...head, ...offsets });
    });
  }

  /**
   * Continues each prompt up to and including its first stop token, by default `<EOC>`.
   *
   * @throws Error if a prompt does not have one image for each `<image>` token
   */
  async generate(prompts: readonly FlamingoPrompt[], options: GenerateOptions): Promise<Hypothesis[]> {
    const media = this.prepare(prompts);
    const stopTokens = options.stopTokens ?? [this.config.tokens.endOfChunk];
    const decoding = { ...options, stopTokens, context: media.context };
    try {
      return await generate<MediaLMContext<C>>(this.lm, tokensOf(prompts), decoding as never);
    } finally {
      media.dispose();
    }
  }

  /**
   * Sum and mean log-likelihood of each candidate answer after its prompt. Each prompt is read once.
   *
   * @param candidates token ids of the candidates, by prompt
   * @throws Error if a prompt does not have one image for each `<image>` token
   */
  async score(
    prompts: readonly FlamingoPrompt[],
    candidates: readonly (readonly (readonly number[])[])[],
  ): Promise<CandidateScore[][]> {
    const media = this.prepare(prompts);
    const options = { context: media.context };
    try {
      return await scoreCandidates<MediaLMContext<C>>(this.lm, tokensOf(prompts), candidates, options as never);
    } finally {
      media.dispose();
    }
  }

  /**
   * Encodes the images of prompts and computes their keys and values for all gated blocks, once for a whole decoding.
   * Generated tokens see the last image of their prompt. For use with `DecodingSession` of lm-core.
   *
   * @throws Error if a prompt does not have one image for each `<image>` token
   */
  prepare(prompts: readonly FlamingoPrompt[]): PreparedMedia<C> {
    const indices = prompts.map((prompt, i) => promptMediaIndex(prompt, i, this.config.tokens.image));
    const visual = stackVisuals(prompts);
    if (!visual) return { context: ({ base }) => base as MediaLMContext<C>, dispose: () => undefined };
    const latents = this.latents(visual);
    const keysValues = this.lm.mediaKeysValues(latents);
    return {
      context: ({ base, tokens, prompts: owners, padding, past }) => {
        const text = tokens[0]!.length;
        const mediaIndex = owners.flatMap((prompt, row) => {
          const index = indices[prompt]!;
          if (past > 0) return new Array<number>(text).fill(index.at(-1)!);
          return [...new Array<number>(padding[row]!).fill(0), ...index];
        });
        const media = new MediaContext(latents, mediaIndex, text, { owners, keysValues });
        return { ...base, media } as MediaLMContext<C>;
      },
      dispose: () => tf.dispose([latents, ...keysValues.flatMap(({ keys, values }) => [keys, values])]),
    };
  }

  /**
   * Packs the matrices of resampler and gated blocks for inference, which decides the speed for single tokens. Frees the
   * variables that it replaces; any further use of this object throws. Encoder and language model have their own `freeze`.
   */
  async freeze(precision: FrozenPrecision = 'float32'): Promise<Flamingo<C>> {
    const { resampler, xattn, ...offsets } = this.params;
    const isMatrix = (name: string, { rank }: tf.Variable) => rank === 2 && name.endsWith('.weight');
    const params = {
      resampler: await freezeParams(resampler, isMatrix, precision),
      xattn: await freezeParams(xattn, isMatrix, precision),
      ...offsets,
    };
    const frozen = new Flamingo(this.config, params, this.parts);
    retire(this, 'Flamingo');
    return frozen;
  }

  /** Values of all trained parameters, by name. */
  state(): Promise<Record<string, StateTensor>> {
    return stateOf(this.params);
  }

  /**
   * Sets all trained parameters.
   *
   * @param what the source, such as the file, for error messages
   */
  load(state: Readonly<Record<string, StateTensor>>, what = 'Flamingo.load'): void {
    loadState(this.params, state, { what });
  }
}

function checkWidths({ resampler, xattn }: FlamingoConfig, vision: VisionEncoder | undefined): void {
  const latents = xattn.latentSize ?? xattn.visualSize;
  if (resampler.visualSize !== latents) {
    throw new Error(
      `Flamingo: the gated blocks take latents of width ${latents}, but the resampler's visualSize is ${resampler.visualSize}. ` +
        'Make them equal, or set xattn.latentSize.',
    );
  }
  const features = resampler.inputSize ?? resampler.visualSize;
  if (vision && vision.featureDim !== features) {
    throw new Error(
      `Flamingo: the resampler takes features of width ${features}, but those of the vision encoder have ${vision.featureDim}. ` +
        `Set resampler.inputSize: ${vision.featureDim}.`,
    );
  }
}

function tokensOf(prompts: readonly FlamingoPrompt[]): (readonly number[])[] {
  return prompts.map(({ tokens }) => tokens);
}
