import {
  activation,
  avgPool2d,
  constantSpec,
  conv2dSequence,
  expectKeys,
  expectShape,
  freezeParams,
  freshParams,
  FrozenFilter,
  FrozenMatrix,
  linear,
  linearSpec,
  loadParams,
  normalSpec,
  ParamSpec,
  retire,
  retireParams,
  shapesOf,
  standardiseWeight,
  type Conv2dLayer,
  type FilterPrecision,
  type MakeOptions,
  type Random,
  type StateTensor,
} from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { gatedSum } from './gated-sum';

// ---------------------------------------------------------------------------------------------------------------
// Config

/** The shape and conventions of a normaliser-free residual network (Brock et al. 2021, section 4). */
export interface NFNetConfig {
  /** Side of the square images it is meant for; any other size works too. */
  readonly imageSize: number;
  /** Channel means and deviations, after division by 255, that images are normalised with. */
  readonly mean: readonly [number, number, number];
  readonly std: readonly [number, number, number];
  /** Output channels and strides of the 3x3 convolutions of the stem. */
  readonly stemWidths: readonly number[];
  readonly stemStrides: readonly number[];
  /** Output channels, number of blocks and stride of every stage. */
  readonly widths: readonly number[];
  readonly depths: readonly number[];
  readonly strides: readonly number[];
  /** Inner channels of a block as a share of its output channels. */
  readonly bottleneckRatio: number;
  /** Channels per group of the 3x3 convolutions; 0 leaves them ungrouped. */
  readonly groupSize: number;
  /** Inner width of squeeze-excite as a share of the block's output channels; 0 leaves it out. */
  readonly squeezeExciteRatio: number;
  /** Weight of each residual branch. */
  readonly alpha: number;
  readonly activation: 'scaled-gelu' | 'scaled-gelu-tanh' | 'scaled-relu';
  /** How a kernel's variance is kept from zero: timm adds `eps` to it, DeepMind takes the larger of variance times fan-in and `eps`. */
  readonly standardisation: 'timm' | 'deepmind';
  readonly eps: number;
  /** TensorFlow's SAME (all published F-series weights) or the same number of zeros on both sides. */
  readonly padding: 'same' | 'symmetric';
  /** Channels of the 1x1 convolution after the last stage: the width of the features. */
  readonly finalWidth: number;
  /** Learned gain of every residual branch at the start: 0 in the paper, 1 lets short trainings use the branches at once. */
  readonly initialSkipGain: number;
  /** Width of the classifier; 0 leaves it out. */
  readonly numClasses: number;
  /** Share of pooled features dropped before the classifier in training. */
  readonly dropRate: number;
  /** Largest probability of leaving out a block's branch in training. */
  readonly stochasticDepthRate: number;
  /** timm lets the rate reach its maximum at the last block and divides by the keep probability; DeepMind does neither. */
  readonly stochasticDepthRule: 'timm' | 'deepmind';
}

/** Depths, image sizes and drop rates of the published variants (NFNet paper, table 1 and section 4.2). */
export const NFNET_VARIANTS = {
  F0: { depths: [1, 2, 6, 3], trainSize: 192, imageSize: 256, dropRate: 0.2 },
  F1: { depths: [2, 4, 12, 6], trainSize: 224, imageSize: 320, dropRate: 0.3 },
  F2: { depths: [3, 6, 18, 9], trainSize: 256, imageSize: 352, dropRate: 0.4 },
  F3: { depths: [4, 8, 24, 12], trainSize: 320, imageSize: 416, dropRate: 0.4 },
  F4: { depths: [5, 10, 30, 15], trainSize: 384, imageSize: 512, dropRate: 0.5 },
  F5: { depths: [6, 12, 36, 18], trainSize: 416, imageSize: 544, dropRate: 0.5 },
  F6: { depths: [7, 14, 42, 21], trainSize: 448, imageSize: 576, dropRate: 0.5 },
} as const;

export type NFNetVariant = keyof typeof NFNET_VARIANTS;

