import {
  attention,
  checkConfig,
  checkValue,
  constantSpec,
  conv2d,
  expectParams,
  expectShape,
  freezeParams,
  freshParams,
  FrozenMatrix,
  layerNorm,
  layerNormSpec,
  innerLinear,
  linear,
  linearAdd,
  linearSpec,
  loadParams,
  mlp,
  normalSpec,
  retire,
  rule,
  shapesOf,
  type ConfigRules,
  type FrozenPrecision,
  type LoadParamsOptions,
  type Random,
  type StateTensor,
} from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';

// ---------------------------------------------------------------------------------------------------------------
// Config

const CLIP_ACTIVATIONS = ['quick-gelu', 'gelu'] as const;

/** The vision transformer of CLIP (Radford et al. 2021, section 2.4). */
export interface ClipViTConfig {
  /** Width of the images, in pixels. */
  readonly imageSize: number;
  /** Height of the images, in pixels. Defaults to `imageSize`. */
  readonly imageHeight?: number;
  /** Side of a square patch. */
  readonly patchSize: number;
  /** Width of the tokens and features. */
  readonly visualSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  /** Inner width of the MLPs. */
  readonly intermediateSize: number;
  /** Width of the space shared with text: the output of `pooled`. */
  readonly embeddingSize: number;
  /** OpenAI's weights were trained with `quick-gelu`, most later ones with `gelu`. */
  readonly activation: (typeof CLIP_ACTIVATIONS)[number];
  /** Applies the last layer norm to the patch tokens in `encode`. OpenFlamingo's checkpoints require false. */
  readonly normTokens: boolean;
  /** Channel means and standard deviations, on a scale of 0 to 1, by which images are normalized. */
  readonly mean: readonly [number, number, number];
  readonly std: readonly [number, number, number];
}

/** The published variants (CLIP paper, table 20). */
export const CLIP_VIT_VARIANTS = {
  'B/32': { patchSize: 32, visualSize: 768, numLayers: 12, numHeads: 12, embeddingSize: 512 },
  'B/16': { patchSize: 16, visualSize: 768, numLayers: 12, numHeads: 12, embeddingSize: 512 },
  'L/14': { patchSize: 14, visualSize: 1024, numLayers: 24, numHeads: 16, embeddingSize: 768 },
} as const;

export type ClipViTVariant = keyof typeof CLIP_VIT_VARIANTS;

const DEFAULTS = {
  imageSize: 224,
  activation: 'quick-gelu',
  normTokens: false,
  mean: [0.48145466, 0.4578275, 0.40821073],
  std: [0.26862954, 0.26130258, 0.27577711],
} as const;

/** Input of `clipViTConfig`: a published variant with changes, or your own sizes. */
export type ClipViTConfigInput = Partial<ClipViTConfig> &
  (
    | { readonly variant: ClipViTVariant }
    | Pick<ClipViTConfig, 'patchSize' | 'visualSize' | 'numLayers' | 'numHeads' | 'embeddingSize'>
  );

/**
 * Fills in defaults and checks the result. `intermediateSize` defaults to 4 times `visualSize`.
 *
 * @example clipViTConfig({ variant: 'L/14' }) // the encoder of OpenFlamingo, for OpenAI's weights
 * @throws Error naming the first wrong key
 */
export function clipViTConfig(input: ClipViTConfigInput): ClipViTConfig {
  const { variant, ...overrides } = input as Partial<ClipViTConfig> & { readonly variant?: ClipViTVariant };
  const variants = Object.keys(CLIP_VIT_VARIANTS) as ClipViTVariant[];
  checkValue('clipViTConfig', 'variant', variant, rule.optional(rule.oneOf(variants)));
  const merged = { ...DEFAULTS, ...(variant && CLIP_VIT_VARIANTS[variant]), ...overrides } as ClipViTConfig;
  const config = { ...merged, intermediateSize: merged.intermediateSize ?? 4 * merged.visualSize };
  checkClipViTConfig(config);
  return config;
}

const RULES: ConfigRules<ClipViTConfig> = {
  imageSize: rule.size,
  imageHeight: rule.optional(rule.size),
  patchSize: rule.size,
  visualSize: rule.size,
  numLayers: rule.size,
  numHeads: rule.size,
  intermediateSize: rule.size,
  embeddingSize: rule.size,
  activation: rule.oneOf(CLIP_ACTIVATIONS),
  normTokens: rule.boolean,
  mean: rule.list(rule.number(), 3),
  std: rule.list(rule.number({ above: 0 }), 3),
};

