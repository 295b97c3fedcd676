import { loadState, Random, variables } from '@flamingo-ts/kernels';
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
import { expect, it } from 'vitest';
import {
  CrossAttention,
  GatedXAttn,
  gatedXAttnFromOpenFlamingo,
  initGatedXAttn,
  MediaContext,
  type GatedXAttnConfig,
} from './index';

const config: GatedXAttnConfig = {
  hiddenSize: 8,
  visualSize: 6,
  numHeads: 2,
  headDim: 3,
  intermediateSize: 16,
  activation: 'gelu',
  normMedia: true,
};

/** A block with open gates. */
function make(changes: Partial<GatedXAttnConfig> = {}): GatedXAttn {
  const c = { ...config, ...changes };
  const params = initGatedXAttn(c, new Random(2));
  params.attnGate.assign(tf.tensor1d([0.7]));
  params.mlpGate.assign(tf.tensor1d([-0.4]));
  return new GatedXAttn(c, params);
}

const random = <T extends tf.Tensor>(seed: number, ...shape: number[]): T =>
  tf.randomNormal(shape as [number], 0, 1, 'float32', seed) as unknown as T;
const text = (rows = 2, length = 6) => random<tf.Tensor3D>(1, rows, length, 8);
const latents = (batch = 2, media = 2) => random<tf.Tensor4D>(2, batch, media, 3, 6);

/** The first row has text without an image, then two images; the second has one image. */
const INDEX = [0, 0, 1, 1, 2, 2, 1, 1, 1, 1, 1, 1];

/** Tensors of a reference whose names start with a prefix, under our names. */
const ours = (reference: Reference, prefix: string) => gatedXAttnFromOpenFlamingo(stateFrom(reference, prefix));

/** Number of image tokens up to each token, or, for text after a prompt, in the whole prompt. */
function indexOf(reference: Reference, length: number): number[] {
  const rows = reference.tensor('media_locations').arraySync() as number[][];
  const count = (row: number[], end: number) => row.slice(0, end).reduce((a, b) => a + b, 0);
  const after = reference.meta.call.use_cached_media;
  return rows.flatMap((row) => Array.from({ length }, (_, i) => count(row, after ? row.length : i + 1)));
}

