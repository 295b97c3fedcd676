import {
  ACTIVATIONS,
  attention,
  checkConfig,
  expectParams,
  expectShape,
  freshParams,
  innerLinear,
  layerNorm,
  layerNormSpec,
  linear,
  linearAdd,
  linearSpec,
  mlp,
  normalSpec,
  rule,
  shapesOf,
  type Activation,
  type ConfigRules,
  type ParamsOf,
  type Random,
} from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';

/** Sizes and variants of a Perceiver Resampler (Flamingo, section 2.1 and appendix A.1.1). */
export interface ResamplerConfig {
  /** Width of the latents and of the residual stream. */
  readonly visualSize: number;
  /** Width of the input features. If given, a linear projection maps them to `visualSize`; by default both are equal. */
  readonly inputSize?: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly headDim: number;
  /** Learned queries: the number of output vectors for each image or clip. */
  readonly numLatents: number;
  /** Inner width of the feed-forward; 4 x `visualSize` in the paper. */
  readonly intermediateSize: number;
  /** Feed-forward activation: 'squared-relu' in the paper, 'gelu' in OpenFlamingo. */
  readonly activation: Activation;
  /**
   * Learned time embeddings, one for each frame of a training clip. Without them the order of frames has no effect. A
   * shorter clip (an image is a clip of one frame) uses the first ones. For a longer clip they are interpolated
   * linearly, as the paper does from 8 frames to 30.
   */
  readonly numFrames?: number;
  /** Learned embeddings of an image's position in its sequence. Throws if there are more images than this. */
  readonly numMedia?: number;
  /** Adds a final layer norm: absent from the paper's figure, but present in every open implementation. */
  readonly finalNorm: boolean;
  /** Standard deviation of fresh latents and embeddings. Defaults to 0.02 (OpenFlamingo: 1). */
  readonly latentStd?: number;
}

/** Rules for `checkConfig`, for configs that contain a `ResamplerConfig`. */
export const resamplerRules: ConfigRules<ResamplerConfig> = {
  visualSize: rule.size,
  inputSize: rule.optional(rule.size),
  numLayers: rule.size,
  numHeads: rule.size,
  headDim: rule.size,
  numLatents: rule.size,
  intermediateSize: rule.size,
  activation: rule.oneOf(ACTIVATIONS),
  numFrames: rule.optional(rule.size),
  numMedia: rule.optional(rule.size),
  finalNorm: rule.boolean,
  latentStd: rule.optional(rule.number({ min: 0 })),
};

/** Specs of all parameters; inner = numHeads x headDim. Linear layers have no bias. */
export function resamplerSpecs(c: ResamplerConfig) {
  checkConfig('PerceiverResampler', c, resamplerRules);
  const d = c.visualSize;
  const inner = c.numHeads * c.headDim;
  const embeddings = (count: number) => normalSpec([count, d], c.latentStd ?? 0.02);
  return {
    ...(c.inputSize && { inputProjection: linearSpec(d, c.inputSize) }),
    latents: embeddings(c.numLatents),
    ...(c.numFrames && { timeEmbeddings: embeddings(c.numFrames) }),
    ...(c.numMedia && { mediaEmbeddings: embeddings(c.numMedia) }),
    layers: Array.from({ length: c.numLayers }, () => ({
      normMedia: layerNormSpec(d),
      normLatents: layerNormSpec(d),
      query: linearSpec(inner, d),
      key: linearSpec(inner, d),
      value: linearSpec(inner, d),
      output: linearSpec(d, inner),
      mlpNorm: layerNormSpec(d),
      mlpUp: linearSpec(c.intermediateSize, d),
      mlpDown: linearSpec(d, c.intermediateSize),
    })),
    ...(c.finalNorm && { norm: layerNormSpec(d) }),
  };
}

/** Parameters of a resampler; their paths joined by dots are their names in a checkpoint. */
export type ResamplerParams = ParamsOf<ReturnType<typeof resamplerSpecs>>;

/** Parameters of one layer. */
export type ResamplerLayerParams = ResamplerParams['layers'][number];

/** Shape of every parameter by name. Allocates nothing. */
export function resamplerShapes(config: ResamplerConfig): Record<string, readonly number[]> {
  return shapesOf(resamplerSpecs(config));
}

/** Fresh parameters: matrices normal with variance 1 / inputs, latents and embeddings small, norms the identity. */
export function initResampler(config: ResamplerConfig, random: Random): ResamplerParams {
  return freshParams(resamplerSpecs(config), random);
}

/** Maps any number of visual features to `numLatents` vectors for each image or clip. */
export class PerceiverResampler {
  constructor(
    readonly config: ResamplerConfig,
    readonly params: ResamplerParams,
  ) {
    expectParams('PerceiverResampler', params, resamplerShapes(config));
  }

