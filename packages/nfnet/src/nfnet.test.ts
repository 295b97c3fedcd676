import { disposeParams, Random, stateOf, useBackend, variables, type StateTensor } from '@flamingo-ts/kernels';
import {
  checkGradient,
  describeBackends,
  expectClose,
  expectNoLeak,
  loadReference,
  relativeError,
  stateFrom,
  type Reference,
} from '@flamingo-ts/testing';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  drawKeepMasks,
  importHaiku,
  importTimm,
  initNFNet,
  NFNet,
  nfnetConfig,
  nfnetFlops,
  nfnetPlan,
  nfnetShapes,
  NFNET_VARIANTS,
  type NFNetConfig,
  type NFNetVariant,
} from './index';

const reference = (name: string) => loadReference(new URL(`../test/reference/${name}`, import.meta.url));

// A tiny network computed in float64 in DeepMind's convention, checked against DeepMind's own source under JAX, and one
// computed by timm in training mode with given drop masks. Both have timm's names and layouts.
const deepmind = reference('nfnet_dm_features');
const training = reference('nfnet_stochastic_depth');
const table = reference('nfnet_table').meta;

function referenceConfig({ meta }: Reference, conventions: Partial<NFNetConfig>): NFNetConfig {
  const hp = meta.hyperparameters;
  return nfnetConfig({
    imageSize: hp.input_width,
    stemWidths: hp.stem_channels,
    widths: hp.channels,
    depths: hp.depths,
    groupSize: hp.group_size,
    numClasses: hp.num_classes,
    ...conventions,
  });
}

const channelsLast = (x: tf.Tensor) => tf.transpose(x, [0, 2, 3, 1]) as tf.Tensor4D;
const channelsFirst = (x: tf.Tensor) => tf.transpose(x, [0, 3, 1, 2]);

/** A network with every part, small enough for gradients by finite differences. */
const small = nfnetConfig({
  imageSize: 12,
  stemWidths: [4, 6],
  stemStrides: [2, 1],
  widths: [8, 12],
  depths: [1, 2],
  strides: [1, 2],
  groupSize: 2,
  squeezeExciteRatio: 0.25,
  finalWidth: 10,
  numClasses: 3,
  initialSkipGain: 1,
});
const fresh = (config: NFNetConfig = small, seed = 1) => new NFNet(config, initNFNet(config, new Random(seed)));
const images = (n: number, side = 12, seed = 7): tf.Tensor4D =>
  tf.randomNormal([n, side, side, 3], 0, 1, 'float32', seed);

