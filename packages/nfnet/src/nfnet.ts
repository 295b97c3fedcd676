import {
  activation,
  avgPool2d,
  conv2dSequence,
  expectParams,
  expectRandom,
  expectShape,
  freezeParams,
  FrozenFilter,
  linear,
  loadParams,
  retire,
  retireParams,
  standardizeWeight,
  type Conv2dLayer,
  type FilterPrecision,
  type Random,
  type StateTensor,
} from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { nfnetPlan, type NFBlockPlan, type NFNetConfig } from './config';
import { gatedSum } from './gated-sum';
import { expectedShapes, freezing, nfnetSpecs, type ConvParams, type NFBlockParams, type NFNetParams } from './params';

/** Regularization of a forward pass in training. */
export interface NFNetTrainingOptions {
  /** Per block, in order, and per image: 1 keeps the branch, 0 drops it (stochastic depth). See `drawKeepMasks`. */
  readonly keep?: readonly ArrayLike<number>[];
  /** Draws the pooled features that dropout removes before the classifier. */
  readonly dropout?: Random;
}

/** Draws the branches that stochastic depth keeps: for every block, 0 or 1 per image. */
export function drawKeepMasks(config: NFNetConfig, images: number, random: Random): Float32Array[] {
  expectRandom('drawKeepMasks', random);
  return nfnetPlan(config)
    .flat()
    .map(({ dropRate }) => Float32Array.from({ length: images }, () => (random.uniform() < dropRate ? 0 : 1)));
}

/** `[n, h, w, c] -> [n, 1, c]`, as a product with a row of 1/(h w): one matrix product forward, one backward. */
function spatialMean(x: tf.Tensor4D): tf.Tensor3D {
  const [n, h, w, c] = x.shape;
  const weights = tf.fill([n, 1, h * w], 1 / (h * w)) as tf.Tensor3D;
  return tf.matMul(weights, tf.reshape(x, [n, h * w, c]) as tf.Tensor3D);
}

/** Options of `NFNet.fromState`. */
export interface NFNetLoadOptions {
  /**
   * Freezes parameters one by one while reading. On a backend that packs, and with a state whose data are getters that
   * read a file, memory holds little more than the packed network at any time.
   */
  readonly freeze?: FilterPrecision;
}

/** One convolution of a sequence. */
interface ConvLayer {
  readonly p: ConvParams;
  readonly stride?: 1 | 2;
  readonly groups?: number;
  /** Gain of the preceding operation, folded into the kernel. */
  readonly gamma?: number;
  readonly activated?: boolean;
}

/** A normalizer-free residual network as an image encoder, and as a classifier if `numClasses` is above 0. */
export class NFNet {
  readonly plan: readonly (readonly NFBlockPlan[])[];
  /** Width of the features. */
  readonly featureDim: number;
  readonly imageSize: number;
  readonly mean: readonly [number, number, number];
  readonly std: readonly [number, number, number];

  constructor(
    readonly config: NFNetConfig,
    readonly params: NFNetParams,
  ) {
    expectParams('NFNet', params, expectedShapes(config, params));
    this.plan = nfnetPlan(config);
    this.featureDim = config.finalWidth;
    ({ imageSize: this.imageSize, mean: this.mean, std: this.std } = config);
  }

  /**
   * Loads a network from a state under this package's parameter names (see `importTimm`, `importHaiku`). Ignores a
   * classifier in the state if the config has none.
   *
   * @throws Error listing the tensors that are missing, unexpected or of another shape
   */
  static fromState(
    config: NFNetConfig,
    state: Readonly<Record<string, StateTensor>>,
    { freeze }: NFNetLoadOptions = {},
  ): NFNet {
    const params = loadParams(nfnetSpecs(config), state, {
      what: 'NFNet.fromState',
      ...(config.numClasses === 0 && { ignoreUnexpected: /^classifier\./ }),
      ...(freeze && { make: freezing(config, state, freeze) }),
    });
    return new NFNet(config, params);
  }