  /**
   * @param features float32 `[batch, media, frames, patches, inputSize]`; an image has one frame
   * @returns        float32 `[batch, media, numLatents, visualSize]`
   */
  apply(features: tf.Tensor5D): tf.Tensor4D {
    const { visualSize, inputSize = visualSize, numLatents, numMedia } = this.config;
    expectShape(
      'PerceiverResampler.apply: features',
      features,
      ['batch', 'media', 'frames', 'patches', inputSize],
      'Flatten the feature map to patches; a single image has media = 1 and frames = 1.',
    );
    if (features.size === 0) {
      throw new Error(
        `PerceiverResampler.apply: features must hold at least one image, frame and patch, got [${features.shape.join(', ')}]. ` +
          'Text without images needs no resampler.',
      );
    }
    const [batch, media] = features.shape;
    if (numMedia && media > numMedia) {
      throw new Error(
        `PerceiverResampler.apply: features hold ${media} images in a sequence, but there are embeddings for only ${numMedia} (numMedia). ` +
          'Pass fewer images, or train with a larger numMedia.',
      );
    }
    return tf.tidy(() => {
      const visual = this.embed(features); // [batch * media, frames * patches, visualSize]
      let latents = repeat(this.params.latents, batch * media);
      for (const layer of this.params.layers) latents = this.layer(visual, latents, layer);
      if (this.params.norm) latents = layerNorm(latents, this.params.norm) as tf.Tensor3D;
      return tf.reshape(latents, [batch, media, numLatents, visualSize]);
    });
  }

  /** Projects the features, adds time and media embeddings, and joins the patches of all frames of an image. */
  private embed(features: tf.Tensor5D): tf.Tensor3D {
    const { inputProjection, timeEmbeddings, mediaEmbeddings } = this.params;
    const [b, n, f, p] = features.shape;
    let x: tf.Tensor = inputProjection ? linear(features, inputProjection) : features;
    if (timeEmbeddings) x = addEmbeddings(x, timeEmbeddings, frameWeights(f, timeEmbeddings.shape[0]), p);
    if (mediaEmbeddings) x = addEmbeddings(x, mediaEmbeddings, identity(n, mediaEmbeddings.shape[0]), f * p);
    return tf.reshape(x, [b * n, f * p, this.config.visualSize]);
  }

  private layer(visual: tf.Tensor3D, latents: tf.Tensor3D, p: ResamplerLayerParams): tf.Tensor3D {
    const { numHeads, activation } = this.config;
    const normed = layerNorm(latents, p.normLatents) as tf.Tensor3D;
    // Keys and values come from the image and the latents together, the image first (appendix A.1.1).
    const source = tf.concat([layerNorm(visual, p.normMedia) as tf.Tensor3D, normed], 1);
    const seen = attention(
      innerLinear(normed, p.query) as tf.Tensor3D,
      innerLinear(source, p.key) as tf.Tensor3D,
      innerLinear(source, p.value) as tf.Tensor3D,
      { numHeads },
    );
    const x = linearAdd(seen, p.output, latents);
    return mlp(layerNorm(x, p.mlpNorm), { up: p.mlpUp, down: p.mlpDown }, activation, x) as tf.Tensor3D;
  }
}

/** `[n, d]` to `[count, n, d]`. As a matrix product, because the gradient of `tf.tile` adds up the copies one by one. */
function repeat(x: tf.Tensor2D, count: number): tf.Tensor3D {
  const [n, d] = x.shape;
  return tf.reshape(tf.matMul(tf.ones([count, 1]), tf.reshape(x, [1, n * d])), [count, n, d]);
}

/** Weight of each of `count` embeddings for each of `rows` frames or images, row-major `[rows, count]`. */
type Weights = { readonly rows: number; readonly count: number; readonly values: Float32Array };

/** Row i uses embedding i. */
function identity(rows: number, count: number): Weights {
  const values = new Float32Array(rows * count);
  for (let i = 0; i < rows; i++) values[i * count + i] = 1;
  return { rows, count, values };
}

/** Frames use the first time embeddings, or, in a clip longer than those, linear interpolations from first to last. */
function frameWeights(frames: number, count: number): Weights {
  if (frames <= count) return identity(frames, count);
  const values = new Float32Array(frames * count);
  for (let i = 0; i < frames; i++) {
    const at = (i * (count - 1)) / (frames - 1);
    const left = Math.min(Math.floor(at), count - 1);
    const right = Math.min(left + 1, count - 1);
    values[i * count + left]! += 1 - (at - left);
    values[i * count + right]! += at - left;
  }
  return { rows: frames, count, values };
}

/**
 * Adds weighted embeddings to vectors in groups of `each`: one group for each row of the weights, cycling through the
 * rows. Uses a product and a sum over rows because every backend is fast at their gradients.
 */
function addEmbeddings(
  x: tf.Tensor,
  embeddings: tf.Tensor2D,
  { rows, count, values }: Weights,
  each: number,
): tf.Tensor {
  const d = embeddings.shape[1];
  const spread = new Float32Array(rows * each * count);
  for (let i = 0; i < rows * each; i++) {
    const row = Math.floor(i / each);
    spread.set(values.subarray(row * count, (row + 1) * count), i * count);
  }
  const added = tf.matMul(tf.tensor2d(spread, [rows * each, count]), embeddings); // [rows * each, d]
  return tf.add(tf.reshape(x, [-1, rows * each * d]), tf.reshape(added, [1, rows * each * d]));
}
