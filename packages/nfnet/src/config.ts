import { checkConfig, checkValue, rule, type ConfigRules } from '@flamingo-ts/kernels';

const NFNET_ACTIVATIONS = ['scaled-gelu', 'scaled-gelu-tanh', 'scaled-relu'] as const;
const CONVENTIONS = ['timm', 'deepmind'] as const;

/** Sizes and conventions of a normalizer-free residual network (Brock et al. 2021, section 4). */
export interface NFNetConfig {
  /** Side of the square images that it is meant for, in pixels; any other size works too. */
  readonly imageSize: number;
  /** Channel means and standard deviations, on a scale of 0 to 1, by which images are normalized. */
  readonly mean: readonly [number, number, number];
  readonly std: readonly [number, number, number];
  /** Output channels and strides of the 3x3 convolutions of the stem. */
  readonly stemWidths: readonly number[];
  readonly stemStrides: readonly number[];
  /** Output channels, number of blocks and stride of every stage. */
  readonly widths: readonly number[];
  readonly depths: readonly number[];
  readonly strides: readonly number[];
  /** Inner channels of a block as a fraction of its output channels. */
  readonly bottleneckRatio: number;
  /** Channels per group of the 3x3 convolutions; 0: no groups. */
  readonly groupSize: number;
  /** Inner width of squeeze-excite as a fraction of the block's output channels; 0: no squeeze-excite. */
  readonly squeezeExciteRatio: number;
  /** Weight of each residual branch. */
  readonly alpha: number;
  readonly activation: (typeof NFNET_ACTIVATIONS)[number];
  /** Lower bound of a kernel's variance: timm adds `eps`; DeepMind uses the larger of variance times fan-in and `eps`. */
  readonly standardization: (typeof CONVENTIONS)[number];
  readonly eps: number;
  /** TensorFlow's SAME (all published F-series weights), or the same number of zeros on both sides. */
  readonly padding: 'same' | 'symmetric';
  /** Channels of the 1x1 convolution after the last stage: the width of the features. */
  readonly finalWidth: number;
  /** Initial learned gain of every residual branch: 0 in the paper; 1 uses the branches from the start, for short training. */
  readonly initialSkipGain: number;
  /** Width of the classifier; 0: no classifier. */
  readonly numClasses: number;
  /** Fraction of pooled features dropped before the classifier in training. */
  readonly dropRate: number;
  /** Largest probability of dropping a block's branch in training. */
  readonly stochasticDepthRate: number;
  /** timm reaches the maximum rate at the last block and divides by the keep probability; DeepMind does neither. */
  readonly stochasticDepthRule: (typeof CONVENTIONS)[number];
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

/** Values shared by F0 to F6, in the conventions of their published weights (DeepMind's). */
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
  standardization: 'deepmind',
  padding: 'same',
  initialSkipGain: 0,
  numClasses: 0,
  dropRate: 0,
  stochasticDepthRate: 0,
  stochasticDepthRule: 'deepmind',
};

/** Input of `nfnetConfig`: a published variant with changes, or your own sizes. */
export type NFNetConfigInput = Partial<NFNetConfig> &
  ({ readonly variant: NFNetVariant } | { readonly depths: readonly number[]; readonly imageSize: number });

/**
 * Fills in defaults and checks the result. Values default to those of F0 to F6; `finalWidth` defaults to twice the width of
 * the last stage.
 *
 * @example nfnetConfig({ variant: 'F6', imageSize: 320 }) // the encoder of Flamingo
 * @throws Error naming the first wrong key
 */
export function nfnetConfig(input: NFNetConfigInput): NFNetConfig {
  const { variant, ...overrides } = input as Partial<NFNetConfig> & { readonly variant?: NFNetVariant };
  const variants = Object.keys(NFNET_VARIANTS) as NFNetVariant[];
  checkValue('nfnetConfig', 'variant', variant, rule.optional(rule.oneOf(variants)));
  const { depths = [], imageSize = 0, dropRate = 0 } = variant ? NFNET_VARIANTS[variant] : {};
  const merged = { ...F_SERIES, depths, imageSize, dropRate, ...overrides };
  const config: NFNetConfig = {
    ...merged,
    eps: overrides.eps ?? (merged.standardization === 'timm' ? 1e-5 : 1e-4),
    finalWidth: overrides.finalWidth ?? 2 * (merged.widths.at(-1) ?? 0),
  };
  checkNFNetConfig(config);
  return config;
}

const stride = rule.oneOf([1, 2]);
const fraction = rule.number({ min: 0, below: 1 });

const RULES: ConfigRules<NFNetConfig> = {
  imageSize: rule.size,
  mean: rule.list(rule.number(), 3),
  std: rule.list(rule.number({ above: 0 }), 3),
  stemWidths: rule.list(rule.size),
  stemStrides: rule.list<readonly number[]>(stride),
  widths: rule.list(rule.size),
  depths: rule.list(rule.size),
  strides: rule.list<readonly number[]>(stride),
  bottleneckRatio: rule.number({ above: 0 }),
  groupSize: rule.integer({ min: 0 }),
  squeezeExciteRatio: rule.number({ min: 0 }),
  alpha: rule.number(),
  activation: rule.oneOf(NFNET_ACTIVATIONS),
  standardization: rule.oneOf(CONVENTIONS),
  eps: rule.number({ min: 0 }),
  padding: rule.oneOf(['same', 'symmetric']),
  finalWidth: rule.size,
  initialSkipGain: rule.number(),
  numClasses: rule.integer({ min: 0 }),
  dropRate: fraction,
  stochasticDepthRate: fraction,
  stochasticDepthRule: rule.oneOf(CONVENTIONS),
};

/** @throws Error naming the first wrong key */
export function checkNFNetConfig(c: NFNetConfig): void {
  checkConfig('NFNetConfig', c, RULES);
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
  for (const width of c.widths) {
    const inner = Math.floor(width * c.bottleneckRatio);
    if (inner < Math.max(1, c.groupSize)) {
      fail(
        `groupSize ${c.groupSize} does not fit into the ${inner} inner channels of a stage of width ${width}. ` +
          'Lower it, or set groupSize to 0 for convolutions without groups.',
      );
    }
  }
}

/** Numbers of one block that follow from the config. */
export interface NFBlockPlan {
  readonly inWidth: number;
  readonly outWidth: number;
  readonly stride: 1 | 2;
  /** Channels and groups of the 3x3 convolutions. */
  readonly innerWidth: number;
  readonly groups: number;
  /** Inner width of squeeze-excite; 0: no squeeze-excite. */
  readonly squeezeWidth: number;
  /** 1 over the expected standard deviation of the block's input at initialization. */
  readonly beta: number;
  /** Whether the shortcut pools and projects: where stride or width change. */
  readonly project: boolean;
  /** Probability of dropping the branch in training. */
  readonly dropRate: number;
}

/**
 * Plans of all blocks, by stage. The expected variance starts at 1 and grows by alpha squared with each block. The first
 * block of a stage resets it to 1, because its shortcut projects normalized input (NFNet paper, section 3).
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
