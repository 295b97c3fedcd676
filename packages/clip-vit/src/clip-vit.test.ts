import {
  disposeParams,
  FrozenMatrix,
  Random,
  stateOf,
  useBackend,
  variables,
  type StateTensor,
} from '@flamingo-ts/kernels';
import {
  checkGradient,
  describeBackends,
  expectClose,
  expectNoLeak,
  loadReference,
  stateFrom,
} from '@flamingo-ts/testing';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { CLIP_VIT_VARIANTS, ClipViT, clipViTConfig, clipViTShapes, importOpenClip, initClipViT } from './index';

const reference = (name: string) => loadReference(new URL(`../test/reference/${name}`, import.meta.url));

// A tiny tower computed by open_clip in float64, quick GELU, images wider than high.
const golden = reference('clip_vit_quickgelu');
const hp = golden.meta.hyperparameters;
const recorded = clipViTConfig({
  imageSize: hp.image_width,
  imageHeight: hp.image_height,
  patchSize: hp.patch_size,
  visualSize: hp.width,
  numLayers: hp.layers,
  numHeads: hp.heads,
  embeddingSize: hp.output_dim,
});

const channelsLast = (x: tf.Tensor) => tf.transpose(x, [0, 2, 3, 1]) as tf.Tensor4D;
const channelsFirst = (x: tf.Tensor) => tf.transpose(x, [0, 3, 1, 2]);

const small = clipViTConfig({ imageSize: 8, patchSize: 4, visualSize: 8, numLayers: 2, numHeads: 2, embeddingSize: 5 });
const fresh = (seed = 1) => new ClipViT(small, initClipViT(small, new Random(seed)));
const images = (n: number, seed = 3): tf.Tensor4D => tf.randomNormal([n, 8, 8, 3], 0, 1, 'float32', seed);

describeBackends('ClipViT', () => {
  it('matches the outputs and gradients of open_clip', () => {
    const tower = ClipViT.fromState(recorded, importOpenClip(stateFrom(golden, 'param.')));
    const normed = new ClipViT({ ...recorded, normTokens: true }, tower.params);
    tf.tidy(() => {
      const images = channelsLast(golden.tensor('x'));
      expectClose(tower.applyEmbedding(images), golden.tensors['out.embedded']!, { rtol: 1e-5 });
      expectClose(tower.encode(images), golden.tensors['out.tokens_before_ln_post']!, { rtol: 1e-5 });
      expectClose(normed.encode(images), golden.tensors['out.tokens_after_ln_post']!, { rtol: 1e-5 });
      expectClose(tower.pooled(images), golden.tensors['out.pooled']!, { rtol: 1e-5 });

      // The patch tokens depend on everything except the last norm and the projection.
      const trained = variables(tower.params);
      const names = Object.keys(trained).filter((name) => !/^(postNorm|projection)\./.test(name));
      const cotangent = golden.tensor('cotangent');
      const [toImages, ...grads] = tf.grads((x) => tf.sum(tf.mul(tower.encode(x as tf.Tensor4D), cotangent)))([
        images,
        ...names.map((name) => trained[name]!),
      ]);
      expectClose(channelsFirst(toImages!), golden.tensors['grad.x']!, { rtol: 1e-4 });
      const expected = importOpenClip(stateFrom(golden, 'grad.'));
      names.forEach((name, i) => {
        // No softmax depends on a key's bias: that gradient is 0 except for rounding.
        const tolerance = name.endsWith('.key.bias') ? { atol: 1e-5 } : { rtol: 1e-4 };
        expectClose(grads[i]!, expected[name]!, tolerance);
      });
    });
    disposeParams(tower.params);
  });

  it('has the gradients of finite differences', () => {
    const tower = fresh();
    checkGradient((x) => tower.pooled(x as tf.Tensor4D), [images(1)], { rtol: 2e-2, elements: 4 });
    disposeParams(tower.params);
  });

  it('returns the same features frozen', async () => {
    const tower = fresh();
    const x = images(2);
    const [tokens, pooled] = [tower.encode(x), tower.pooled(x)];
    const read = ClipViT.fromState(tower.config, await stateOf(tower.params), { freeze: 'float32' });
    for (const frozen of [read, await tower.freeze()]) {
      expectClose(frozen.encode(x), tokens, { rtol: 1e-5 });
      expectClose(frozen.pooled(x), pooled, { rtol: 1e-5 });
      expect(frozen.params.layers[0]!.up.weight).toBeInstanceOf(FrozenMatrix);
      disposeParams(frozen.params);
    }
    expect(() => tower.encode(x)).toThrow('ClipViT: used after freeze()');
  });

  it('leaks nothing', async () => {
    const tower = fresh();
    const x = images(2);
    await expectNoLeak(() => [tower.encode(x), tower.pooled(x)]);
    await expectNoLeak(() => {
      const { value, grads } = tf.variableGrads(() => tf.mean(tower.pooled(x)));
      return [value, ...Object.values(grads)];
    });
    disposeParams(tower.params);
    await expectNoLeak(async () => disposeParams((await fresh().freeze()).params));
  });
});