  /**
   * Prepares the network for inference: standardizes every kernel once, folds gain and beta into it, and packs kernels and
   * matrices if the backend supports it. Frees the variables that it replaces; any further use of this object throws. The
   * result has no gains, so `fromState` does not accept its state.
   *
   * @param precision in which a backend that packs stores kernels and matrices, and computes with them
   */
  async freeze(precision: FilterPrecision = 'float32'): Promise<NFNet> {
    const fold = ({ weight, gain, bias }: ConvParams, gamma = 1): ConvParams => {
      const kernel = this.kernel({ weight, gain, bias }, gamma);
      if (kernel instanceof FrozenFilter) return { weight: kernel, bias };
      if (gain) tf.dispose([weight as tf.Variable, gain]);
      const frozen = new FrozenFilter(kernel, precision);
      kernel.dispose();
      return { weight: frozen, bias };
    };
    const { stem, stages, finalConv } = this.params;
    const folded: NFNetParams = {
      ...this.params,
      stem: stem.map((p) => fold(p)),
      stages: stages.map((stage, s) =>
        stage.map((p, b): NFBlockParams => {
          const { beta } = this.plan[s]![b]!;
          return {
            ...p,
            ...(p.shortcut && { shortcut: fold(p.shortcut, beta) }),
            conv1: fold(p.conv1, beta),
            conv2: fold(p.conv2),
            conv2b: fold(p.conv2b),
            conv3: fold(p.conv3),
          };
        }),
      ),
      finalConv: fold(finalConv),
    };
    const frozen = new NFNet(this.config, await freezeParams(folded, (_, { rank }) => rank === 2, precision));
    retireParams(this.params);
    retire(this, 'NFNet');
    return frozen;
  }

  /**
   * Encodes images to a sequence of features, row by row: the input of a Perceiver Resampler (Flamingo, section 2.1).
   *
   * @param images float32 [images, height, width, 3], normalized by `mean` and `std`
   * @returns      float32 [images, patches, featureDim]
   */
  encode(images: tf.Tensor4D, training?: NFNetTrainingOptions): tf.Tensor3D {
    return tf.tidy(() => {
      const map = this.featureMap(images, training);
      const [n, h, w, c] = map.shape;
      return tf.reshape(map, [n, h * w, c]);
    });
  }

  /**
   * Encodes images to a map of features.
   *
   * @param images float32 [images, height, width, 3], normalized by `mean` and `std`
   * @returns      float32 [images, height / 32, width / 32, featureDim] for the strides of F0 to F6
   */
  featureMap(images: tf.Tensor4D, training?: NFNetTrainingOptions): tf.Tensor4D {
    const blocks = this.plan.flat().length;
    if (training?.keep && training.keep.length !== blocks) {
      throw new Error(
        `NFNet.featureMap: training.keep must have one mask for each of the ${blocks} blocks, got ${training.keep.length}. ` +
          'Draw the masks with drawKeepMasks(config, images, random).',
      );
    }
    const short = training?.keep?.find((mask) => mask.length !== images.shape[0]);
    if (short) {
      throw new Error(
        `NFNet.featureMap: each mask of training.keep must have one entry for each of the ${images.shape[0]} images, got ${short.length}.`,
      );
    }
    return tf.tidy(() => {
      let x = this.applyStem(images);
      let i = 0;
      this.plan.forEach((stage, s) =>
        stage.forEach(({ project }, b) => {
          const u = this.activate(x);
          // Maps are large: free each as soon as possible.
          if (project) x.dispose();
          const y = this.residual(u, project ? undefined : x, s, b, training?.keep?.[i++]);
          tf.dispose([x, u]);
          x = y;
        }),
      );
      return this.applyFinal(x);
    });
  }

  /** Mean of the features over the image: float32 [images, featureDim]. */
  pooled(images: tf.Tensor4D, training?: NFNetTrainingOptions): tf.Tensor2D {
    return tf.tidy(() => tf.squeeze(spatialMean(this.featureMap(images, training)), [1]));
  }

  /** Class scores, float32 [images, numClasses]; requires a classifier. */
  logits(images: tf.Tensor4D, training?: NFNetTrainingOptions): tf.Tensor2D {
    const { classifier } = this.params;
    if (!classifier)
      throw new Error('NFNet.logits: this network has no classifier. Set numClasses above 0 in its config.');
    return tf.tidy(() => {
      const pooled = this.pooled(images, training);
      const kept = training?.dropout ? dropout(pooled, this.config.dropRate, training.dropout) : pooled;
      return linear(kept, classifier) as tf.Tensor2D;
    });
  }

  /** The stem: 3x3 convolutions with activations between them. In F0 to F6 it reduces height and width to a quarter. */
  applyStem(images: tf.Tensor4D): tf.Tensor4D {
    expectShape(
      'NFNet: images',
      images,
      ['images', 'height', 'width', 3],
      'Pass normalized images with channels last; for one image, tf.expandDims(image, 0).',
    );
    const { stemStrides } = this.config;
    const last = stemStrides.length - 1;
    const layers = this.params.stem.map((p, i) => ({ p, stride: stemStrides[i] as 1 | 2, activated: i < last }));
    return this.convolve(images, layers);
  }