/** What F0 to F6 share, in the conventions their published weights were trained with (DeepMind's). */
const F_SERIES: Omit<NFNetConfig, 'eps' | 'depths' | 'imageSize' | 'finalWidth'> = {
  mean: [0.485, 0.456, 0.406],
  std: [0.229, 0.224, 0.225],
  stemWidths: [16, 32, 64, 128],
  stemStrides: [2, 1, 1, 2],
  widths: [256, 512, 1536, 1536],
  strides: [1, 2, 2, 2],
  bottleneckRatio: 0.5,
  groupSize: 128,
  squeezeExciteRatio: 0.5,
  alpha: 0.2,
  activation: 'scaled-gelu-tanh',
  standardisation: 'deepmind',
  padding: 'same',
  initialSkipGain: 0,
  numClasses: 0,
  dropRate: 0,
  stochasticDepthRate: 0,
  stochasticDepthRule: 'deepmind',
};

/** Settings of a network: a published variant with changes, or a network of one's own. */
export type NFNetSettings = Partial<NFNetConfig> &
  ({ readonly variant: NFNetVariant } | { readonly depths: readonly number[]; readonly imageSize: number });

/**
 * Completes and checks settings. Whatever is not given is as in F0 to F6; the final width defaults to twice the last stage.
 *
 * @example nfnetConfig({ variant: 'F6', imageSize: 320 }) // the encoder of Flamingo
 */
export function nfnetConfig(settings: NFNetSettings): NFNetConfig {
  const { variant, ...own } = settings as Partial<NFNetConfig> & { readonly variant?: NFNetVariant };
  if (variant !== undefined && !(variant in NFNET_VARIANTS)) {
    throw new Error(`nfnetConfig: variant must be one of ${Object.keys(NFNET_VARIANTS).join(', ')}, got ${variant}.`);
  }
  const { depths = [], imageSize = 0, dropRate = 0 } = variant ? NFNET_VARIANTS[variant] : {};
  expectKeys('nfnetConfig', own, KEYS);
  const merged = { ...F_SERIES, depths, imageSize, dropRate, ...own };
  const config: NFNetConfig = {
    ...merged,
    eps: own.eps ?? (merged.standardisation === 'timm' ? 1e-5 : 1e-4),
    finalWidth: own.finalWidth ?? 2 * (merged.widths[merged.widths.length - 1] ?? 0),
  };
  checkConfig(config);
  return config;
}

const KEYS = ['variant', ...Object.keys(F_SERIES), 'depths', 'imageSize', 'eps', 'finalWidth'];

