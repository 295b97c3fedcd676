import {
  checkConfig,
  checkValue,
  expectParams,
  expectRandom,
  expectShape,
  linear,
  linearSpec,
  normalVariable,
  rule,
  shapesOf,
  type ConfigRules,
  type ParamsOf,
  type ParamTree,
  type Random,
} from '@flamingo-ts/kernels';
import type { CausalLM, LMBlock, LMContext } from '@flamingo-ts/lm-core';
import * as tf from '@tensorflow/tfjs-core';
import { GatedXAttn, gatedXAttnRules, gatedXAttnSpecs, initGatedXAttn, type GatedXAttnConfig } from './gated-xattn';
import type { MediaKeysValues, MediaLMContext } from './media-context';

/** Sizes, variants and positions of the gated blocks in a language model. */
export interface InterleaveConfig extends GatedXAttnConfig {
  /** One gated block for every `every` blocks of the language model: 1, 4 and 7 in Flamingo 3B, 9B and 80B. */
  readonly every: number;
  /** Before blocks 0, k, 2k ... ('paper', section B.1.1) or before k-1, 2k-1 ... ('open-flamingo'). */
  readonly placement: 'paper' | 'open-flamingo';
  /**
   * Width of the resampler's latents, if it is not `visualSize`: one projection, shared by all gated blocks, maps them to
   * `visualSize`. With `visualSize` = `hiddenSize` this gives the parameter counts of the paper's table 5.
   */
  readonly latentSize?: number;
}

const PLACEMENTS = ['paper', 'open-flamingo'] as const;

/** Rules for `checkConfig`, for configs that contain an `InterleaveConfig`. */
export const interleaveRules: ConfigRules<InterleaveConfig> = {
  ...gatedXAttnRules,
  every: rule.size,
  placement: rule.oneOf(PLACEMENTS),
  latentSize: rule.optional(rule.size),
};

/** Positions of the language model's blocks that follow a gated block. */
export function gatedPositions(
  numLayers: number,
  { every, placement }: Pick<InterleaveConfig, 'every' | 'placement'>,
): number[] {
  if (!Number.isInteger(every) || every < 1 || every > numLayers) {
    throw new Error(
      `interleave: every must be a whole number from 1 to ${numLayers}, the number of blocks, got ${every}. ` +
        'With 1 there is a gated block before every block.',
    );
  }
  checkValue('interleave', 'placement', placement, rule.oneOf(PLACEMENTS));
  const positions: number[] = [];
  for (let i = placement === 'paper' ? 0 : every - 1; i < numLayers; i += every) positions.push(i);
  return positions;
}

/** Specs of the parameters that interleaving adds to a language model of `numLayers` blocks. */
export function interleaveSpecs(config: InterleaveConfig, numLayers: number) {
  checkConfig('interleave', config, interleaveRules);
  const { latentSize, visualSize } = config;
  const block = gatedXAttnSpecs(blockConfig(config));
  return {
    ...(latentSize && { mediaProjection: linearSpec(visualSize, latentSize) }),
    blocks: gatedPositions(numLayers, config).map(() => block),
  };
}

/** The part of the config that each gated block has. */
function blockConfig({ every: _, placement: __, latentSize: ___, ...block }: InterleaveConfig): GatedXAttnConfig {
  return block;
}

/** Parameters that interleaving adds; their paths joined by dots are their names in a checkpoint. */
export type InterleaveParams = ParamsOf<ReturnType<typeof interleaveSpecs>>;

/** Shape of every parameter that interleaving adds to a language model of `numLayers` blocks. Allocates nothing. */
export function interleaveShapes(config: InterleaveConfig, numLayers: number): Record<string, readonly number[]> {
  return shapesOf(interleaveSpecs(config, numLayers));
}

/** Fresh parameters for a language model of `numLayers` blocks; all gates are 0. */
export function initInterleave(config: InterleaveConfig, numLayers: number, random: Random): InterleaveParams {
  expectRandom('initInterleave', random);
  checkConfig('interleave', config, interleaveRules);
  const { latentSize, visualSize } = config;
  const projection = (from: number) =>
    normalVariable(random.fork('mediaProjection'), [visualSize, from], from ** -0.5) as tf.Variable<tf.Rank.R2>;
  return {
    ...(latentSize && { mediaProjection: { weight: projection(latentSize) } }),
    blocks: gatedPositions(numLayers, config).map((_, i) =>
      initGatedXAttn(blockConfig(config), random.fork(`blocks.${i}`)),
    ),
  };
}