  /**
   * One residual block. `beta` is folded into the kernels that read the activation, which gives the same result.
   *
   * @param keep per image 1 or 0, for stochastic depth
   */
  applyBlock(x: tf.Tensor4D, stage: number, block: number, keep?: ArrayLike<number>): tf.Tensor4D {
    const { project } = this.plan[stage]![block]!;
    return tf.tidy(() => this.residual(this.activate(x), project ? undefined : x, stage, block, keep));
  }

  /** A block from its activated input u; x is the input before activation, for a shortcut that does not project. */
  private residual(
    u: tf.Tensor4D,
    x: tf.Tensor4D | undefined,
    stage: number,
    block: number,
    keep: ArrayLike<number> | undefined,
  ): tf.Tensor4D {
    const p = this.params.stages[stage]![block]!;
    const { beta, stride, groups, dropRate } = this.plan[stage]![block]!;
    const projected = () => this.convolve(stride === 2 ? avgPool2d(u) : u, [{ p: p.shortcut!, gamma: beta }]);
    return tf.tidy(() => {
      const shortcut = x ?? tf.tidy(projected);
      const y = this.convolve(u, [
        { p: p.conv1, gamma: beta, activated: true },
        { p: p.conv2, stride, groups, activated: true },
        { p: p.conv2b, groups, activated: true },
        { p: p.conv3 },
      ]);
      // Multiplies all factors of the branch in a small tensor first: [n or 1, 1, c or 1].
      const { alpha, stochasticDepthRule } = this.config;
      let scale = tf.reshape(tf.mul(p.skipGain, p.squeezeExcite ? 2 * alpha : alpha), [1, 1, 1]);
      if (p.squeezeExcite) scale = tf.mul(scale, this.excitation(y, p.squeezeExcite)); // [n, 1, c]
      if (keep) {
        const share = stochasticDepthRule === 'timm' ? 1 / (1 - dropRate) : 1;
        const kept = Float32Array.from(keep, (k) => k * share);
        scale = tf.mul(scale, tf.tensor3d(kept, [keep.length, 1, 1]));
      }
      return gatedSum(y, tf.expandDims(scale, 1), shortcut);
    });
  }

  /** The 1x1 convolution after the last stage and its activation; returns the features. */
  applyFinal(x: tf.Tensor4D): tf.Tensor4D {
    return this.convolve(x, [{ p: this.params.finalConv, activated: true }]);
  }

  private activate(x: tf.Tensor4D): tf.Tensor4D {
    return activation(x, this.config.activation) as tf.Tensor4D;
  }

  /** Channel weights of squeeze-excite, without its factor 2: `[n, h, w, c] -> [n, 1, c]`. */
  private excitation(y: tf.Tensor4D, p: NonNullable<NFBlockParams['squeezeExcite']>): tf.Tensor3D {
    const inner = linear(spatialMean(y), p.reduce, 'relu');
    return tf.sigmoid(linear(inner, p.expand)) as tf.Tensor3D;
  }

  /** A sequence of convolutions, with the network's activation after those that have `activated`. */
  private convolve(x: tf.Tensor4D, layers: readonly ConvLayer[]): tf.Tensor4D {
    const { padding, activation } = this.config;
    return tf.tidy(() =>
      conv2dSequence(
        x,
        layers.map(({ p, stride = 1, groups = 1, gamma = 1, activated = false }): Conv2dLayer => {
          const params = { weight: this.kernel(p, gamma), bias: p.bias };
          return { params, stride, groups, padding, ...(activated && { activation }) };
        }),
      ),
    );
  }

  /** The kernel for a convolution: standardized, unless it is frozen. */
  private kernel({ weight, gain }: ConvParams, gamma: number): tf.Tensor | FrozenFilter {
    if (weight instanceof FrozenFilter || !gain) return weight;
    return standardizeWeight(weight, gain, { ...this.config, gamma });
  }
}

/** Inverted dropout: divides kept values by the probability of keeping them. */
function dropout(x: tf.Tensor2D, rate: number, random: Random): tf.Tensor2D {
  expectRandom('NFNet.logits', random);
  const kept = Float32Array.from({ length: x.size }, () => (random.uniform() < rate ? 0 : 1 / (1 - rate)));
  return tf.mul(x, tf.tensor2d(kept, x.shape));
}
