/* eslint-disable @typescript-eslint/no-explicit-any -- the JSON of each kind of case has its own form */
import {
  ClipViT,
  clipViTConfig,
  clipViTShapes,
  contrastiveLogits,
  contrastiveLoss,
  importOpenClip,
  type ClipViTConfig,
} from '@flamingo-ts/clip-vit';
import { preprocess, resizeBicubic, type RgbImage } from '@flamingo-ts/data-mixtures';
import {
  activation,
  crossEntropy,
  disposeParams,
  standardizeWeight,
  variables,
  weightStandardizedConv2d,
  valueAndGrads,
  type ParamTree,
  type StateTensor,
  type WeightStandardizedConv2dOptions,
  type WeightStandardizedConv2dParams,
} from '@flamingo-ts/kernels';
import {
  importHaiku,
  importTimm,
  NFNET_VARIANTS,
  NFNet,
  nfnetConfig,
  nfnetPlan,
  nfnetShapes,
  type NFNetConfig,
  type NFNetVariant,
} from '@flamingo-ts/nfnet';
import {
  adamW,
  adaptiveGradientClip,
  addDecayedWeights,
  chain,
  disposeOptimizer,
  sgd,
  type Transform,
} from '@flamingo-ts/optim';
import { stateFrom } from '@flamingo-ts/testing';
import * as tf from '@tensorflow/tfjs-core';
import type { GoldenCase, GoldenHandler } from './case';
import { Comparison, GRADIENT, OUTPUT } from './comparison';

/** `[n, c, h, w] -> [n, h, w, c]` and back. */
const channelsLast = (x: tf.Tensor) => tf.transpose(x, [0, 2, 3, 1]) as tf.Tensor4D;
const channelsFirst = (x: tf.Tensor) => (x.rank === 4 ? tf.transpose(x, [0, 3, 1, 2]) : x);

type State = Readonly<Record<string, StateTensor>>;

/**
 * Compares the gradients of `sum(output * cotangent)` with respect to `x` (channels last) and every variable with those stored
 * under `prefix`.
 */
function compareGradients(
  check: Comparison,
  c: GoldenCase,
  prefix: string,
  cotangent: tf.Tensor,
  x: tf.Tensor4D,
  params: ParamTree,
  rename: (state: State) => State,
  output: (x: tf.Tensor4D) => tf.Tensor,
): void {
  const trained = variables(params);
  const names = Object.keys(trained);
  const { grads } = gradientsOf(() => tf.sum(tf.mul(output(x), cotangent)), [x, ...Object.values(trained)]);
  const { x: dx, ...stored } = stateFrom(c, prefix);
  check.close(`${prefix}x`, channelsFirst(grads[0]!), dx!, GRADIENT);
  compareNamed(
    check,
    prefix,
    Object.fromEntries(names.map((name, i) => [name, grads[i + 1]!])),
    rename(stored),
    GRADIENT,
  );
}

/**
 * Compares tensors by name. Compares some together as one vector, because each alone may cancel to almost 0: all scalars, and the
 * biases of query, key and value of a layer (no softmax depends on a key's bias), which the reference stacks.
 */
function compareNamed(
  check: Comparison,
  prefix: string,
  actual: Readonly<Record<string, tf.Tensor>>,
  expected: State,
  tolerance: number,
): void {
  check.same(`names of ${prefix}*`, Object.keys(actual).sort(), Object.keys(expected).sort());
  const groups = new Map<string, [actual: number[], expected: number[]]>();
  for (const [name, tensor] of Object.entries(actual)) {
    const group = tensor.rank === 0 ? 'scalars' : name.replace(/\.(query|key|value)\.bias$/, '.qkv.bias');
    if (!groups.has(group)) groups.set(group, [[], []]);
    const [a, b] = groups.get(group)!;
    a.push(...tensor.dataSync());
    b.push(...(expected[name]?.data ?? []));
  }
  for (const [group, [a, b]] of groups) check.close(`${prefix}${group}`, a, b, tolerance);
}

