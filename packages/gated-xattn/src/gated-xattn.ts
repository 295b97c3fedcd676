import {
  ACTIVATIONS,
  attention,
  checkConfig,
  constantSpec,
  expectParams,
  expectShape,
  freshParams,
  layerNorm,
  layerNormSpec,
  linear,
  linearSpec,
  mediaCrossAttention,
  mlp,
  rule,
  shapesOf,
  type Activation,
  type ConfigRules,
  type ParamsOf,
  type Random,
} from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { behindGate, gatedAdd } from './gated-add';
import type { MediaContext, MediaKeysValues } from './media-context';

/** Sizes and variants of a gated cross-attention block (Flamingo, section 2.2 and figure 4). */
export interface GatedXAttnConfig {
  /** Width of the language model's residual stream. */
  readonly hiddenSize: number;
  /** Width of the latents, from which keys and values are computed. */
  readonly visualSize: number;
  readonly numHeads: number;
  readonly headDim: number;
  /** Inner width of the feed-forward; 4 x `hiddenSize` in the paper. */
  readonly intermediateSize: number;
  /** Feed-forward activation: 'squared-relu' in the paper, 'gelu' in OpenFlamingo. */
  readonly activation: Activation;
  /** Normalizes the latents before keys and values, as in the paper; OpenFlamingo does not. */
  readonly normMedia: boolean;
  /**
   * Images that a text token sees: its own (default, section 2.3), all up to its own (the paper's ablation), or all of
   * its sequence, later ones included.
   */
  readonly attend?: 'immediate' | 'all-previous' | 'all';
  /**
   * Attention output for a token that sees no image: zero (default), or 'uniform' as in OpenFlamingo and
   * flamingo-pytorch: the mean of all values of its sequence, except that with 'immediate' text before the first image
   * gets zero.
   */
  readonly emptyRows?: 'zero' | 'uniform';
}

/** Rules for `checkConfig`. */
export const gatedXAttnRules: ConfigRules<GatedXAttnConfig> = {
  hiddenSize: rule.size,
  visualSize: rule.size,
  numHeads: rule.size,
  headDim: rule.size,
  intermediateSize: rule.size,
  activation: rule.oneOf(ACTIVATIONS),
  normMedia: rule.boolean,
  attend: rule.optional(rule.oneOf(['immediate', 'all-previous', 'all'])),
  emptyRows: rule.optional(rule.oneOf(['zero', 'uniform'])),
};

/** Specs of all parameters of one block; inner = numHeads x headDim. Linear layers have no bias. */
export function gatedXAttnSpecs(c: GatedXAttnConfig) {
  checkConfig('GatedXAttn', c, gatedXAttnRules);
  const { hiddenSize, visualSize, intermediateSize } = c;
  const inner = c.numHeads * c.headDim;
  return {
    attn: {
      norm: layerNormSpec(hiddenSize),
      // Shared by keys and values.
      ...(c.normMedia && { normMedia: layerNormSpec(visualSize) }),
      query: linearSpec(inner, hiddenSize),
      key: linearSpec(inner, visualSize),
      value: linearSpec(inner, visualSize),
      output: linearSpec(hiddenSize, inner),
    },
    attnGate: constantSpec([1], 0),
    mlp: {
      norm: layerNormSpec(hiddenSize),
      up: linearSpec(intermediateSize, hiddenSize),
      down: linearSpec(hiddenSize, intermediateSize),
    },
    mlpGate: constantSpec([1], 0),
  };
}

/** Parameters of a gated block; their paths joined by dots are their names in a checkpoint. */
export type GatedXAttnParams = ParamsOf<ReturnType<typeof gatedXAttnSpecs>>;

/** Parameters of its attention. */
export type CrossAttentionParams = GatedXAttnParams['attn'];

/** Fresh parameters of one block: matrices normal with variance 1 / inputs, norms the identity, gates 0. */
export function initGatedXAttn(config: GatedXAttnConfig, random: Random): GatedXAttnParams {
  return freshParams(gatedXAttnSpecs(config), random);
}

/** The cross-attention of a gated block, from text to images, without gate and residual. */
export class CrossAttention {
  constructor(
    readonly config: GatedXAttnConfig,
    readonly params: CrossAttentionParams,
  ) {
    expectParams('CrossAttention', params, shapesOf(gatedXAttnSpecs(config).attn));
  }

  /** Keys and values of all images. Compute them once per prompt and reuse them for every token. */
  keysValues(latents: tf.Tensor4D): MediaKeysValues {
    expectShape(
      'CrossAttention.keysValues: latents',
      latents,
      ['batch', 'media', 'latents', this.config.visualSize],
      "The resampler's latents must have the visualSize of the gated blocks.",
    );
    const { normMedia, key, value } = this.params;
    return tf.tidy(() => {
      const source = normMedia ? layerNorm(latents, normMedia) : latents;
      return { keys: linear(source, key) as tf.Tensor4D, values: linear(source, value) as tf.Tensor4D };
    });
  }