describeBackends('NFNet', () => {
  it("matches the outputs and gradients of DeepMind's network", () => {
    const net = NFNet.fromState(referenceConfig(deepmind, {}), importTimm(stateFrom(deepmind, 'param.')));
    tf.tidy(() => {
      const images = channelsLast(deepmind.tensor('x'));
      expectClose(channelsFirst(net.featureMap(images)), deepmind.tensors['out.features']!, { rtol: 1e-5 });
      expectClose(net.pooled(images), deepmind.tensors['out.pooled']!, { rtol: 1e-5 });
      expectClose(net.logits(images), deepmind.tensors['out.logits']!, { rtol: 1e-5 });

      const cotangent = channelsLast(deepmind.tensor('cotangent'));
      const expected = importTimm(stateFrom(deepmind, 'grad.'));
      const trained = variables(net.params);
      const names = Object.keys(trained).filter((name) => !name.startsWith('classifier.'));
      const [toImages, ...grads] = tf.grads((x) => tf.sum(tf.mul(net.featureMap(x as tf.Tensor4D), cotangent)))([
        images,
        ...names.map((name) => trained[name]!),
      ]);
      expectClose(channelsFirst(toImages!), deepmind.tensors['grad.x']!, { rtol: 1e-4 });
      names.forEach((name, i) => {
        // A scalar gain's gradient is a sum that cancels: to 6e-5 of itself in float32, to 1e-6 absolutely.
        const tolerance = trained[name]!.rank === 0 ? { rtol: 1e-4, atol: 1e-5 } : { rtol: 1e-4 };
        expectClose(grads[i]!, expected[name]!, tolerance);
      });
    });
    disposeParams(net.params);
  });

  it("drops branches as timm's network does", () => {
    const config = referenceConfig(training, {
      activation: 'scaled-gelu',
      standardization: 'timm',
      stochasticDepthRate: training.meta.hyperparameters.drop_path_rate,
      stochasticDepthRule: 'timm',
    });
    const net = NFNet.fromState(config, importTimm(stateFrom(training, 'param.')));
    const keep = ['0.0', '1.0', '1.1', '2.0', '3.0'].map((at) => training.tensors[`mask.${at}`]!.data as Float32Array);
    tf.tidy(() => {
      const map = net.featureMap(channelsLast(training.tensor('x')), { keep });
      expectClose(channelsFirst(map), training.tensors['out.features']!, { rtol: 1e-5 });
    });
    disposeParams(net.params);
  });

  it('returns the same features frozen, and as a sequence', async () => {
    const net = fresh();
    const x = images(2);
    const toImages = (net: NFNet) => tf.grad((x) => tf.sum(tf.square(net.pooled(x as tf.Tensor4D))))(x);
    const [map, logits, gradient] = [net.featureMap(x), net.logits(x), toImages(net)];
    expect(map.shape).toEqual([2, 3, 3, 10]);
    tf.tidy(() => expectClose(net.encode(x), tf.reshape(map, [2, 9, 10]), { atol: 0 }));
    const { conv1 } = net.params.stages[0]![0]!;
    const frozen = await (await net.freeze()).freeze(); // a second time changes nothing
    expect(() => net.encode(x)).toThrow('NFNet: used after freeze()');
    expect(() => conv1.weight).toThrow('Parameter stages.0.0.conv1.weight: used after freezing');
    tf.tidy(() => {
      expectClose(frozen.featureMap(x), map, { rtol: 1e-5 });
      expectClose(frozen.logits(x), logits, { rtol: 1e-5 });
      expectClose(toImages(frozen), gradient, { rtol: 1e-5 });
    });
    disposeParams(frozen.params);
    tf.dispose([x, map, logits, gradient]);
  });

  it('returns nearly the same features frozen in bfloat16', async () => {
    // Channels that fill the blocks of the fast path, and enough depth for errors to accumulate.
    const config = nfnetConfig({
      ...small,
      stemWidths: [16, 32],
      widths: [32, 64],
      depths: [2, 4],
      groupSize: 16,
      finalWidth: 64,
    });
    const net = fresh(config);
    const x = images(2, 24);
    const map = net.featureMap(x);
    const frozen = await net.freeze('bfloat16');
    tf.tidy(() => {
      expect(relativeError(frozen.featureMap(x), map)).toBeLessThan(2e-2);
    });
    disposeParams(frozen.params);
    tf.dispose([x, map]);
  });

  it('returns the same logits when read frozen from a state with lazy data', async () => {
    const net = fresh();
    const x = images(1);
    const logits = net.logits(x);
    const read: string[] = [];
    const state = Object.fromEntries(
      Object.entries(await stateOf(net.params)).map(([name, { shape, data }]) => {
        const lazy = {
          shape,
          get data() {
            read.push(name);
            return data;
          },
        };
        return [name, lazy];
      }),
    );
    await expectNoLeak(() => {
      read.length = 0;
      const frozen = NFNet.fromState(small, state, { freeze: 'float32' });
      expect(read.sort()).toEqual(Object.keys(state).sort()); // each once
      tf.tidy(() => expectClose(frozen.logits(x), logits, { rtol: 1e-5 }));
      expect(frozen.params.stem[0]!.gain).toBeUndefined();
      disposeParams(frozen.params);
    });
    disposeParams(net.params);
    tf.dispose([x, logits]);
  });

  it('has the gradients of finite differences, in training too', () => {
    const net = fresh();
    const keep = [
      [1, 0],
      [0, 1],
      [1, 1],
    ];
    const gain = net.params.stages[1]![1]!.skipGain;
    const kernel = net.params.stages[1]![0]!.conv2.weight as tf.Variable;
    checkGradient((x) => net.pooled(x as tf.Tensor4D, { keep }), [images(2)], { rtol: 2e-2, elements: 4 });
    for (const variable of [gain, kernel]) {
      const start = tf.clone(variable);
      const at = (value: tf.Tensor) => {
        variable.assign(value);
        return tf.tidy(() => tf.sum(tf.square(net.logits(images(2), { keep }))).dataSync()[0]!);
      };
      const { grads } = tf.variableGrads(() => tf.sum(tf.square(net.logits(images(2), { keep }))), [variable]);
      const analytic = grads[variable.name]!;
      // Along the gradient, the slope of the loss is the gradient's length.
      const length = Math.sqrt(tf.sum(tf.square(analytic)).dataSync()[0]!);
      const step = tf.mul(analytic, 1e-2 / length);
      const slope = (at(tf.add(start, step)) - at(tf.sub(start, step))) / 2e-2;
      variable.assign(start);
      expect(Math.abs(slope / length - 1)).toBeLessThan(2e-2);
    }
    disposeParams(net.params);
  });

  it('has gradients that add up over the images of a batch', () => {
    // Maps large enough for the fast path of a backend.
    const config = nfnetConfig({
      ...small,
      stemWidths: [16],
      stemStrides: [1],
      widths: [32],
      depths: [1],
      strides: [1],
      groupSize: 0,
      numClasses: 0,
    });
    const net = fresh(config);
    const trained = Object.values(variables(net.params));
    tf.tidy(() => {
      const both = images(2, 16);
      const gradientOf = (x: tf.Tensor4D) => tf.variableGrads(() => tf.sum(tf.square(net.pooled(x))), trained).grads;
      const [first, second] = tf.split(both, 2).map((x) => gradientOf(x as tf.Tensor4D)) as [
        tf.NamedTensorMap,
        tf.NamedTensorMap,
      ];
      const together = gradientOf(both);
      for (const { name } of trained) {
        expectClose(together[name]!, tf.add(first[name]!, second[name]!), { rtol: 1e-4 });
      }
    });
    disposeParams(net.params);
  });

  it('leaks nothing', async () => {
    const net = fresh();
    const x = images(1);
    await expectNoLeak(() => net.encode(x, { keep: [[1], [1], [0]] }));
    await expectNoLeak(() => {
      const { value, grads } = tf.variableGrads(() => tf.mean(net.logits(x)));
      return [value, ...Object.values(grads)];
    });
    await expectNoLeak(async () => disposeParams((await fresh().freeze()).params));
    disposeParams(net.params);
  });
});