/** Gradients with respect to tensors and variables; zeros for those that the value does not depend on. */
function gradientsOf(f: () => tf.Scalar, at: tf.Tensor[]): { value: tf.Scalar; grads: tf.Tensor[] } {
  const { value, grads } = tf.engine().gradients(f, at, undefined, true);
  return { value: value as tf.Scalar, grads: grads.map((g, i) => g ?? tf.zerosLike(at[i]!)) };
}

// ---------------------------------------------------------------------------------------------------------------
// One convolution

const convolution: GoldenHandler = {
  matches: (c) => 'formula' in c.meta.hyperparameters && 'out.standardised_weight' in c.tensors,
  async run(c) {
    const hp = c.meta.hyperparameters;
    const options: WeightStandardizedConv2dOptions = {
      stride: hp.stride,
      groups: hp.groups,
      padding: hp.padding.startsWith('symmetric') ? 'symmetric' : 'same',
      standardization: /DeepMind/.test(hp.layer) ? 'deepmind' : 'timm',
      eps: hp.eps,
      gamma: hp.gamma ?? 1,
    };
    const weight = c.tensor('param.weight');
    const gain = tf.reshape(c.tensor('param.gain'), [-1]) as tf.Tensor1D;
    const bias = c.tensor('param.bias') as tf.Tensor1D;
    const x = channelsLast(c.tensor('x'));
    const check = new Comparison();
    const run = () => weightStandardizedConv2d(x, { weight, gain, bias }, options);
    check.stored(c, 'out.y', channelsFirst(run()), OUTPUT);
    check.stored(c, 'out.standardised_weight', standardizeWeight(weight, gain, options), OUTPUT);

    const cotangent = channelsLast(c.tensor('cotangent'));
    const [dx, dweight, dgain, dbias] = gradientsOf(
      () => tf.sum(tf.mul(run(), cotangent)),
      [x, weight, gain, bias],
    ).grads;
    check.stored(c, 'grad.x', channelsFirst(dx!), GRADIENT);
    check.stored(c, 'grad.weight', dweight!, GRADIENT);
    check.stored(c, 'grad.gain', tf.reshape(dgain!, [-1, 1, 1, 1]), GRADIENT);
    check.stored(c, 'grad.bias', dbias!, GRADIENT);
    return check.result();
  },
};

// ---------------------------------------------------------------------------------------------------------------
// NFNet

/** The config that the JSON of a case describes. */
function nfnetConfigOf(hp: any): NFNetConfig {
  const deepmind = /DeepMind/.test(hp.conv);
  const eps = /(\d\S*e-\d+)/.exec(hp.conv)?.[1];
  return nfnetConfig({
    imageSize: hp.input_width,
    stemWidths: hp.stem_channels,
    stemStrides: hp.stem_strides,
    widths: hp.channels,
    depths: hp.depths,
    strides: hp.stage_strides,
    bottleneckRatio: hp.bottleneck_ratio,
    groupSize: hp.group_size,
    squeezeExciteRatio: hp.squeeze_excite_ratio,
    alpha: hp.alpha,
    activation: /tanh/.test(hp.gelu) ? 'scaled-gelu-tanh' : 'scaled-gelu',
    standardization: deepmind ? 'deepmind' : 'timm',
    ...(eps && { eps: Number(eps) }),
    padding: deepmind || /Same/.test(hp.conv) ? 'same' : 'symmetric',
    finalWidth: hp.final_conv_channels,
    numClasses: hp.num_classes,
    stochasticDepthRate: hp.drop_path_rate ?? 0,
    stochasticDepthRule: /timm/.test(hp.rule ?? '') ? 'timm' : 'deepmind',
  });
}