describe('ClipViT by its definition', () => {
  beforeAll(async () => {
    await useBackend('wasm');
  });

  it('encodes the images of a batch independently', () => {
    const tower = fresh();
    tf.tidy(() => {
      const x = images(3);
      const alone = tower.encode(tf.slice(x, [1, 0, 0, 0], [1, -1, -1, -1]));
      expectClose(tf.slice(tower.encode(x), [1, 0, 0], [1, -1, -1]), alone, { rtol: 1e-5 });
    });
    disposeParams(tower.params);
  });

  it('permutes the tokens with the patches if there are no positions', () => {
    const tower = fresh();
    tf.tidy(() => {
      tower.params.positions.assign(tf.zeros([5, 8]));
      const x = images(1);
      const [left, right] = tf.split(x, 2, 2) as [tf.Tensor4D, tf.Tensor4D];
      const tokens = tower.encode(x); // patches 0 1 / 2 3
      const swapped = tower.encode(tf.concat([right, left], 2));
      expectClose(tf.gather(swapped, [1, 0, 3, 2], 1), tokens, { rtol: 1e-5 });
    });
    disposeParams(tower.params);
  });

  it('says what is wrong with images and states', async () => {
    const tower = fresh();
    expect(() => tower.encode(tf.zeros([1, 9, 8, 3]))).toThrow(
      /images must be \[images, 8, 8, 3\], got \[1, 9, 8, 3\].*Resize/,
    );
    const { classToken: _, ...rest } = await stateOf(tower.params);
    expect(() => ClipViT.fromState(small, rest)).toThrow(/missing \(1\): classToken/);
    disposeParams(tower.params);
  });

  it('refuses invalid configs and parameters that do not fit', () => {
    const change = (changes: object) => () => clipViTConfig({ ...small, ...changes } as never);
    expect(() => clipViTConfig({ variant: 'H/14' as never })).toThrow(/one of B\/32, B\/16, L\/14, got "H\/14"/);
    expect(change({ depth: 3 })).toThrow(/depth is not a known key, expected only imageSize/);
    expect(change({ numHeads: 3 })).toThrow(/visualSize must be a multiple of numHeads 3, got 8/);
    expect(change({ numLayers: 0 })).toThrow(/numLayers must be a whole number of at least 1, got 0/);
    expect(change({ activation: 'relu' })).toThrow(/activation must be one of quick-gelu, gelu, got "relu"/);
    expect(change({ patchSize: 9 })).toThrow(/patchSize must be at most the size of the images, 8 x 8, got 9/);
    const { params } = fresh();
    const build = (changes: object) => () => new ClipViT({ ...small, ...changes }, params);
    expect(build({ activation: 'relu' })).toThrow(/activation must be one of/);
    expect(build({ depth: 2 })).toThrow(/depth is not a known key/);
    expect(build({ numLayers: 1 })).toThrow(/ClipViT: .*unexpected \(16\): layers\.1\.attnNorm\.weight/);
    expect(build({ numLayers: 3 })).toThrow(/missing \(16\): layers\.2\.attnNorm\.weight/);
    expect(build({ imageSize: 12 })).toThrow(/positions: expected \[10, 8\], got \[5, 8\]/);
    expect(() => initClipViT(small, 1 as never)).toThrow(/random must be a Random, got 1/);
    disposeParams(params);
  });
});

describe('importing', () => {
  const { shapes, parameters, hyperparameters } = reference('clip_vit_l14_visual_shapes').meta;
  const none = new Float32Array(0);
  const shapesOf = (state: Readonly<Record<string, StateTensor>>) =>
    Object.fromEntries(Object.entries(state).map(([name, { shape }]) => [name, shape]));

  it('converts all names of ViT-L/14, alone or in a whole CLIP model', () => {
    const ours = clipViTShapes(clipViTConfig({ variant: 'L/14' }));
    const theirs = Object.entries<number[]>(shapes);
    const alone = theirs.map(([name, shape]) => [name, { shape, data: none }] as const);
    expect(shapesOf(importOpenClip(Object.fromEntries(alone)))).toEqual(ours);
    const whole = [
      ...alone.map(([name, t]) => [`visual.${name}`, t] as const),
      ['ln_final.weight', { shape: [3], data: none }],
    ];
    expect(shapesOf(importOpenClip(Object.fromEntries(whole)))).toEqual(ours);
    expect(Object.values(ours).reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0)).toBe(parameters);
    expect(CLIP_VIT_VARIANTS['L/14'].numHeads).toBe(hyperparameters.heads);
  });

  it('splits stacked projections and transposes the last one', () => {
    const data = Float32Array.from({ length: 12 }, (_, i) => i);
    const state = importOpenClip({
      'transformer.resblocks.7.attn.in_proj_weight': { shape: [6, 2], data },
      proj: { shape: [4, 3], data },
    });
    expect([...state['layers.7.key.weight']!.data]).toEqual([4, 5, 6, 7]);
    expect(state['layers.7.value.weight']!.shape).toEqual([2, 2]);
    expect(state['projection.weight']!.shape).toEqual([3, 4]);
    expect([...state['projection.weight']!.data]).toEqual([0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]);
  });
});
