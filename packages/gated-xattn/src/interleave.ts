import { expectKeys, expectShape, linear, normalVariable, type ParamTree, type Random } from '@flamingo-ts/kernels';
import type { CausalLM, LMBlock, LMContext } from '@flamingo-ts/lm-core';
import * as tf from '@tensorflow/tfjs-core';
import {
  GatedXAttn,
  gatedXAttnShapes,
  initGatedXAttn,
  type GatedXAttnConfig,
  type GatedXAttnParams,
} from './gated-xattn';
import type { MediaKeysValues, MediaLMContext } from './media-context';

/** Where gated blocks stand, and what they are like. */
export interface InterleaveConfig extends GatedXAttnConfig {
  /** One gated block for this many blocks of the language model: 1, 4 and 7 in Flamingo 3B, 9B and 80B. */
  readonly every: number;
  /** Before blocks 0, k, 2k ... ('paper', section B.1.1) or before k-1, 2k-1 ... ('open-flamingo'). */
  readonly placement: 'paper' | 'open-flamingo';
  /**
   * Width of the resampler's latents, where it is not `visualSize`: one projection, shared by all gated blocks, takes
   * them there. The parameter counts of the paper's table 5 come out with `visualSize` = `hiddenSize` this way.
   */
  readonly latentSize?: number;
}

const KEYS: Record<keyof InterleaveConfig, true> = {
  hiddenSize: true,
  visualSize: true,
  numHeads: true,
  headDim: true,
  intermediateSize: true,
  activation: true,
  normMedia: true,
  attend: true,
  emptyRows: true,
  every: true,
  placement: true,
  latentSize: true,
};

/** Parameters that interleaving adds; their paths joined by dots are their names in a checkpoint. */
export type InterleaveParams = {
  /** `[visualSize, latentSize]` */
  readonly mediaProjection?: { readonly weight: tf.Variable<tf.Rank.R2> };
  /** The gated blocks in order. */
  readonly blocks: readonly GatedXAttnParams[];
};

/** Positions of the language model's blocks that have a gated block in front. */
export function gatedPositions(
  numLayers: number,
  { every, placement }: Pick<InterleaveConfig, 'every' | 'placement'>,
): number[] {
  if (!Number.isInteger(every) || every < 1 || every > numLayers) {
    throw new Error(
      `interleave: every must be a whole number from 1 to the number of blocks ${numLayers}, got ${every}. ` +
        'With 1 every block gets a gated block in front.',
    );
  }
  const positions: number[] = [];
  for (let i = placement === 'paper' ? 0 : every - 1; i < numLayers; i += every) positions.push(i);
  return positions;
}

/** Shape of every parameter that interleaving adds to a language model of so many blocks, without making any. */
export function interleaveShapes(config: InterleaveConfig, numLayers: number): Record<string, readonly number[]> {
  const shapes: Record<string, readonly number[]> = {};
  if (config.latentSize) shapes['mediaProjection.weight'] = [config.visualSize, config.latentSize];
  gatedPositions(numLayers, config).forEach((_, i) => {
    for (const [name, shape] of Object.entries(gatedXAttnShapes(config))) shapes[`blocks.${i}.${name}`] = shape;
  });
  return shapes;
}

/** Fresh parameters for a language model of so many blocks; all gates are 0. */
export function initInterleave(config: InterleaveConfig, numLayers: number, random: Random): InterleaveParams {
  const { latentSize, visualSize } = config;
  const projection = (from: number) =>
    normalVariable(random.fork('mediaProjection'), [visualSize, from], from ** -0.5) as tf.Variable<tf.Rank.R2>;
  return {
    ...(latentSize && { mediaProjection: { weight: projection(latentSize) } }),
    blocks: gatedPositions(numLayers, config).map((_, i) => initGatedXAttn(config, random.fork(`blocks.${i}`))),
  };
}

/** A causal language model that sees images: another one, with gated blocks before some of its blocks. */
export class InterleavedLM<C extends LMContext = LMContext> implements CausalLM<MediaLMContext<C>> {
  readonly hiddenSize: number;
  readonly vocabSize: number;
  readonly params: { readonly lm: ParamTree; readonly xattn: InterleaveParams };
  readonly blocks: readonly LMBlock<MediaLMContext<C>>[];
  /** The gated blocks in order. */
  readonly gated: readonly GatedXAttn[];
  /** For each of them, the block of the language model that it precedes. */
  readonly positions: readonly number[];

  constructor(
    readonly lm: CausalLM<C>,
    readonly config: InterleaveConfig,
    xattn: InterleaveParams,
  ) {
    expectKeys('interleave', config, Object.keys(KEYS));
    if (config.hiddenSize !== lm.hiddenSize) {
      throw new Error(
        `interleave: hiddenSize must be the language model's ${lm.hiddenSize}, got ${config.hiddenSize}. ` +
          'Gated blocks work in its stream.',
      );
    }
    this.positions = gatedPositions(lm.blocks.length, config);
    if (xattn.blocks.length !== this.positions.length) {
      throw new Error(
        `interleave: expected parameters of ${this.positions.length} gated blocks, got ${xattn.blocks.length}. ` +
          `Of ${lm.blocks.length} blocks one in ${config.every} has a gated block in front.`,
      );
    }
    this.hiddenSize = lm.hiddenSize;
    this.vocabSize = lm.vocabSize;
    this.params = { lm: lm.params, xattn };
    this.gated = xattn.blocks.map((params) => new GatedXAttn(config, params));
    this.blocks = lm.blocks.map((block, position) => this.block(block, this.positions.indexOf(position)));
  }

  embed(tokens: tf.Tensor2D, context: MediaLMContext<C>): tf.Tensor3D {
    return this.lm.embed(tokens, context);
  }

  logits(x: tf.Tensor3D): tf.Tensor3D {
    return this.lm.logits(x);
  }

  /**
   * The resampler's latents as a `MediaContext` takes them: projected, where the configuration has a `latentSize`.
   *
   * @param latents float32 `[batch, media, latents, latentSize]`
   * @returns       float32 `[batch, media, latents, visualSize]`
   */
  projectMedia(latents: tf.Tensor4D): tf.Tensor4D {
    const { latentSize, visualSize } = this.config;
    const want = ['batch', 'media', 'latents', latentSize ?? visualSize];
    expectShape('InterleavedLM.projectMedia: latents', latents, want, 'Pass what the resampler gives.');
    const { mediaProjection } = this.params.xattn;
    return mediaProjection ? (linear(latents, mediaProjection) as tf.Tensor4D) : tf.clone(latents);
  }

  /**
   * Keys and values of the images for every gated block: made once per prompt, handed to each `MediaContext` of the
   * decoding, and disposed of by the caller in the end.
   *
   * @param latents as `projectMedia` gives them
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

/** Puts fresh gated blocks into any causal language model; until their gates open its output stays what it was. */
export function interleave<C extends LMContext>(
  lm: CausalLM<C>,
  config: InterleaveConfig,
  random: Random,
): InterleavedLM<C> {
  return new InterleavedLM(lm, config, initInterleave(config, lm.blocks.length, random));
}