const nfnet: GoldenHandler = {
  matches: (c) => 'stem_channels' in c.meta.hyperparameters && 'out.features' in c.tensors,
  async run(c) {
    const hp = c.meta.hyperparameters;
    const config = nfnetConfigOf(hp);
    const net = NFNet.fromState(config, importTimm(stateFrom(c, 'param.')));
    const check = new Comparison();
    const plan = nfnetPlan(config);
    check.close(
      'betas',
      plan.flat().map((p) => p.beta),
      hp.betas.flat(),
      1e-12,
    );
    const blocks = plan.flatMap((stage, s) => stage.map((_, b) => `${s}.${b}`));
    const masks = blocks.map((at) => c.tensors[`mask.${at}`]?.data as Float32Array);
    const training = masks[0] ? { keep: masks } : undefined;
    if (training) {
      const rates = hp.drop_path_rate_per_block;
      check.close(
        'drop rates',
        plan.flat().map((p) => p.dropRate),
        blocks.map((at) => rates[at]),
        1e-12,
      );
    }
    const compare = (name: string, x: tf.Tensor) => {
      if (name in c.tensors) check.stored(c, name, channelsFirst(x), OUTPUT);
    };

    const images = channelsLast(c.tensor('x'));
    let x = net.applyStem(images);
    compare('out.stem', x);
    blocks.forEach((at, i) => {
      const [s, b] = at.split('.').map(Number) as [number, number];
      x = net.applyBlock(x, s, b, training?.keep[i]);
      compare(`out.block.${at}`, x);
    });
    const { standardization, eps, padding } = config;
    const final = weightStandardizedConv2d(x, net.params.finalConv as WeightStandardizedConv2dParams, {
      stride: 1,
      padding,
      standardization,
      eps,
    });
    compare('out.final_conv', final);
    compare('out.features', activation(final, config.activation));
    compare('out.features', net.featureMap(images, training));
    compare('out.pooled', net.pooled(images, training));
    if (config.numClasses) compare('out.logits', net.logits(images, training));

    const onLogits = hp.cotangent_on === 'out.logits';
    const cotangent = onLogits ? c.tensor('cotangent') : channelsLast(c.tensor('cotangent'));
    compareGradients(check, c, 'grad.', cotangent, images, net.params, importTimm, (v) =>
      onLogits ? net.logits(v, training) : net.featureMap(v, training),
    );
    const frozen = await net.freeze();
    compare('out.features', frozen.featureMap(images, training));
    disposeParams(frozen.params);
    return check.result();
  },
};

/** Trains a classifier with adaptive gradient clipping for a few steps. */
const nfnetTraining: GoldenHandler = {
  matches: (c) => 'stem_channels' in c.meta.hyperparameters && 'clipping' in c.meta.hyperparameters,
  async run(c) {
    const hp = c.meta.hyperparameters;
    const net = NFNet.fromState(nfnetConfigOf(hp), importTimm(stateFrom(c, 'param.')));
    const params = variables(net.params);
    const { clip, apply } = optimizerOf(hp);
    const states = [clip.init(params), apply.init(params)] as const;
    const images = c.tensor('x'); // [steps, batch, channels, height, width]
    const labels = tf.cast(c.tensor('labels'), 'int32'); // [steps, batch]
    const check = new Comparison();
    const losses: number[] = [];
    const stored = (prefix: string) => importTimm(stateFrom(c, prefix));
    const compareIfStored = (prefix: string, actual: Readonly<Record<string, tf.Tensor>>) => {
      if (Object.keys(stored(prefix)).length) compareNamed(check, prefix, actual, stored(prefix), GRADIENT);
    };
    for (let step = 0; step < hp.steps; step++) {
      const x = channelsLast(tf.gather(images, step));
      if (step === 0) check.stored(c, 'out.logits_first_step', net.logits(x), OUTPUT);
      const { value, grads } = valueAndGrads(() => crossEntropy(net.logits(x), tf.gather(labels, step)), params);
      const clipped = clip.update(grads, states[0], params);
      if (step === 0) compareIfStored('grad.', grads);
      if (step === 0) compareIfStored('clipped.', clipped);
      apply.update(clipped, states[1], params);
      losses.push(value.dataSync()[0]!);
    }
    check.close('out.losses', losses, c.tensors['out.losses']!.data as Float32Array, OUTPUT);
    compareIfStored('final.', params);
    states.forEach(disposeOptimizer);
    disposeParams(net.params);
    return check.result();
  },
};