describeBackends('GatedXAttn', () => {
  it.each([
    'xattn_immediate',
    'xattn_all_previous_cached_media',
    'xattn_immediate_more_tokens_than_images',
    'gated_immediate_cached_media',
  ])('equals OpenFlamingo: %s', (name) => {
    const reference = loadReference(new URL(`../test/reference/${name}`, import.meta.url));
    const hp = reference.meta.hyperparameters;
    const c: GatedXAttnConfig = {
      hiddenSize: hp.dim,
      visualSize: hp.dim_visual,
      numHeads: hp.heads,
      headDim: hp.dim_head,
      intermediateSize: (hp.ff_mult ?? 1) * hp.dim,
      activation: 'gelu',
      normMedia: false,
      attend: hp.only_attend_immediate_media ? 'immediate' : 'all-previous',
      emptyRows: 'uniform',
    };
    const block = new GatedXAttn(c, initGatedXAttn(c, new Random(0)));
    const module = hp.ff_mult ? block : block.attn;
    loadState(module.params, ours(reference, 'param.'), { what: name });
    const x = tf.variable(reference.tensor('x') as tf.Tensor3D);
    const media = tf.variable(reference.tensor('media') as tf.Tensor4D);
    const index = indexOf(reference, x.shape[1]);
    const allowMissingImages = name === 'xattn_immediate_more_tokens_than_images';
    const run = () => module.apply(x, new MediaContext(media, index, x.shape[1], { allowMissingImages }));
    expectClose(run(), reference.tensors['out.y'] as never, { rtol: 1e-5 });

    const trained: Record<string, tf.Variable> = { ...variables(module.params), x, media };
    const loss = () => tf.sum(tf.mul(run(), reference.tensor('cotangent'))) as tf.Scalar;
    const { grads } = tf.variableGrads(loss, Object.values(trained));
    for (const [parameter, expected] of Object.entries(ours(reference, 'grad.'))) {
      expectClose(grads[trained[parameter]!.name]!, expected, { rtol: 1e-4 });
    }
  });

  it('matches finite differences, including the norm of the media', () => {
    const block = make();
    const f = (x: tf.Tensor, l: tf.Tensor) =>
      block.apply(x as tf.Tensor3D, new MediaContext(l as tf.Tensor4D, INDEX, 6));
    checkGradient(f, [text(), latents()], { rtol: 1e-2, elements: 6 });
  });

  it.each(['immediate', 'all-previous', 'all'] as const)(
    'hides NaN images from text and gradients with closed gates, attending to %s',
    (attend) => {
      const block = new GatedXAttn({ ...config, attend }, initGatedXAttn({ ...config, attend }, new Random(2)));
      const x = text();
      const media = new MediaContext(tf.fill([2, 2, 3, 6], NaN) as tf.Tensor4D, INDEX, 6);
      expectClose(block.apply(x, media), x, { atol: 0 });
      const below = tf.grad((v) => tf.sum(block.apply(v as tf.Tensor3D, media)))(x);
      expectClose(below, tf.onesLike(x), { atol: 0 });
    },
  );

  it.each(['immediate', 'all-previous'] as const)(
    'outputs exactly zero for text without an image, even next to NaN images, attending to %s',
    (attend) => {
      const { attn } = make({ attend });
      const media = new MediaContext(tf.fill([2, 2, 3, 6], NaN) as tf.Tensor4D, INDEX, 6);
      const blind = tf.slice(attn.apply(text(), media), [0, 0, 0], [1, 2, 8]);
      expectClose(blind, tf.zeros([1, 2, 8]), { atol: 0 });
      const uniform = make({ attend: 'immediate', emptyRows: 'uniform' }).attn;
      // The third image is NaN, but no token sees it.
      const one = tf.concat([latents(), tf.fill([2, 1, 3, 6], NaN)], 1) as tf.Tensor4D;
      expect(
        uniform
          .apply(text(), new MediaContext(one, INDEX, 6))
          .dataSync()
          .every(Number.isFinite),
      ).toBe(true);
    },
  );

  it('is the identity with closed gates, and then only the gates have a gradient', () => {
    const block = new GatedXAttn(config, initGatedXAttn(config, new Random(2)));
    const [x, media] = [text(), new MediaContext(latents(), INDEX, 6)];
    expectClose(block.apply(x, media), x, { atol: 0 });
    const params = variables(block.params);
    const { grads } = tf.variableGrads(
      () => tf.sum(tf.square(block.apply(x, media))) as tf.Scalar,
      Object.values(params),
    );
    for (const [name, variable] of Object.entries(params)) {
      const largest = tf.max(tf.abs(grads[variable.name]!)).dataSync()[0]!;
      if (name.endsWith('Gate')) expect(largest).toBeGreaterThan(0);
      else expect(largest).toBe(0);
    }
  });

  it('outputs exactly zero for text before the first image, whatever the images', () => {
    for (const attend of ['immediate', 'all-previous'] as const) {
      const { attn } = make({ attend });
      const seen = attn.apply(text(), new MediaContext(latents(), INDEX, 6));
      expectClose(tf.slice(seen, [0, 0, 0], [1, 2, 8]), tf.zeros([1, 2, 8]), { atol: 0 });
    }
  });

  it('shows a token only its own image', () => {
    const block = make();
    const [one, two] = [random<tf.Tensor4D>(3, 1, 1, 3, 6), random<tf.Tensor4D>(4, 1, 1, 3, 6)];
    const index = [0, 1, 1, 2, 2, 2];
    const x = text(1);
    const run = (second: tf.Tensor4D) => block.apply(x, new MediaContext(tf.concat([one, second], 1), index, 6));
    const [before, after] = [run(two), run(tf.neg(two))];
    const head = (y: tf.Tensor3D) => tf.slice(y, [0, 0, 0], [1, 3, 8]);
    expectClose(head(after), head(before), { atol: 0 });
    expect(tf.max(tf.abs(tf.sub(after, before))).dataSync()[0]).toBeGreaterThan(1e-3);
  });

  it('ignores padding images', () => {
    for (const attend of ['immediate', 'all-previous'] as const) {
      const block = make({ attend });
      const [x, own] = [text(1), latents(1, 2)];
      const index = [0, 1, 1, 2, 2, 2];
      const padded = tf.concat([own, tf.fill([1, 2, 3, 6], 50) as tf.Tensor4D], 1);
      const alone = block.apply(x, new MediaContext(own, index, 6));
      expectClose(block.apply(x, new MediaContext(padded, index, 6)), alone, { rtol: 1e-6 });
    }
  });

  it('shares the images of one prompt between rows, with precomputed keys and values', () => {
    for (const attend of ['immediate', 'all-previous', 'all'] as const) {
      const block = make({ attend });
      const [x, l] = [text(3), latents(2)];
      const index = [...INDEX.slice(0, 6), ...INDEX.slice(6), ...INDEX.slice(0, 6)];
      const owners = [0, 1, 0];
      const known = block.attn.keysValues(l);
      const shared = block.apply(x, new MediaContext(l, index, 6, { owners }), known);
      const copied = tf.gather(l, tf.tensor1d(owners, 'int32'));
      expectClose(shared, block.apply(x, new MediaContext(copied, index, 6)), { rtol: 1e-5 });
    }
  });

  it('applies the gated feed-forward to text without images', () => {
    const block = make();
    const x = text();
    const blind = block.apply(x, new MediaContext(latents(), new Array<number>(12).fill(0), 6));
    expectClose(block.apply(x), blind, { atol: 0 });
  });

  it('leaves no tensors behind', async () => {
    for (const attend of ['immediate', 'all-previous'] as const) {
      const block = make({ attend, emptyRows: 'uniform' });
      const [x, l] = [text(), latents()];
      await expectNoLeak(() => block.apply(x, new MediaContext(l, INDEX, 6)));
      await expectNoLeak(() =>
        tf.grad((y: tf.Tensor) => tf.sum(block.apply(x, new MediaContext(y as tf.Tensor4D, INDEX, 6))))(l),
      );
    }
  });

  it('says what is wrong with its input', () => {
    const block = make();
    expect(() => block.apply(tf.zeros([2, 6, 9]) as tf.Tensor3D)).toThrow(
      /x must be \[rows, text, 8\], got \[2, 6, 9\]/,
    );
    expect(() => new MediaContext(latents(), [0, 1], 6)).toThrow(/2 rows x 6 tokens = 12 entries, got 2/);
    for (const stray of [3, -1, 1.5, NaN]) {
      expect(() => new MediaContext(latents(), [...INDEX.slice(1), stray], 6)).toThrow(
        `from 0 (no image) to 2 (the number of images), got ${stray} at position 11`,
      );
    }
    expect(() => new MediaContext(latents(), [...INDEX.slice(1), NaN], 6, { allowMissingImages: true })).toThrow(/NaN/);
    expect(() => new MediaContext(tf.zeros([2, 3, 6]) as never, INDEX, 6)).toThrow(/\[batch, media, latents, visual/);
    expect(() => new MediaContext(latents(), INDEX, 6, { owners: [0, 2] })).toThrow(/owners.*batch of 2, got 2/);
    expect(() => block.apply(text(2, 5), new MediaContext(latents(), INDEX, 6))).toThrow(/must be \[2, 6, 8\]/);
    const wide = new MediaContext(tf.zeros([2, 2, 3, 7]) as tf.Tensor4D, INDEX, 6);
    expect(() => block.apply(text(), wide)).toThrow(/latents, 6\], got \[2, 2, 3, 7\]/);
  });

  it('rejects a wrong config and wrong parameters', () => {
    const { params } = make();
    const build = (changes: object) => () => new GatedXAttn({ ...config, ...changes }, params);
    expect(build({ activation: 'swish' })).toThrow(/activation must be one of relu, .*got "swish"/);
    expect(build({ every: 2 })).toThrow(/every is not a known key/);
    expect(build({ normMedia: false })).toThrow(/unexpected \(2\): attn\.normMedia\.weight/);
    expect(build({ intermediateSize: 8 })).toThrow(/mlp\.up\.weight: expected \[8, 8\], got \[16, 8\]/);
    expect(() => new CrossAttention({ ...config, numHeads: 4 }, params.attn)).toThrow(
      /query\.weight: expected \[12, 8\]/,
    );
  });

  it('has keys and values of the inner width', () => {
    const params = initGatedXAttn(config, new Random(3));
    expect(new CrossAttention(config, params.attn).keysValues(latents()).keys.shape).toEqual([2, 2, 3, 6]);
  });
});