function checkClipViTConfig(c: ClipViTConfig): void {
  checkConfig('ClipViTConfig', c, RULES);
  if (c.visualSize % c.numHeads) {
    throw new Error(`ClipViTConfig: visualSize must be a multiple of numHeads ${c.numHeads}, got ${c.visualSize}.`);
  }
  const [rows, columns] = gridOf(c);
  if (rows * columns === 0) {
    throw new Error(
      `ClipViTConfig: patchSize must be at most the size of the images, ${c.imageHeight ?? c.imageSize} x ${c.imageSize}, got ${c.patchSize}.`,
    );
  }
}

/** Number of patches in an image; pixels outside whole patches are ignored. */
function gridOf(c: ClipViTConfig): readonly [rows: number, columns: number] {
  return [Math.floor((c.imageHeight ?? c.imageSize) / c.patchSize), Math.floor(c.imageSize / c.patchSize)];
}

// ---------------------------------------------------------------------------------------------------------------
// Params

type Vector = tf.Variable<tf.Rank.R1>;
/** `[out, in]`; may be packed by `freeze`. */
type Matrix = tf.Variable<tf.Rank.R2> | FrozenMatrix;
type Norm = { readonly weight: Vector; readonly bias: Vector };
type Linear = { readonly weight: Matrix; readonly bias: Vector };

type ClipViTLayerParams = {
  readonly attnNorm: Norm;
  readonly query: Linear;
  readonly key: Linear;
  readonly value: Linear;
  readonly output: Linear;
  readonly mlpNorm: Norm;
  readonly up: Linear;
  readonly down: Linear;
};

/** Parameters of a tower; their paths joined by dots are their names in a checkpoint. */
export type ClipViTParams = {
  /** `[visualSize, 3, patchSize, patchSize]`, no bias. */
  readonly patches: { readonly weight: tf.Variable<tf.Rank.R4> };
  readonly classToken: Vector;
  /** `[1 + patches, visualSize]`, the class token first. */
  readonly positions: tf.Variable<tf.Rank.R2>;
  readonly preNorm: Norm;
  readonly layers: readonly ClipViTLayerParams[];
  readonly postNorm: Norm;
  /** `[embeddingSize, visualSize]`, no bias. */
  readonly projection: { readonly weight: Matrix };
};

/** Specs of all parameters. */
function clipViTSpecs(c: ClipViTConfig) {
  checkClipViTConfig(c);
  const { visualSize: d, patchSize, intermediateSize } = c;
  const [rows, columns] = gridOf(c);
  const std = d ** -0.5;
  // Layers that write to the residual stream start smaller, by the number of such layers.
  const writing = std * (2 * c.numLayers) ** -0.5;
  const linearWithBias = (out: number, into: number, deviation: number) => ({
    ...linearSpec(out, into, deviation),
    bias: constantSpec([out], 0),
  });
  return {
    patches: { weight: normalSpec([d, 3, patchSize, patchSize], (3 * patchSize ** 2) ** -0.5) },
    classToken: normalSpec([d], std),
    positions: normalSpec([1 + rows * columns, d], std),
    preNorm: layerNormSpec(d),
    layers: Array.from({ length: c.numLayers }, () => ({
      attnNorm: layerNormSpec(d),
      query: linearWithBias(d, d, std),
      key: linearWithBias(d, d, std),
      value: linearWithBias(d, d, std),
      output: linearWithBias(d, d, writing),
      mlpNorm: layerNormSpec(d),
      up: linearWithBias(intermediateSize, d, (2 * d) ** -0.5),
      down: linearWithBias(d, intermediateSize, writing),
    })),
    postNorm: layerNormSpec(d),
    projection: linearSpec(c.embeddingSize, d),
  };
}

/** Shapes of all parameters by name. Allocates nothing. */
export function clipViTShapes(config: ClipViTConfig): Record<string, readonly number[]> {
  return shapesOf(clipViTSpecs(config));
}

/** Fresh parameters, with the standard deviations of CLIP's own initialization. */
export function initClipViT(config: ClipViTConfig, random: Random): ClipViTParams {
  return freshParams(clipViTSpecs(config), random);
}

/** Whether `freeze` packs a parameter. */
const isMatrix = (name: string, shape: readonly number[]): boolean => shape.length === 2 && name.endsWith('.weight');

// ---------------------------------------------------------------------------------------------------------------
// Model

/** Options of `ClipViT.fromState`. */
export interface ClipViTLoadOptions {
  /**
   * Freezes parameters one by one while reading. On a backend that packs, and with a state whose data are getters that
   * read a file, memory holds little more than the packed tower at any time.
   */
  readonly freeze?: FrozenPrecision;
}

/** CLIP's vision tower as an image encoder. */
export class ClipViT {
  /** Width of the features. */
  readonly featureDim: number;
  readonly imageSize: number;
  readonly mean: readonly [number, number, number];
  readonly std: readonly [number, number, number];