/** Clipping and the update after it, from their description in the JSON. */
function optimizerOf(hp: any): { clip: Transform; apply: Transform } {
  const number = (text: string, pattern: RegExp) => Number(pattern.exec(text)![1]);
  const spared: readonly string[] = hp.clipping.match(/head\.fc\.\w+/g) ?? [];
  const clip = adaptiveGradientClip({
    factor: number(hp.clipping, /factor (\S+?),/),
    epsilon: number(hp.clipping, /eps (\S+?),/),
    mask: (name) => !spared.includes(name.replace('classifier.', 'head.fc.')),
    // timm's gains have four axes, so each number is a unit; for DeepMind each vector is one, which is our default.
    ...(/^timm/.test(hp.unitwise_norm) && {
      unit: (name, { rank }) => (name.endsWith('.gain') ? 'element' : rank > 1 ? 'output' : 'tensor'),
    }),
  });
  const { learning_rate: learningRate, weight_decay: weightDecay, optimiser: optimizer } = hp;
  const decayMask = (name: string) => name.endsWith('.weight');
  if (/AdamW/.test(optimizer)) {
    const [, beta1, beta2] = /betas (\S+) (\S+),/.exec(optimizer)!.map(Number);
    const epsilon = number(optimizer, /eps (\S+)/);
    return { clip, apply: adamW({ learningRate, beta1, beta2, epsilon, weightDecay, decayMask }) };
  }
  const momentum = number(optimizer, /momentum (\S+?),/);
  const nesterov = /Nesterov/.test(optimizer);
  return { clip, apply: chain(addDecayedWeights(weightDecay, decayMask), sgd({ learningRate, momentum, nesterov })) };
}

const nfnetTable: GoldenHandler = {
  matches: (c) => 'stem_channels' in c.meta.common && 'variants' in c.meta,
  async run({ meta }) {
    const { common, variants } = meta;
    const check = new Comparison();
    const gammas: Record<string, number> = meta.activation_gammas ?? {};
    const at = tf.scalar(1);
    for (const kind of ['relu', 'gelu'] as const) {
      const gamma = tf.div(activation(at, `scaled-${kind}`), activation(at, kind));
      if (gammas[kind]) check.close(`gamma of ${kind}`, gamma, gammas[kind], 1e-6);
    }
    for (const [name, row] of Object.entries<any>(variants)) {
      const { depth: depths, width: widths } = row;
      // The stem ends at half the width of the first stage, which differs only in the wide variants.
      const stemWidths = [...common.stem_channels.slice(0, -1), widths[0] / 2];
      const config = nfnetConfig({ depths, widths, stemWidths, imageSize: row.test_imsize });
      const count = (numClasses: number) => countOf(nfnetShapes({ ...config, numClasses }));
      check.same(`${name} parameters`, count(0), row.parameters_without_classifier);
      if (row.parameters_with_classifier)
        check.same(`${name} with classifier`, count(1000), row.parameters_with_classifier);
      check.same(`${name} blocks`, nfnetPlan(config).flat().length, row.blocks);
      if (row.feature_channels) check.same(`${name} features`, config.finalWidth, row.feature_channels);
      if (row.timm_mean)
        check.same(`${name} mean and deviation`, [config.mean, config.std], [row.timm_mean, row.timm_std]);
      const betas: number[][] | undefined = meta[`betas_${name}`];
      if (betas)
        check.close(
          `${name} betas`,
          nfnetPlan(config)
            .flat()
            .map((p) => p.beta),
          betas.flat(),
          1e-12,
        );
      if (!(name in NFNET_VARIANTS)) continue; // only in DeepMind's repository: F7 and the wide variants
      const ours = nfnetConfig({ variant: name as NFNetVariant });
      check.same(`${name} depths, widths`, [ours.depths, ours.widths], [row.depth, row.width]);
      check.same(`${name} drop rate`, ours.dropRate, row.drop_rate);
      const { trainSize, imageSize } = NFNET_VARIANTS[name as NFNetVariant];
      check.same(`${name} sizes`, [trainSize, imageSize], [row.train_imsize, row.test_imsize]);
    }
    const { alpha, bottleneckRatio, groupSize, squeezeExciteRatio, stemWidths, stemStrides, strides } = nfnetConfig({
      variant: 'F0',
    });
    check.same(
      'common',
      [alpha, bottleneckRatio, groupSize, squeezeExciteRatio, stemWidths, stemStrides, strides],
      [
        common.alpha,
        common.bottleneck_ratio,
        common.group_size,
        common.squeeze_excite_ratio,
        common.stem_channels,
        common.stem_strides,
        common.stage_strides,
      ],
    );
    return check.result();
  },
};