// These properties hold on every backend if the parts are correct, so one backend is enough: the fastest that always runs.
describe('NFNet by its definition', () => {
  beforeAll(async () => {
    await useBackend('wasm');
  });

  it('ignores every branch while the skip gains are 0, and then only they have a gradient', () => {
    const config = nfnetConfig({ ...small, initialSkipGain: 0 });
    const net = fresh(config);
    tf.tidy(() => {
      const before = net.pooled(images(2));
      const branch = net.params.stages[1]![1]!;
      const kernel = branch.conv2.weight as tf.Variable;
      kernel.assign(tf.mul(kernel, -3));
      branch.conv3.bias.assign(tf.ones([12]));
      expectClose(net.pooled(images(2)), before, { atol: 0 });

      const trained = variables(branch);
      const { grads } = tf.variableGrads(() => tf.sum(net.pooled(images(2))), Object.values(trained));
      for (const [name, v] of Object.entries(trained)) {
        const size = tf.max(tf.abs(grads[v.name]!)).dataSync()[0]!;
        if (name === 'skipGain') expect(size).toBeGreaterThan(0);
        else expect(size).toBe(0);
      }
    });
    disposeParams(net.params);
  });

  it('skips a block for an image dropped from it, and does not change the others', () => {
    const net = fresh();
    tf.tidy(() => {
      const x = net.applyStem(images(2));
      const through = net.applyBlock(net.applyBlock(x, 0, 0), 1, 0);
      const kept = net.applyBlock(through, 1, 1);
      const mixed = net.applyBlock(through, 1, 1, [0, 1]);
      expectClose(tf.gather(mixed, 0), tf.gather(through, 0), { atol: 0 });
      expectClose(tf.gather(mixed, 1), tf.gather(kept, 1), { rtol: 1e-6 });
    });
    disposeParams(net.params);
  });

  it('works without squeeze-excite, groups and classifier, on images of any size, padded either way', () => {
    for (const padding of ['same', 'symmetric'] as const) {
      const config = nfnetConfig({
        ...small,
        padding,
        squeezeExciteRatio: 0,
        groupSize: 0,
        numClasses: 0,
        activation: 'scaled-relu',
      });
      const net = fresh(config);
      const map = tf.tidy(() => net.featureMap(tf.ones([1, 13, 9, 3])));
      expect(map.shape).toEqual([1, 4, 3, 10]);
      expect(() => net.logits(tf.ones([1, 12, 12, 3]))).toThrow(/no classifier.*numClasses/);
      disposeParams(net.params);
    }
  });

  it('keeps the scale of features through a deep fresh network', () => {
    const config = nfnetConfig({
      ...small,
      depths: [4, 8],
      strides: [1, 1],
      groupSize: 0,
      widths: [16, 24],
      finalWidth: 32,
      numClasses: 0,
    });
    const net = fresh(config);
    const { mean, variance } = tf.moments(net.featureMap(images(8)));
    const spread = variance.dataSync()[0]! + mean.dataSync()[0]! ** 2;
    expect(spread).toBeGreaterThan(0.3);
    expect(spread).toBeLessThan(3);
    disposeParams(net.params);
  });

  it('drops pooled features in training only, by seed', () => {
    const net = fresh(nfnetConfig({ ...small, dropRate: 0.5 }));
    tf.tidy(() => {
      const drop = (seed: number) => net.logits(images(2), { dropout: new Random(seed) });
      expectClose(drop(3), drop(3), { atol: 0 });
      expect(tf.max(tf.abs(tf.sub(drop(3), net.logits(images(2))))).dataSync()[0]).toBeGreaterThan(1e-3);
    });
    disposeParams(net.params);
  });

  it('says what is wrong with images, masks and states', async () => {
    const net = fresh();
    expect(() => net.encode(tf.zeros([1, 3, 12, 12]))).toThrow(
      /images must be \[images, height, width, 3\], got \[1, 3, 12, 12\]/,
    );
    expect(() => net.encode(images(1), { keep: [[1]] })).toThrow(
      /one mask for each of the 3 blocks, got 1.*drawKeepMasks/,
    );
    expect(() => net.encode(images(2), { keep: [[1, 1], [1], [0, 1]] })).toThrow(
      /one entry for each of the 2 images, got 1/,
    );
    const { 'finalConv.gain': _, ...rest } = await stateOf(net.params);
    expect(() => NFNet.fromState(small, rest)).toThrow(/missing \(1\): finalConv\.gain/);
    const again = NFNet.fromState({ ...small, numClasses: 0 }, await stateOf(net.params)); // ignores the classifier
    expect(again.params.classifier).toBeUndefined();
    disposeParams(again.params);
    disposeParams(net.params);
  });
});

