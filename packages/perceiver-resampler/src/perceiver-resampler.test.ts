import { disposeParams, loadState, Random, variables } from '@flamingo-ts/kernels';
import {
  checkGradient,
  describeBackends,
  expectClose,
  expectNoLeak,
  loadReference,
  stateFrom,
  type Reference,
} from '@flamingo-ts/testing';
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import {
  initResampler,
  PerceiverResampler,
  resamplerFromOpenFlamingo,
  resamplerShapes,
  type ResamplerConfig,
} from './index';

const config: ResamplerConfig = {
  visualSize: 12,
  numLayers: 2,
  numHeads: 2,
  headDim: 4,
  numLatents: 3,
  intermediateSize: 24,
  activation: 'squared-relu',
  finalNorm: false,
  latentStd: 1,
};

const make = (changes: Partial<ResamplerConfig> = {}, seed = 1): PerceiverResampler => {
  const c = { ...config, ...changes };
  return new PerceiverResampler(c, initResampler(c, new Random(seed)));
};

/** `[batch, media, frames, patches, width]` of random numbers. */
const features = (...shape: [number, number, number, number, number]): tf.Tensor5D =>
  tf.randomNormal(shape, 0, 1, 'float32', 7);

/** Tensors of a reference whose names start with a prefix, under our names. */
const ours = (reference: Reference, prefix: string) => resamplerFromOpenFlamingo(stateFrom(reference, prefix));