type Shapes = Readonly<Record<string, readonly number[]>>;

const countOf = (shapes: Shapes): number =>
  Object.values(shapes).reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0);

/** Names and shapes in sorted order, for comparison. */
const sorted = (shapes: Shapes): [string, readonly number[]][] =>
  Object.entries(shapes).sort(([a], [b]) => (a < b ? -1 : 1));

/** The names and shapes that an importer returns. Passes no values, because there would be too many. */
function importedShapes(theirs: Shapes, importer: (state: State) => State): Shapes {
  const none = new Float32Array(0);
  const state = Object.fromEntries(Object.entries(theirs).map(([name, shape]) => [name, { shape, data: none }]));
  return Object.fromEntries(Object.entries(importer(state)).map(([name, { shape }]) => [name, shape]));
}

const nfnetStateShapes: GoldenHandler = {
  matches: ({ meta }) => 'shapes' in meta && /nfnet_f\d/.test(meta.model),
  async run({ meta }) {
    const theirs = meta.shapes as Shapes;
    const numClasses = theirs['head.fc.weight']?.[0] ?? 0;
    const ours = nfnetShapes(nfnetConfig({ variant: variantOf(meta.model), numClasses }));
    const check = new Comparison();
    check.same('shapes', sorted(importedShapes(theirs, importTimm)), sorted(ours));
    check.same('entries', Object.keys(ours).length, meta.entries);
    check.same('parameters', countOf(ours), meta.parameters);
    return check.result();
  },
};

const variantOf = (model: string): NFNetVariant => /f\d/i.exec(model)![0].toUpperCase() as NFNetVariant;

/** Conversions of a DeepMind array to timm's layout, by their names in the tables. */
const HAIKU_CONVERSIONS: Readonly<Record<string, (x: tf.Tensor) => tf.Tensor>> = {
  'hwio->oihw': (x) => tf.transpose(x, [3, 2, 0, 1]),
  'vec->o111': (x) => tf.reshape(x, [-1, 1, 1, 1]),
  'io->oi11': (x) => tf.reshape(tf.transpose(x), [x.shape[1]!, x.shape[0]!, 1, 1]),
  'io->oi': (x) => tf.transpose(x),
  same: (x) => x,
};