const count = (shapes: Readonly<Record<string, readonly number[]>>): number =>
  Object.values(shapes).reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0);

describe('variants', () => {
  const variants = Object.keys(NFNET_VARIANTS) as NFNetVariant[];

  it('have the sizes and parameter counts of the published ones', () => {
    for (const variant of variants) {
      const row = table.variants[variant];
      const config = nfnetConfig({ variant });
      expect([config.depths, config.widths, config.imageSize]).toEqual([row.depth, row.width, row.test_imsize]);
      expect([NFNET_VARIANTS[variant].trainSize, config.dropRate]).toEqual([row.train_imsize, row.drop_rate]);
      expect(count(nfnetShapes(config))).toBe(row.parameters_without_classifier);
      expect(count(nfnetShapes({ ...config, numClasses: 1000 }))).toBe(row.parameters_with_classifier);
    }
  });

  it("cost the multiply-adds of the paper's table 6", () => {
    // In units of 10^9, at the test size.
    const paper = { F0: 12.38, F1: 35.54, F2: 62.59, F3: 114.76, F4: 215.24, F5: 289.76, F6: 377.28 };
    for (const variant of variants) {
      const config = nfnetConfig({ variant, numClasses: 1000 });
      expect(Math.abs(nfnetFlops(config) / 2e9 / paper[variant] - 1)).toBeLessThan(0.03);
    }
  });

  it('divide the input of each block by its expected deviation', () => {
    for (const variant of ['F0', 'F6'] as const) {
      const betas = nfnetPlan(nfnetConfig({ variant })).flatMap((stage) => stage.map((p) => p.beta));
      expectClose(betas, table[`betas_${variant}`].flat(), { atol: 1e-12 });
    }
  });
});