/** A causal language model that sees images: a given one, with gated blocks before some of its blocks. */
export class InterleavedLM<C extends LMContext = LMContext> implements CausalLM<MediaLMContext<C>> {
  readonly hiddenSize: number;
  readonly vocabSize: number;
  readonly params: { readonly lm: ParamTree; readonly xattn: InterleaveParams };
  readonly blocks: readonly LMBlock<MediaLMContext<C>>[];
  /** The gated blocks in order. */
  readonly gated: readonly GatedXAttn[];
  /** For each gated block, the position of the language model's block that follows it. */
  readonly positions: readonly number[];

  constructor(
    readonly lm: CausalLM<C>,
    readonly config: InterleaveConfig,
    xattn: InterleaveParams,
  ) {
    checkConfig('interleave', config, interleaveRules);
    if (config.hiddenSize !== lm.hiddenSize) {
      throw new Error(
        `interleave: hiddenSize must be the language model's ${lm.hiddenSize}, got ${config.hiddenSize}. ` +
          'Gated blocks read and write its residual stream.',
      );
    }
    this.positions = gatedPositions(lm.blocks.length, config);
    if (xattn.blocks.length !== this.positions.length) {
      throw new Error(
        `interleave: expected parameters for ${this.positions.length} gated blocks, got ${xattn.blocks.length}. ` +
          `With every = ${config.every} and placement = ${config.placement}, a language model of ${lm.blocks.length} blocks has ${this.positions.length}.`,
      );
    }
    expectParams('interleave', xattn, interleaveShapes(config, lm.blocks.length));
    this.hiddenSize = lm.hiddenSize;
    this.vocabSize = lm.vocabSize;
    this.params = { lm: lm.params, xattn };
    this.gated = xattn.blocks.map((params) => new GatedXAttn(blockConfig(config), params));
    this.blocks = lm.blocks.map((block, position) => this.block(block, this.positions.indexOf(position)));
  }

  embed(tokens: tf.Tensor2D, context: MediaLMContext<C>): tf.Tensor3D {
    return this.lm.embed(tokens, context);
  }

  logits(x: tf.Tensor3D): tf.Tensor3D {
    return this.lm.logits(x);
  }

  /**
   * Maps the resampler's latents to the input of a `MediaContext`: projects them if the config has a `latentSize`.
   *
   * @param latents float32 `[batch, media, latents, latentSize]`
   * @returns       float32 `[batch, media, latents, visualSize]`
   */
  projectMedia(latents: tf.Tensor4D): tf.Tensor4D {
    const { latentSize, visualSize } = this.config;
    const want = ['batch', 'media', 'latents', latentSize ?? visualSize];
    expectShape('InterleavedLM.projectMedia: latents', latents, want, 'Pass the output of the resampler.');
    const { mediaProjection } = this.params.xattn;
    return mediaProjection ? (linear(latents, mediaProjection) as tf.Tensor4D) : tf.clone(latents);
  }

  /**
   * Keys and values of the images for every gated block. Compute them once per prompt, pass them to each `MediaContext`
   * of the decoding, and dispose of them at the end.
   *
   * @param latents output of `projectMedia`
   */
  mediaKeysValues(latents: tf.Tensor4D): MediaKeysValues[] {
    return this.gated.map((block) => block.attn.keysValues(latents));
  }

  private block(block: LMBlock<C>, index: number): LMBlock<MediaLMContext<C>> {
    const gated = this.gated[index];
    if (!gated) return block;
    return {
      params: { xattn: gated.params, lm: block.params },
      apply: (x, context) =>
        tf.tidy(() => block.apply(gated.apply(x, context.media, context.media?.keysValues?.[index]), context)),
    };
  }
}

/** Adds fresh gated blocks to a causal language model. While their gates are 0 its output does not change. */
export function interleave<C extends LMContext>(
  lm: CausalLM<C>,
  config: InterleaveConfig,
  random: Random,
): InterleavedLM<C> {
  return new InterleavedLM(lm, config, initInterleave(config, lm.blocks.length, random));
}
