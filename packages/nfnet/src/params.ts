import {
  constantSpec,
  freshParams,
  FrozenFilter,
  FrozenMatrix,
  linearSpec,
  namedParams,
  normalSpec,
  ParamSpec,
  shapesOf,
  standardizeWeight,
  type FilterPrecision,
  type LoadParamsOptions,
  type Random,
  type StateTensor,
} from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { checkNFNetConfig, nfnetPlan, type NFBlockPlan, type NFNetConfig } from './config';

type Vector = tf.Variable<tf.Rank.R1>;

/** A standardized convolution: kernel OIHW `[out, in / groups, k, k]`, gain and bias `[out]`. If frozen, it has no gain. */
export type ConvParams = { readonly weight: tf.Variable | FrozenFilter; readonly gain?: Vector; readonly bias: Vector };

/** Weight `[out, in]` and bias `[out]`. */
type LinearParams = { readonly weight: tf.Variable<tf.Rank.R2> | FrozenMatrix; readonly bias: Vector };

export type NFBlockParams = {
  /** Present if `project` of the plan is true. */
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

/** Specs of all parameters. */
export function nfnetSpecs(config: NFNetConfig) {
  checkNFNetConfig(config);
  const conv = (out: number, inPerGroup: number, kernel: number) => ({
    weight: normalSpec([out, inPerGroup, kernel, kernel], (inPerGroup * kernel * kernel) ** -0.5),
    gain: constantSpec([out], 1),
    bias: constantSpec([out], 0),
  });
  const squeeze = (out: number, into: number) => ({
    ...(config.standardization === 'deepmind' ? truncatedLinearSpec(out, into) : linearSpec(out, into)),
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

/** Normal as in `linearSpec`, truncated at two standard deviations. */
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

/** Shapes of all parameters by name. Allocates nothing. */
export function nfnetShapes(config: NFNetConfig): Record<string, readonly number[]> {
  return shapesOf(nfnetSpecs(config));
}

/**
 * Floating-point operations of one forward pass over one image, from the shapes of the kernels. A multiply and an add count
 * as two; the papers count multiply-adds, which gives half the number.
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

/** Fresh parameters: kernels normal with standard deviation fan-in ** -0.5, gains 1, biases 0, skip gains as configured. */
export function initNFNet(config: NFNetConfig, random: Random): NFNetParams {
  return freshParams(nfnetSpecs(config), random);
}

/**
 * Shapes that the parameters of a network must have. Freezing folds the gain of a convolution into its kernel.
 *
 * @param params fresh, loaded or frozen
 */
export function expectedShapes(config: NFNetConfig, params: NFNetParams): Record<string, readonly number[]> {
  const named = namedParams(params);
  const isFolded = (name: string) => named.get(name.replace(/gain$/, 'weight')) instanceof FrozenFilter;
  const shapes = Object.entries(nfnetShapes(config));
  return Object.fromEntries(shapes.filter(([name]) => !(name.endsWith('.gain') && isFolded(name))));
}

/** Makes frozen parameters from the values of a state, for `loadParams`. */
export function freezing(
  config: NFNetConfig,
  state: Readonly<Record<string, StateTensor>>,
  precision: FilterPrecision,
): NonNullable<LoadParamsOptions['make']> {
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
    // Frees the intermediate tensors before packing, to limit peak memory.
    const kernel = tf.tidy(() => {
      const [weight, gain] = [tf.tensor(values.data, [...shape]), tf.tensor1d(state[`${module}.gain`]!.data)];
      return standardizeWeight(weight, gain, { ...config, gamma: gammas.get(module!) ?? 1 });
    });
    const filter = new FrozenFilter(kernel, precision);
    kernel.dispose();
    return filter;
  };
}