describe('stochastic depth', () => {
  it("rises to the rate at the last block for timm, and stays below it for DeepMind's", () => {
    const rates = (stochasticDepthRule: 'timm' | 'deepmind') =>
      nfnetPlan(nfnetConfig({ variant: 'F0', stochasticDepthRate: 0.24, stochasticDepthRule }))
        .flat()
        .map((p) => p.dropRate);
    expect(rates('timm')[11]).toBeCloseTo(0.24, 12);
    expect(rates('deepmind')[11]).toBeCloseTo(0.22, 12);
    expect([rates('timm')[0], rates('deepmind')[0]]).toEqual([0, 0]);
  });

  it('draws masks by seed and rate', () => {
    const config = nfnetConfig({ variant: 'F0', stochasticDepthRate: 0.5, stochasticDepthRule: 'timm' });
    const masks = drawKeepMasks(config, 2000, new Random(5));
    expect(masks).toEqual(drawKeepMasks(config, 2000, new Random(5)));
    const kept = masks.map((mask) => mask.reduce((a, b) => a + b, 0) / 2000);
    expect(kept[0]).toBe(1);
    expect(Math.abs(kept[11]! - 0.5)).toBeLessThan(0.04);
  });
});

describe('importing', () => {
  const shapes = reference('dm_nfnet_f0_state_dict_shapes').meta.shapes as Record<string, number[]>;
  const names = reference('dm_nfnet_f0_haiku_names').meta.entries as [string, string, number[], string, string][];
  const ours = nfnetShapes(nfnetConfig({ variant: 'F0', numClasses: 1000 }));
  const none = new Float32Array(0);
  const shapesOf = (state: Readonly<Record<string, StateTensor>>) =>
    Object.fromEntries(Object.entries(state).map(([name, { shape }]) => [name, shape]));

  it("converts all of timm's names", () => {
    const state = Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [name, { shape, data: none }]));
    expect(shapesOf(importTimm(state))).toEqual(ours);
  });

  it("converts all of DeepMind's names, with slashes or dots", () => {
    const config = nfnetConfig({ variant: 'F0' });
    const tensors = names.map(([module, leaf, shape]) => [`${module}/${leaf}`, { shape, data: none }] as const);
    expect(shapesOf(importHaiku(Object.fromEntries(tensors), config))).toEqual(ours);
    const dotted = tensors.map(([name, tensor]) => [name.replace(/\/~\/|\//g, '.'), tensor]);
    expect(shapesOf(importHaiku(Object.fromEntries(dotted), config))).toEqual(ours);
  });

  it('puts outputs first', () => {
    const data = Float32Array.from({ length: 12 }, (_, i) => i);
    const kernel = importHaiku({ 'NFNet/~/final_conv/w': { shape: [1, 2, 2, 3], data } }, small)['finalConv.weight']!;
    expect(kernel.shape).toEqual([3, 2, 1, 2]);
    // ours [o, i, 0, w] = theirs [0, w, i, o] = 6 w + 3 i + o
    expect([...kernel.data]).toEqual([0, 6, 3, 9, 1, 7, 4, 10, 2, 8, 5, 11]);
    const matrix = importHaiku({ 'NFNet/~/linear/w': { shape: [4, 3], data } }, small)['classifier.weight']!;
    expect([matrix.shape, ...matrix.data]).toEqual([[3, 4], 0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]);
  });

  it('keeps an unknown name for the loader to report', () => {
    expect(Object.keys(importTimm({ 'stem.norm.weight': { shape: [1], data: none } }))).toEqual(['stem.norm.weight']);
  });
});

describe('nfnetConfig', () => {
  it('completes a variant', () => {
    const config = nfnetConfig({ variant: 'F6', imageSize: 320 });
    expect([config.imageSize, config.finalWidth, config.eps, config.numClasses]).toEqual([320, 3072, 1e-4, 0]);
    expect(nfnetConfig({ variant: 'F6', standardization: 'timm' }).eps).toBe(1e-5);
  });

  it('refuses invalid configs', () => {
    const change = (changes: object) => () => nfnetConfig({ ...small, ...changes } as never);
    expect(() => nfnetConfig({ variant: 'F9' as never })).toThrow(/variant must be one of F0, .*got "F9"/);
    expect(() => nfnetConfig({ variant: 'F0', width: 3 } as never)).toThrow(/width is not a known key.*mean.*widths\?/);
    expect(change({ depths: [1] })).toThrow(/one entry per stage, got 2, 1 and 2/);
    expect(change({ stemStrides: [2] })).toThrow(/one entry for each of the 2 stemWidths, got 1/);
    expect(change({ strides: [1, 3] })).toThrow(/strides\[1\] must be one of 1, 2, got 3/);
    expect(change({ groupSize: 5 })).toThrow(/groupSize 5 does not fit into the 4 inner channels/);
    expect(change({ finalWidth: 0 })).toThrow(/finalWidth must be a whole number of at least 1, got 0/);
    expect(change({ activation: 'gelu' })).toThrow(/activation must be one of scaled-gelu, .*got "gelu"/);
    expect(change({ padding: 'valid' })).toThrow(/padding must be one of same, symmetric/);
    expect(change({ standardization: 'keras' })).toThrow(/standardization must be one of timm, deepmind/);
    expect(change({ stochasticDepthRule: 'linear' })).toThrow(/stochasticDepthRule must be one of timm, deepmind/);
    expect(change({ mean: [0.5] })).toThrow(/mean must be an array of 3/);
    expect(change({ dropRate: 1 })).toThrow(/dropRate must be .* less than 1, got 1/);
  });

  it('is checked by the constructor, with the parameters', () => {
    const { params } = fresh();
    const build = (changes: object) => () => new NFNet({ ...small, ...changes }, params);
    expect(build({ activation: 'gelu' })).toThrow(/activation must be one of/);
    expect(build({ dephts: [1] })).toThrow(/dephts is not a known key.*Did you mean depths\?/);
    expect(build({ depths: [1, 3] })).toThrow(/NFNet: .*missing \(\d+\): stages\.1\.2\./);
    expect(build({ depths: [1, 1] })).toThrow(/unexpected \(\d+\): stages\.1\.1\./);
    expect(build({ finalWidth: 12 })).toThrow(/finalConv\.weight: expected \[12, 12, 1, 1\], got \[10, 12, 1, 1\]/);
    expect(() => initNFNet(small, 1 as never)).toThrow(/random must be a Random, got 1/);
    expect(() => drawKeepMasks(small, 2, 1 as never)).toThrow(/random must be a Random, got 1/);
    disposeParams(params);
  });
});