function checkConfig(c: NFNetConfig): void {
  const fail = (what: string): never => {
    throw new Error(`NFNetConfig: ${what}`);
  };
  if (c.stemWidths.length !== c.stemStrides.length || c.stemWidths.length === 0) {
    fail(
      `stemStrides must have one entry for each of the ${c.stemWidths.length} stemWidths, got ${c.stemStrides.length}.`,
    );
  }
  if (c.widths.length === 0 || c.depths.length !== c.widths.length || c.strides.length !== c.widths.length) {
    fail(
      `widths, depths and strides must have one entry per stage, got ${c.widths.length}, ${c.depths.length} and ${c.strides.length}.`,
    );
  }
  for (const stride of [...c.stemStrides, ...c.strides])
    if (stride !== 1 && stride !== 2) fail(`strides must be 1 or 2, got ${stride}.`);
  for (const n of [...c.stemWidths, ...c.widths, ...c.depths, c.finalWidth, c.imageSize]) {
    if (!Number.isInteger(n) || n < 1) fail(`widths, depths and sizes must be whole numbers above 0, got ${n}.`);
  }
  for (const width of c.widths) {
    if (Math.floor(width * c.bottleneckRatio) < Math.max(1, c.groupSize)) {
      fail(
        `groupSize ${c.groupSize} does not fit into the ${Math.floor(width * c.bottleneckRatio)} inner channels of a stage of width ${width}. ` +
          'Lower it, or set groupSize 0 for ungrouped convolutions.',
      );
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Plan: what follows from the config, block by block

/** Derived numbers of one block. */
export interface NFBlockPlan {
  readonly inWidth: number;
  readonly outWidth: number;
  readonly stride: 1 | 2;
  /** Channels and groups of the 3x3 convolutions. */
  readonly innerWidth: number;
  readonly groups: number;
  /** Inner width of squeeze-excite, 0 without. */
  readonly squeezeWidth: number;
  /** 1 over the expected deviation of the block's input at the start of training. */
  readonly beta: number;
  /** Whether the shortcut pools and projects, as it does where stride or width change. */
  readonly project: boolean;
  /** Probability of leaving out the branch in training. */
  readonly dropRate: number;
}

/**
 * Derived numbers of all blocks, by stage. The expected variance starts at 1, each block adds alpha squared, and the first
 * block of a stage sets it back to 1, as its shortcut projects normalised input (NFNet paper, section 3).
 */
export function nfnetPlan(config: NFNetConfig): readonly (readonly NFBlockPlan[])[] {
  const total = config.depths.reduce((a, b) => a + b, 0);
  const timm = config.stochasticDepthRule === 'timm';
  let inWidth = config.stemWidths[config.stemWidths.length - 1]!;
  let variance = 1;
  let index = 0;
  return config.widths.map((outWidth, s) =>
    Array.from({ length: config.depths[s]! }, (_, b): NFBlockPlan => {
      const stride = b === 0 ? (config.strides[s] as 1 | 2) : 1;
      const inner = Math.floor(outWidth * config.bottleneckRatio);
      const groups = config.groupSize ? Math.floor(inner / config.groupSize) : 1;
      const plan: NFBlockPlan = {
        inWidth,
        outWidth,
        stride,
        innerWidth: config.groupSize ? groups * config.groupSize : inner,
        groups,
        squeezeWidth: config.squeezeExciteRatio ? Math.max(1, Math.floor(outWidth * config.squeezeExciteRatio)) : 0,
        beta: variance ** -0.5,
        project: stride > 1 || inWidth !== outWidth,
        dropRate: (config.stochasticDepthRate * index) / (timm ? Math.max(1, total - 1) : total),
      };
      if (b === 0) variance = 1;
      variance += config.alpha ** 2;
      inWidth = outWidth;
      index++;
      return plan;
    }),
  );
}

// ---------------------------------------------------------------------------------------------------------------
// Params

type Vector = tf.Variable<tf.Rank.R1>;

/** A standardised convolution: kernel OIHW `[out, in / groups, k, k]`, gain and bias `[out]`. A frozen one has no gain. */
type ConvParams = { readonly weight: tf.Variable | FrozenFilter; readonly gain?: Vector; readonly bias: Vector };

/** Weight `[out, in]` and bias `[out]`. */
type LinearParams = { readonly weight: tf.Variable<tf.Rank.R2> | FrozenMatrix; readonly bias: Vector };

type NFBlockParams = {
  /** Where the plan says `project`. */
  readonly shortcut?: ConvParams;
  readonly conv1: ConvParams;
  readonly conv2: ConvParams;
  readonly conv2b: ConvParams;
  readonly conv3: ConvParams;
  readonly squeezeExcite?: { readonly reduce: LinearParams; readonly expand: LinearParams };
  readonly skipGain: tf.Variable<tf.Rank.R0>;
};

/** Parameters of a network; their paths joined by dots are their names in a checkpoint. */
export type NFNetParams = {
  readonly stem: readonly ConvParams[];
  readonly stages: readonly (readonly NFBlockParams[])[];
  readonly finalConv: ConvParams;
  readonly classifier?: LinearParams;
};

/** All parameters, and how they start. */
function nfnetSpecs(config: NFNetConfig) {
  const conv = (out: number, inPerGroup: number, kernel: number) => ({
    weight: normalSpec([out, inPerGroup, kernel, kernel], (inPerGroup * kernel * kernel) ** -0.5),
    gain: constantSpec([out], 1),
    bias: constantSpec([out], 0),
  });
  const squeeze = (out: number, into: number) => ({
    ...(config.standardisation === 'deepmind' ? truncatedLinearSpec(out, into) : linearSpec(out, into)),
    bias: constantSpec([out], 0),
  });
  const block = (p: NFBlockPlan) => ({
    ...(p.project && { shortcut: conv(p.outWidth, p.inWidth, 1) }),
    conv1: conv(p.innerWidth, p.inWidth, 1),
    conv2: conv(p.innerWidth, p.innerWidth / p.groups, 3),
    conv2b: conv(p.innerWidth, p.innerWidth / p.groups, 3),
    conv3: conv(p.outWidth, p.innerWidth, 1),
    ...(p.squeezeWidth > 0 && {
      squeezeExcite: { reduce: squeeze(p.squeezeWidth, p.outWidth), expand: squeeze(p.outWidth, p.squeezeWidth) },
    }),
    skipGain: constantSpec([], config.initialSkipGain),
  });
  const { stemWidths, widths, finalWidth, numClasses } = config;
  return {
    stem: stemWidths.map((out, i) => conv(out, stemWidths[i - 1] ?? 3, 3)),
    stages: nfnetPlan(config).map((stage) => stage.map(block)),
    finalConv: conv(finalWidth, widths[widths.length - 1]!, 1),
    ...(numClasses > 0 && {
      classifier: { ...linearSpec(numClasses, finalWidth, 0.01), bias: constantSpec([numClasses], 0) },
    }),
  };
}

/** Normal as in `linearSpec`, but drawn again beyond two deviations. */
function truncatedLinearSpec(out: number, into: number) {
  const fresh = (random: Random) => {
    const values = new Float32Array(out * into).map(() => {
      let v = random.normal();
      while (Math.abs(v) > 2) v = random.normal();
      return v * into ** -0.5;
    });
    return tf.tidy(() => tf.variable(tf.tensor2d(values, [out, into])));
  };
  return { weight: new ParamSpec([out, into] as const, fresh) };
}

/** Shapes of all parameters by name, without making any. */
export function nfnetShapes(config: NFNetConfig): Record<string, readonly number[]> {
  return shapesOf(nfnetSpecs(config));
}

/**
 * Floating-point operations of one forward pass over one image (a multiply and an add count as two), from the shapes of
 * its kernels; the papers count multiply-adds, half of it.
 */
export function nfnetFlops(config: NFNetConfig, height: number = config.imageSize, width: number = height): number {
  const shapes = nfnetShapes(config);
  let [h, w] = [height, width];
  let multiplyAdds = 0;
  const add = (name: string, cells: number) => (multiplyAdds += cells * sizeOf(shapes[`${name}.weight`] ?? [0]));
  const step = (stride: number) => ([h, w] = [Math.ceil(h / stride), Math.ceil(w / stride)]);
  config.stemStrides.forEach((stride, i) => {
    step(stride);
    add(`stem.${i}`, h * w);
  });
  nfnetPlan(config).forEach((stage, s) =>
    stage.forEach((plan, b) => {
      const name = `stages.${s}.${b}`;
      add(`${name}.conv1`, h * w);
      step(plan.stride);
      for (const conv of ['shortcut', 'conv2', 'conv2b', 'conv3']) add(`${name}.${conv}`, h * w);
      for (const layer of ['reduce', 'expand']) add(`${name}.squeezeExcite.${layer}`, 1);
    }),
  );
  add('finalConv', h * w);
  add('classifier', 1);
  return 2 * multiplyAdds;
}

const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** Fresh parameters: kernels normal with deviation fan-in to the -1/2, gains 1, biases 0, skip gains as configured. */
export function initNFNet(config: NFNetConfig, random: Random): NFNetParams {
  return freshParams(nfnetSpecs(config), random);
}

// ---------------------------------------------------------------------------------------------------------------
// Parts

/** What training adds to a forward pass. */
export interface NFNetTraining {
  /** Per block, in order, and per image: 1 keeps the branch, 0 leaves it out (stochastic depth). See `drawKeepMasks`. */
  readonly keep?: readonly ArrayLike<number>[];
  /** Draws what dropout takes from the pooled features before the classifier. */
  readonly dropout?: Random;
}

/** Draws which branches stochastic depth keeps: for every block a 0 or 1 per image. */
export function drawKeepMasks(config: NFNetConfig, images: number, random: Random): Float32Array[] {
  return nfnetPlan(config)
    .flat()
    .map(({ dropRate }) => Float32Array.from({ length: images }, () => (random.uniform() < dropRate ? 0 : 1)));
}

/** `[n, h, w, c] -> [n, 1, c]`. A product with a row of 1/(h w): one matrix product forward, one back. */
function spatialMean(x: tf.Tensor4D): tf.Tensor3D {
  const [n, h, w, c] = x.shape;
  const weights = tf.fill([n, 1, h * w], 1 / (h * w)) as tf.Tensor3D;
  return tf.matMul(weights, tf.reshape(x, [n, h * w, c]) as tf.Tensor3D);
}

// ---------------------------------------------------------------------------------------------------------------
// Model

/** How a state becomes a network. */
export interface NFNetLoading {
  /**
   * Makes what `freeze` makes, one parameter after the other: where the backend packs, and the state's data are getters that
   * read a file, hardly more than the packed network is ever in memory.
   */
  readonly freeze?: FilterPrecision;
}

/** Makes frozen parameters of a state's values. */
function freezing(
  config: NFNetConfig,
  state: Readonly<Record<string, StateTensor>>,
  precision: FilterPrecision,
): NonNullable<MakeOptions['make']> {
  const gammas = new Map<string, number>();
  nfnetPlan(config).forEach((stage, s) =>
    stage.forEach(({ beta }, b) => {
      for (const conv of ['shortcut', 'conv1']) gammas.set(`stages.${s}.${b}.${conv}`, beta);
    }),
  );
  return (name, values) => {
    const { shape } = values;
    const [, module, leaf] = /^(.*)\.(\w+)$/.exec(name)!;
    if (leaf === 'gain') return null;
    if (shape.length === 2) return new FrozenMatrix(values.data, shape as [number, number], precision);
    if (shape.length !== 4) return undefined;
    // What the kernel was made of is freed first, so that the packed one can take its place.
    const kernel = tf.tidy(() => {
      const [weight, gain] = [tf.tensor(values.data, [...shape]), tf.tensor1d(state[`${module}.gain`]!.data)];
      return standardiseWeight(weight, gain, { ...config, gamma: gammas.get(module!) ?? 1 });
    });
    const filter = new FrozenFilter(kernel, precision);
    kernel.dispose();
    return filter;
  };
}

/** One convolution of several in a row. */
interface ConvLayer {
  readonly p: ConvParams;
  readonly stride?: 1 | 2;
  readonly groups?: number;
  /** Gain of what comes before. */
  readonly gamma?: number;
  readonly activated?: boolean;
}

/** A normaliser-free residual network as an image encoder (and classifier, where it has one). */
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
    checkConfig(config);
    this.plan = nfnetPlan(config);
    this.featureDim = config.finalWidth;
    ({ imageSize: this.imageSize, mean: this.mean, std: this.std } = config);
  }

  /**
   * A network with the values of a state that has this package's parameter names (see `importTimm`, `importHaiku`). A
   * classifier in the state is left out where the config has none.
   */
  static fromState(
    config: NFNetConfig,
    state: Readonly<Record<string, StateTensor>>,
    { freeze }: NFNetLoading = {},
  ): NFNet {
    const params = loadParams(nfnetSpecs(config), state, {
      what: 'NFNet.fromState',
      ...(config.numClasses === 0 && { ignoreUnexpected: /^classifier\./ }),
      ...(freeze && { make: freezing(config, state, freeze) }),
    });
    return new NFNet(config, params);
  }

  /**
   * The same network for use without training: every kernel standardised once, with gain and beta in it, and packed by the
   * backend, as are the matrices. Frees the variables that it replaces; any further use of this object throws. The result
   * has no gains, so its state is none that `fromState` takes.
   *
   * @param precision how a backend that packs shall hold kernels and matrices, and compute with them
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
   * The features as a sequence, row by row: what a Perceiver Resampler reads (Flamingo, section 2.1).
   *
   * @param images float32 [images, height, width, 3], normalised by `mean` and `std`
   * @returns      float32 [images, patches, featureDim]
   */
  encode(images: tf.Tensor4D, training?: NFNetTraining): tf.Tensor3D {
    return tf.tidy(() => {
      const map = this.featureMap(images, training);
      const [n, h, w, c] = map.shape;
      return tf.reshape(map, [n, h * w, c]);
    });
  }

  /**
   * @param images float32 [images, height, width, 3], normalised by `mean` and `std`
   * @returns      float32 [images, height / 32, width / 32, featureDim] for the strides of F0 to F6
   */
  featureMap(images: tf.Tensor4D, training?: NFNetTraining): tf.Tensor4D {
    const blocks = this.plan.flat().length;
    if (training?.keep && training.keep.length !== blocks) {
      throw new Error(
        `NFNet.featureMap: training.keep must have one mask for each of the ${blocks} blocks, got ${training.keep.length}. ` +
          'Draw the masks with drawKeepMasks(config, images, random).',
      );
    }
    return tf.tidy(() => {
      let x = this.applyStem(images);
      let i = 0;
      this.plan.forEach((stage, s) =>
        stage.forEach(({ project }, b) => {
          const u = this.activate(x);
          // Maps are large: none stays longer than it must.
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
  pooled(images: tf.Tensor4D, training?: NFNetTraining): tf.Tensor2D {
    return tf.tidy(() => tf.squeeze(spatialMean(this.featureMap(images, training)), [1]));
  }

  /** Class scores, float32 [images, numClasses], of a network with a classifier. */
  logits(images: tf.Tensor4D, training?: NFNetTraining): tf.Tensor2D {
    const { classifier } = this.params;
    if (!classifier)
      throw new Error('NFNet.logits: this network has no classifier. Give its config numClasses above 0.');
    return tf.tidy(() => {
      const pooled = this.pooled(images, training);
      const kept = training?.dropout ? dropout(pooled, this.config.dropRate, training.dropout) : pooled;
      return linear(kept, classifier) as tf.Tensor2D;
    });
  }

  /** The stem: 3x3 convolutions with activations between. Float32 [images, height, width, 3] to a quarter of the size in F0 to F6. */
  applyStem(images: tf.Tensor4D): tf.Tensor4D {
    expectShape(
      'NFNet: images',
      images,
      ['images', 'height', 'width', 3],
      'Give normalised images with channels last; one image is tf.expandDims(image, 0).',
    );
    const { stemStrides } = this.config;
    const last = stemStrides.length - 1;
    const layers = this.params.stem.map((p, i) => ({ p, stride: stemStrides[i] as 1 | 2, activated: i < last }));
    return this.convolve(images, layers);
  }

  /**
   * One residual block. `beta` is folded into the kernels that read the activation, which is the same number.
   *
   * @param keep per image 1 or 0: stochastic depth
   */
  applyBlock(x: tf.Tensor4D, stage: number, block: number, keep?: ArrayLike<number>): tf.Tensor4D {
    const { project } = this.plan[stage]![block]!;
    return tf.tidy(() => this.residual(this.activate(x), project ? undefined : x, stage, block, keep));
  }

  /** A block from its activated input u; x, without activation, where the shortcut does not project. */
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
      // Everything the branch is multiplied with meets first in a small tensor: [n or 1, 1, c or 1].
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

  /** The 1x1 convolution after the last stage, and its activation: the features. */
  applyFinal(x: tf.Tensor4D): tf.Tensor4D {
    return this.convolve(x, [{ p: this.params.finalConv, activated: true }]);
  }

  private activate(x: tf.Tensor4D): tf.Tensor4D {
    return activation(x, this.config.activation) as tf.Tensor4D;
  }

  /** Squeeze-excite's weight of each channel, without its factor 2: `[n, h, w, c] -> [n, 1, c]`. */
  private excitation(y: tf.Tensor4D, p: NonNullable<NFBlockParams['squeezeExcite']>): tf.Tensor3D {
    const inner = linear(spatialMean(y), p.reduce, 'relu');
    return tf.sigmoid(linear(inner, p.expand)) as tf.Tensor3D;
  }

  /** Convolutions in a row, with the network's activation after those that want it. */
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

  /** The kernel to convolve with. */
  private kernel({ weight, gain }: ConvParams, gamma: number): tf.Tensor | FrozenFilter {
    if (weight instanceof FrozenFilter || !gain) return weight;
    return standardiseWeight(weight, gain, { ...this.config, gamma });
  }
}

/** Inverted dropout: what is kept is divided by the probability of keeping it. */
function dropout(x: tf.Tensor2D, rate: number, random: Random): tf.Tensor2D {
  const kept = Float32Array.from({ length: x.size }, () => (random.uniform() < rate ? 0 : 1 / (1 - rate)));
  return tf.mul(x, tf.tensor2d(kept, x.shape));
}