const haikuNames: GoldenHandler = {
  matches: ({ meta }) => 'conversions' in meta && Array.isArray(meta.entries) && /NFNet/.test(meta.model),
  async run({ meta }) {
    const entries = meta.entries as [string, string, number[], string, string][];
    const shapesBy = (name: (entry: (typeof entries)[number]) => string) =>
      Object.fromEntries(entries.map((entry) => [name(entry), entry[2]]));
    const theirs = shapesBy(([module, leaf]) => `${module}/${leaf}`);
    const numClasses = theirs['NFNet/~/linear/b']?.[0] ?? 0;
    const config = nfnetConfig({ variant: variantOf(meta.model), numClasses });
    const ours = importedShapes(theirs, (state) => importHaiku(state, config));
    const check = new Comparison();
    check.same('shapes', sorted(ours), sorted(nfnetShapes(config)));
    check.same('parameters', countOf(ours), meta.parameters);
    // Importing the timm names of the table gives the same names.
    const timm = importedShapes(
      shapesBy(([, , , name]) => name),
      importTimm,
    );
    check.same('names', Object.keys(ours), Object.keys(timm));
    // Both ways give the same numbers, tested with the first array of each conversion.
    for (const conversion of Object.keys(meta.conversions)) {
      const [module, leaf, shape, name] = entries.find((entry) => entry[4] === conversion)!;
      const data = Float32Array.from({ length: countOf({ shape }) }, (_, i) => i);
      const [direct] = Object.values(importHaiku({ [`${module}/${leaf}`]: { shape, data } }, config));
      const converted = HAIKU_CONVERSIONS[conversion]!(tf.tensor(data, shape));
      const [throughTimm] = Object.values(
        importTimm({ [name]: { shape: converted.shape, data: converted.dataSync() as Float32Array } }),
      );
      check.close(conversion, direct!, throughTimm!, 0);
    }
    return check.result();
  },
};

// ---------------------------------------------------------------------------------------------------------------
// CLIP

/** The config that the JSON of a case describes. */
function clipConfigOf(hp: any): ClipViTConfig {
  return clipViTConfig({
    imageSize: hp.image_size ?? hp.image_width,
    imageHeight: hp.image_height,
    patchSize: hp.patch_size,
    visualSize: hp.width,
    numLayers: hp.layers,
    numHeads: hp.heads,
    intermediateSize: hp.width * hp.mlp_ratio,
    embeddingSize: hp.output_dim,
    activation: /quick|1\.702/i.test(hp.activation) ? 'quick-gelu' : 'gelu',
  });
}

const clip: GoldenHandler = {
  matches: (c) => 'out.tokens_before_ln_post' in c.tensors,
  async run(c) {
    const hp = c.meta.hyperparameters;
    const tower = ClipViT.fromState(clipConfigOf(hp), importOpenClip(stateFrom(c, 'param.')));
    const check = new Comparison();
    const compare = (name: string, x: tf.Tensor) => check.stored(c, name, x, OUTPUT);
    const images = channelsLast(c.tensor('x'));
    let x = tower.applyEmbedding(images);
    compare('out.embedded', x);
    for (let i = 0; i < hp.layers; i++) {
      x = tower.applyLayer(x, i);
      compare(`out.block.${i}`, x);
    }
    compare('out.tokens_before_ln_post', tower.encode(images));
    const normed = new ClipViT({ ...tower.config, normTokens: true }, tower.params);
    compare('out.tokens_after_ln_post', normed.encode(images));
    compare('out.pooled', tower.pooled(images));

    const encoders: Record<string, (x: tf.Tensor4D) => tf.Tensor> = {
      'out.tokens_before_ln_post': (v) => tower.encode(v),
      'out.tokens_after_ln_post': (v) => normed.encode(v),
      'out.pooled': (v) => tower.pooled(v),
    };
    for (const [kind, output] of [
      ['', hp.cotangent_on],
      ['_pooled', hp.cotangent_pooled_on],
    ] as const) {
      if (!output) continue;
      const cotangent = c.tensor(`cotangent${kind}`);
      compareGradients(check, c, `grad${kind}.`, cotangent, images, tower.params, importOpenClip, encoders[output]!);
    }
    disposeParams(tower.params);
    return check.result();
  },
};

const clipShapes: GoldenHandler = {
  matches: ({ meta }) => 'shapes' in meta && /^ViT-.*visual/.test(meta.model),
  async run({ meta }) {
    const theirs = meta.shapes as Shapes;
    const mapped = importedShapes(theirs, importOpenClip);
    const check = new Comparison();
    check.same('shapes', sorted(mapped), sorted(clipViTShapes(clipConfigOf(meta.hyperparameters))));
    check.same('entries', Object.keys(theirs).length, meta.entries);
    check.same('parameters', countOf(mapped), meta.parameters);
    const variant = /ViT-(\S+)/.exec(meta.model)?.[1];
    if (variant === 'L/14' || variant === 'B/16' || variant === 'B/32') {
      check.same('variant', sorted(clipViTShapes(clipViTConfig({ variant }))), sorted(mapped));
    }
    return check.result();
  },
};