describeBackends('PerceiverResampler', () => {
  it.each(['resampler_frames_and_media', 'resampler_smallest'])('equals OpenFlamingo: %s', (name) => {
    const reference = loadReference(new URL(`../test/reference/${name}`, import.meta.url));
    const hp = reference.meta.hyperparameters;
    const resampler = make({
      visualSize: hp.dim,
      numLayers: hp.depth,
      numHeads: hp.heads,
      headDim: hp.dim_head,
      numLatents: hp.num_latents,
      intermediateSize: hp.ff_mult * hp.dim,
      activation: 'gelu',
      finalNorm: true,
      numFrames: hp.max_num_frames ?? undefined,
      numMedia: hp.max_num_media ?? undefined,
    });
    loadState(resampler.params, ours(reference, 'param.'), { what: name });
    const x = tf.variable(reference.tensor('x') as tf.Tensor5D);
    expectClose(resampler.apply(x), reference.tensors['out.y'] as never, { rtol: 1e-5 });

    const trained = variables(resampler.params);
    const loss = () => tf.sum(tf.mul(resampler.apply(x), reference.tensor('cotangent'))) as tf.Scalar;
    const { grads } = tf.variableGrads(loss, [x, ...Object.values(trained)]);
    expectClose(grads[x.name]!, reference.tensors['grad.x'] as never, { rtol: 1e-4 });
    const expected = ours(reference, 'grad.');
    for (const [parameter, variable] of Object.entries(trained)) {
      expectClose(grads[variable.name]!, expected[parameter]!, { rtol: 1e-4 });
    }
  });

  it('matches finite differences, with projection, embeddings and final norm', () => {
    const resampler = make({ inputSize: 5, numFrames: 2, numMedia: 2, finalNorm: true, activation: 'gelu' });
    const f = (x: tf.Tensor) => resampler.apply(x as tf.Tensor5D);
    checkGradient(f, [features(1, 2, 2, 2, 5)], { rtol: 5e-3 });
  });

  it('resamples each image separately', () => {
    const resampler = make();
    const [a, b] = [features(1, 1, 1, 4, 12), tf.randomNormal([1, 1, 1, 4, 12]) as tf.Tensor5D];
    const both = resampler.apply(tf.concat([a, b], 1));
    const alone = tf.concat([resampler.apply(a), resampler.apply(b)], 1);
    expectClose(both, alone, { rtol: 1e-5 });
  });

  it('ignores the order of patches, but not of frames', () => {
    const resampler = make({ numFrames: 2 });
    const x = features(1, 1, 2, 4, 12);
    const y = resampler.apply(x);
    expectClose(resampler.apply(tf.reverse(x, 3)), y, { rtol: 1e-5 });
    const swapped = resampler.apply(tf.reverse(x, 2));
    expect(tf.max(tf.abs(tf.sub(swapped, y))).dataSync()[0]).toBeGreaterThan(1e-3);
  });

  it('uses the first time embeddings for a shorter clip', () => {
    const [long, short] = [make({ numFrames: 4 }), make({ numFrames: 2 })];
    short.params.timeEmbeddings!.assign(tf.slice(long.params.timeEmbeddings!, [0, 0], [2, 12]));
    const x = features(1, 2, 2, 3, 12);
    expectClose(long.apply(x), short.apply(x), { atol: 0 });
  });

  it('interpolates time embeddings for a longer clip', () => {
    const [short, long] = [make({ numFrames: 2 }), make({ numFrames: 3 })];
    const [first, last] = tf.split(short.params.timeEmbeddings!, 2);
    long.params.timeEmbeddings!.assign(tf.concat([first!, tf.div(tf.add(first!, last!), 2), last!]) as tf.Tensor2D);
    const x = features(1, 2, 3, 3, 12);
    expectClose(short.apply(x), long.apply(x), { rtol: 1e-5 });
  });

  it('uses a single time embedding for a clip of any length', () => {
    const y = make({ numFrames: 1 }).apply(features(1, 1, 5, 2, 12));
    expect(Array.from(y.dataSync()).every(Number.isFinite)).toBe(true);
  });

  it('leaves no tensors behind', async () => {
    const resampler = make({ inputSize: 5, numFrames: 2, numMedia: 3, finalNorm: true });
    const x = features(2, 2, 4, 3, 5);
    await expectNoLeak(() => resampler.apply(x));
    await expectNoLeak(() => tf.grad((y: tf.Tensor) => tf.sum(resampler.apply(y as tf.Tensor5D)))(x));
    await expectNoLeak(() => disposeParams(initResampler(config, new Random(1))));
  });

  it('says what is wrong with its input', () => {
    expect(() => make().apply(tf.zeros([2, 9, 12]) as never)).toThrow(
      /features must be \[batch, media, frames, patches, 12\], got \[2, 9, 12\]/,
    );
    expect(() => make({ inputSize: 5 }).apply(tf.zeros([1, 1, 1, 2, 12]) as tf.Tensor5D)).toThrow(/patches, 5\]/);
    expect(() => make().apply(tf.zeros([1, 0, 1, 2, 12]) as tf.Tensor5D)).toThrow(
      /at least one image.*got \[1, 0, 1, 2/,
    );
    expect(() => make({ numMedia: 1 }).apply(features(1, 2, 1, 2, 12))).toThrow(/2 images.*embeddings for only 1/);
  });

  it.each([
    [{ numHeads: 0 }, /numHeads must be a whole number of at least 1, got 0/],
    [{ depth: 2 }, /depth is not a known key, expected only visualSize, /],
    [{ activation: 'tanh' }, /activation must be one of relu, .*got "tanh"/],
    [{ finalNorm: 1 }, /finalNorm must be true or false, got 1/],
    [{ numLayers: 3 }, /parameters do not fit the config\. missing \(12\): layers\.2\.normMedia\.weight/],
    [{ numLayers: 1 }, /unexpected \(12\): layers\.1\.normMedia\.weight/],
    [{ finalNorm: true }, /missing \(2\): norm\.weight; norm\.bias/],
    [{ headDim: 8 }, /layers\.0\.query\.weight: expected \[16, 12\], got \[8, 12\]/],
  ])('rejects the config change %j for its parameters', (changes, message) => {
    expect(() => new PerceiverResampler({ ...config, ...changes } as ResamplerConfig, make().params)).toThrow(message);
  });

  it('requires a Random', () => {
    expect(() => initResampler(config, 1 as never)).toThrow(/random must be a Random, got 1/);
  });
});

describe('resamplerShapes', () => {
  it("counts the 194M parameters of the paper's resampler (table 5)", () => {
    const shapes = resamplerShapes({
      visualSize: 1536,
      inputSize: 3072,
      numLayers: 6,
      numHeads: 16,
      headDim: 128,
      numLatents: 64,
      intermediateSize: 6144,
      activation: 'squared-relu',
      finalNorm: false,
    });
    const count = Object.values(shapes).reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0);
    expect(Math.round(count / 1e6)).toBe(194);
  });
});