  /**
   * @param x     float32 `[rows, text, hiddenSize]`
   * @param media the images, and the image of each token
   * @param known keys and values of `media.latents`, if already computed
   * @returns     float32 `[rows, text, hiddenSize]`, to gate and add to `x`
   */
  apply(x: tf.Tensor3D, media: MediaContext, known?: MediaKeysValues): tf.Tensor3D {
    expectShape(
      'CrossAttention.apply: x',
      x,
      [media.rows, media.text, this.config.hiddenSize],
      'x and the media context must belong to the same call: one mediaIndex entry for each text token.',
    );
    return tf.tidy(() => {
      const query = linear(layerNorm(x, this.params.norm), this.params.query) as tf.Tensor3D;
      const seen = this.attend(query, known ?? this.keysValues(media.latents), media);
      return linear(seen, this.params.output) as tf.Tensor3D;
    });
  }

  private attend(query: tf.Tensor3D, { keys, values }: MediaKeysValues, media: MediaContext): tf.Tensor3D {
    const { attend = 'immediate', emptyRows = 'zero', numHeads } = this.config;
    if (attend === 'immediate') {
      const [batch, images, latents, inner] = keys.shape;
      // All rows form one sequence and all images another; the segments match rows to images.
      const all = (x: tf.Tensor4D): tf.Tensor4D => tf.reshape(x, [1, batch * images, latents, inner]);
      const line = tf.reshape(query, [1, media.rows * media.text, inner]);
      const attended = mediaCrossAttention(line, all(keys), all(values), media.segments, { numHeads });
      const y = tf.reshape(attended, query.shape) as tf.Tensor3D;
      return emptyRows === 'zero' ? y : addMean(y, values, media, (index) => index > images);
    }
    const ofRows = (x: tf.Tensor4D): tf.Tensor3D => {
      const [batch, images, latents, inner] = x.shape;
      return perRow(tf.reshape(x, [batch, images * latents, inner]), media);
    };
    const [k, v] = [ofRows(keys), ofRows(values)];
    if (attend === 'all') return attention(query, k, v, { numHeads });
    const y = attention(query, k, v, { numHeads, bias: earlierOnly(media) });
    const seesNone = flags(media, (index) => index === 0);
    const seen = tf.where(seesNone, tf.zerosLike(y), y) as tf.Tensor3D;
    return emptyRows === 'zero' ? seen : addMean(seen, values, media, (index) => index === 0);
  }
}

/** `[batch, ...]` to `[rows, ...]`: for each row of text, the entry of its owner. */
function perRow(x: tf.Tensor3D, media: MediaContext): tf.Tensor3D {
  return media.owners ? tf.gather(x, tf.tensor1d([...media.owners], 'int32')) : x;
}

/** bool `[rows, text, 1]`: whether the token's media index meets a condition. For `tf.where`: a product with 0 keeps NaN. */
function flags(media: MediaContext, condition: (index: number) => boolean): tf.Tensor3D {
  const values = Uint8Array.from(media.mediaIndex, (index) => (condition(index) ? 1 : 0));
  return tf.tensor3d(values, [media.rows, media.text, 1], 'bool');
}

/** Adds the mean of all values of the sequence where the condition holds: the result of a fully masked softmax. */
function addMean(
  y: tf.Tensor3D,
  values: tf.Tensor4D,
  media: MediaContext,
  condition: (index: number) => boolean,
): tf.Tensor3D {
  const mean = perRow(tf.expandDims(tf.mean(values, [1, 2]), 1) as tf.Tensor3D, media); // [rows, 1, inner]
  return tf.where(flags(media, condition), tf.add(y, mean), y) as tf.Tensor3D;
}

/** Additive scores `[rows, 1, text, media x latents]`: 0 for images up to the token's own, -1e9 for later ones. */
function earlierOnly(media: MediaContext): tf.Tensor4D {
  const [, images, latents] = media.latents.shape;
  const keys = images * latents;
  const bias = new Float32Array(media.rows * media.text * keys);
  for (let i = 0; i < media.rows * media.text; i++) {
    const visible = Math.min(media.mediaIndex[i]!, images) * latents;
    bias.fill(-1e9, i * keys + visible, (i + 1) * keys);
  }
  return tf.tensor4d(bias, [media.rows, 1, media.text, keys]);
}

/** Gated cross-attention and gated feed-forward, applied before a frozen block. With both gates at 0 it is the identity. */
export class GatedXAttn {
  readonly attn: CrossAttention;

  constructor(
    readonly config: GatedXAttnConfig,
    readonly params: GatedXAttnParams,
  ) {
    expectParams('GatedXAttn', params, shapesOf(gatedXAttnSpecs(config)));
    this.attn = new CrossAttention(config, params.attn);
  }

  /**
   * @param x     float32 `[rows, text, hiddenSize]`
   * @param media the images, and the image of each token; absent for text alone
   * @param known keys and values of `media.latents`, if already computed
   * @returns     float32 `[rows, text, hiddenSize]`
   */
  apply(x: tf.Tensor3D, media?: MediaContext, known?: MediaKeysValues): tf.Tensor3D {
    const { attnGate, mlp: p, mlpGate } = this.params;
    expectShape('GatedXAttn.apply: x', x, ['rows', 'text', this.config.hiddenSize], 'Pass the residual stream.');
    return tf.tidy(() => {
      const y = media ? gatedAdd(x, this.attn.apply(behindGate(x, attnGate), media, known), attnGate) : x;
      return gatedAdd(y, mlp(layerNorm(y, p.norm), p, this.config.activation), mlpGate);
    });
  }
}