const contrastive: GoldenHandler = {
  matches: (c) => 'out.logits_per_image' in c.tensors && 'log_scale' in c.tensors,
  async run(c) {
    const image = c.tensor('image') as tf.Tensor2D;
    const text = c.tensor('text') as tf.Tensor2D;
    const logScale = c.tensor('log_scale') as tf.Scalar;
    const check = new Comparison();
    const { value, grads } = gradientsOf(() => contrastiveLoss(image, text, logScale), [image, text, logScale]);
    const logits = contrastiveLogits(image, text, logScale);
    const own = tf.range(0, logits.shape[0], 1, 'int32') as tf.Tensor1D;
    check.stored(c, 'out.loss', value, OUTPUT);
    check.stored(c, 'out.logits_per_image', logits, OUTPUT);
    check.stored(c, 'out.loss_image_to_text', crossEntropy(logits, own), OUTPUT);
    check.stored(c, 'out.loss_text_to_image', crossEntropy(tf.transpose(logits), own), OUTPUT);
    const sum = contrastiveLoss(image, text, logScale, { directions: 'sum' });
    check.stored(c, 'out.loss_sum_of_both', sum, OUTPUT);
    ['image', 'text', 'log_scale'].forEach((name, i) => check.stored(c, `grad.${name}`, grads[i]!, GRADIENT));
    return check.result();
  },
};

// ---------------------------------------------------------------------------------------------------------------
// Preprocessing

const imagePreprocess: GoldenHandler = {
  matches: (c) => 'out.bicubic_down' in c.tensors,
  async run(c) {
    const { bicubic_down: down, bicubic_up: up, clip, dm } = c.meta.hyperparameters;
    const stored = c.tensors['image']!;
    const [height, width] = stored.shape as [number, number];
    const image: RgbImage = { width, height, data: Uint8Array.from(stored.data as Float32Array) };
    const check = new Comparison();
    const bytes = (name: string, to: { width: number; height: number }) =>
      check.close(name, resizeBicubic(image, to.width, to.height).data, c.tensors[name]!.data as Float32Array, 0);
    const sizeOf = (name: string) => {
      const [h, w] = c.tensors[name]!.shape as [number, number];
      return { width: w, height: h };
    };
    bytes('out.bicubic_down', down);
    bytes('out.bicubic_up', up);
    bytes('out.clip_resized', sizeOf('out.clip_resized'));
    bytes('out.dm_resized', { width: dm.resize_both_sides_to, height: dm.resize_both_sides_to });
    const final = (name: string, values: Float32Array) => {
      const [, size] = c.tensors[name]!.shape as [number, number];
      check.close(name, tf.transpose(tf.tensor3d(values, [size, size, 3]), [2, 0, 1]), c.tensors[name]!, 1e-6);
    };
    const [, clipSize] = c.tensors['out.clip_final']!.shape as [number, number];
    const [, dmSize] = c.tensors['out.dm_final']!.shape as [number, number];
    final(
      'out.clip_final',
      preprocess(image, { ...clip, fit: 'crop', size: clipSize, resizeTo: clip.shortest_side_to }),
    );
    final('out.dm_final', preprocess(image, { ...dm, fit: 'squash', size: dmSize, resizeTo: dm.resize_both_sides_to }));
    return check.result();
  },
};

/** Standardized convolutions, NFNet, CLIP's vision tower, contrastive loss, preprocessing and training traces. */
export const visionHandlers: readonly GoldenHandler[] = [
  convolution,
  nfnet,
  nfnetTraining,
  nfnetTable,
  nfnetStateShapes,
  haikuNames,
  clip,
  clipShapes,
  contrastive,
  imagePreprocess,
];