  constructor(
    readonly config: ClipViTConfig,
    readonly params: ClipViTParams,
  ) {
    expectParams('ClipViT', params, clipViTShapes(config));
    this.featureDim = config.visualSize;
    ({ imageSize: this.imageSize, mean: this.mean, std: this.std } = config);
  }

  /**
   * Loads a tower from a state under this package's parameter names (see `importOpenClip`).
   *
   * @throws Error listing the tensors that are missing, unexpected or of another shape
   */
  static fromState(
    config: ClipViTConfig,
    state: Readonly<Record<string, StateTensor>>,
    { freeze }: ClipViTLoadOptions = {},
  ): ClipViT {
    const pack: LoadParamsOptions['make'] = (name, values) =>
      isMatrix(name, values.shape)
        ? new FrozenMatrix(values.data, values.shape as [number, number], freeze)
        : undefined;
    const options = { what: 'ClipViT.fromState', ...(freeze && { make: pack }) };
    return new ClipViT(config, loadParams(clipViTSpecs(config), state, options));
  }

  /**
   * Packs the matrices for inference. Frees the variables that it replaces; any further use of this object throws.
   */
  async freeze(precision: FrozenPrecision = 'float32'): Promise<ClipViT> {
    const params = await freezeParams(this.params, (name, { shape }) => isMatrix(name, shape), precision);
    const frozen = new ClipViT(this.config, params);
    retire(this, 'ClipViT');
    return frozen;
  }

  /**
   * Encodes images to patch tokens, row by row, without the class token.
   *
   * @param images float32 [images, height, width, 3], normalized by `mean` and `std`
   * @returns      float32 [images, patches, visualSize]
   */
  encode(images: tf.Tensor4D): tf.Tensor3D {
    return tf.tidy(() => {
      const x = this.hidden(images);
      const tokens = tf.slice(x, [0, 1, 0], [-1, -1, -1]);
      return (this.config.normTokens ? layerNorm(tokens, this.params.postNorm) : tokens) as tf.Tensor3D;
    });
  }

  /** Embeddings of images in the space shared with text, not normalized: float32 [images, embeddingSize]. */
  pooled(images: tf.Tensor4D): tf.Tensor2D {
    return tf.tidy(() => {
      const x = this.hidden(images);
      const first = tf.reshape(tf.slice(x, [0, 0, 0], [-1, 1, -1]), [x.shape[0], x.shape[2]]);
      return linear(layerNorm(first, this.params.postNorm), this.params.projection) as tf.Tensor2D;
    });
  }

  /** The residual stream after the last layer, class token first: float32 [images, 1 + patches, visualSize]. */
  hidden(images: tf.Tensor4D): tf.Tensor3D {
    return tf.tidy(() => {
      let x = this.applyEmbedding(images);
      for (let i = 0; i < this.config.numLayers; i++) {
        const y = this.applyLayer(x, i);
        x.dispose();
        x = y;
      }
      return x;
    });
  }

  /** Patches and class token with their positions, normalized: float32 [images, 1 + patches, visualSize]. */
  applyEmbedding(images: tf.Tensor4D): tf.Tensor3D {
    const { imageSize, imageHeight = imageSize, patchSize, visualSize } = this.config;
    expectShape(
      'ClipViT: images',
      images,
      ['images', imageHeight, imageSize, 3],
      'Resize images to the size of the trained positions, with channels last.',
    );
    const p = this.params;
    return tf.tidy(() => {
      const patches = conv2d(images, p.patches, { stride: patchSize, padding: 'valid' }); // [n, rows, columns, d]
      const [n, rows, columns] = patches.shape;
      // Repeats the class token by broadcasting, so that its gradient is one sum.
      const first = tf.add(tf.zeros([n, 1, visualSize]), p.classToken);
      const x = tf.concat([first, tf.reshape(patches, [n, rows * columns, visualSize])], 1); // [n, 1 + p, d]
      return layerNorm(tf.add(x, p.positions), p.preNorm) as tf.Tensor3D;
    });
  }

  /** One pre-norm layer: attention, then MLP. */
  applyLayer(x: tf.Tensor3D, index: number): tf.Tensor3D {
    const p = this.params.layers[index]!;
    return tf.tidy(() => {
      // Frees the intermediate tensors of attention before the MLP.
      const y = tf.tidy(() => {
        const h = layerNorm(x, p.attnNorm);
        const mixed = attention(
          innerLinear(h, p.query) as tf.Tensor3D,
          innerLinear(h, p.key) as tf.Tensor3D,
          innerLinear(h, p.value) as tf.Tensor3D,
          { numHeads: this.config.numHeads },
        );
        return linearAdd(mixed, p.output, x);
      });
      return mlp(layerNorm(y, p.mlpNorm), p, this.config.activation, y) as tf.Tensor3D;
    });
  }
}
