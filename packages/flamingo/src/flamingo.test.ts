import { Random, variables } from '@flamingo-ts/kernels';
import { Chinchilla, initChinchilla } from '@flamingo-ts/lm-chinchilla';
import {
  countedLoss,
  DecodingSession,
  hiddenStates,
  languageModelLoss,
  type CandidateScore,
  type CausalLM,
  type LMContext,
} from '@flamingo-ts/lm-core';
import { MediaContext } from '@flamingo-ts/gated-xattn';
import { describeBackends, expectClose, expectNoLeak } from '@flamingo-ts/testing';
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import {
  Flamingo,
  initFlamingo,
  type FlamingoBatch,
  type FlamingoConfig,
  type FlamingoPrompt,
  type VisionEncoder,
  type Visual,
} from './index';

const language = { vocabSize: 24, hiddenSize: 16, numLayers: 2, numHeads: 2, headDim: 8, intermediateSize: 32 };
const [IMAGE, EOC] = [22, 23];

const config: FlamingoConfig = {
  tokens: { image: IMAGE, endOfChunk: EOC },
  resampler: {
    visualSize: 6,
    numLayers: 1,
    numHeads: 2,
    headDim: 4,
    numLatents: 3,
    intermediateSize: 12,
    activation: 'squared-relu',
    finalNorm: true,
    latentStd: 1,
  },
  xattn: {
    hiddenSize: 16,
    visualSize: 6,
    numHeads: 2,
    headDim: 4,
    intermediateSize: 32,
    activation: 'squared-relu',
    normMedia: true,
    every: 1,
    placement: 'paper',
  },
};

const makeLM = () => new Chinchilla(language, initChinchilla(language, new Random(1)));

/** A small Flamingo; open: with gates far from 0 and trained special tokens. */
function make(open = true, lm: CausalLM = makeLM(), vision?: VisionEncoder): Flamingo {
  const params = initFlamingo(config, lm.blocks.length, new Random(2));
  if (open) {
    for (const block of params.xattn.blocks) {
      block.attnGate.assign(tf.tensor1d([0.8]));
      block.mlpGate.assign(tf.tensor1d([0.5]));
    }
    params.tokenOffsets.assign(tf.randomNormal([2, 16], 0, 0.3, 'float32', 9));
  }
  return new Flamingo(config, params, { lm, vision });
}

/** Random features of the given shape. */
function features(seed: number, ...shape: number[]): Visual {
  const random = new Random(seed);
  const size = shape.reduce((a, b) => a * b, 1);
  return { kind: 'features', shape, data: Float32Array.from({ length: size }, () => random.normal()) };
}

/** Two rows: two images in the first, one in the second, which is padded. */
const batch = (visual: Visual = features(3, 2, 2, 1, 4, 6)): FlamingoBatch => ({
  size: 2,
  text: 8,
  tokens: Int32Array.of(1, IMAGE, 5, EOC, IMAGE, 7, EOC, 2, 1, IMAGE, 9, 4, EOC, 2, 0, 0),
  lossMask: Float32Array.of(0, 0, 1, 1, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0),
  mediaIndex: Int32Array.of(0, 1, 1, 1, 2, 2, 2, 2, 0, 1, 1, 1, 1, 1, 1, 1),
  visual,
});

const prompt = (seed: number, tokens: readonly number[]): FlamingoPrompt => {
  const media = tokens.filter((token) => token === IMAGE).length;
  return { tokens, ...(media > 0 && { visual: features(seed, media, 1, 4, 6) }) };
};
const PROMPTS = [prompt(4, [1, IMAGE, 5, EOC, IMAGE]), prompt(5, [1, IMAGE, 8]), prompt(6, [1, 3, 4])];

const value = (x: tf.Tensor) => x.dataSync()[0]!;

describeBackends('Flamingo', () => {
  it('starts as its language model, bit for bit', () => {
    const model = make(false);
    const { size, text, tokens, lossMask } = batch();
    const targets = Int32Array.from(tokens, (_, i) => tokens[i + 1] ?? 0);
    const weights = Float32Array.from(lossMask, (_, i) => lossMask[i + 1] ?? 0);
    const alone = languageModelLoss(makeLM(), { batch: size, text, tokens, targets, weights });
    expectClose(model.loss(batch()), alone, { atol: 0 });
    const ids = tf.tensor2d(tokens, [size, text], 'int32');
    const seeing = model.lm.logits(hiddenStates(model.lm, ids, { media: model.encodeMedia(batch())! }));
    const lm = makeLM();
    expectClose(seeing, lm.logits(hiddenStates(lm, ids, {})), { atol: 0 });
  });

  it('has a gradient for every trained parameter, equal to finite differences', () => {
    const model = make();
    const params = variables(model.params);
    const loss = () => model.loss(batch());
    const { grads } = tf.variableGrads(loss, Object.values(params));
    for (const [name, variable] of Object.entries(params)) {
      const gradient = grads[variable.name]!;
      expect(value(tf.max(tf.abs(gradient))), name).toBeGreaterThan(0);
    }
    for (const name of ['tokenOffsets', 'resampler.latents', 'xattn.blocks.1.attnGate']) {
      const variable = params[name]!;
      const gradient = grads[variable.name]!;
      // Along the gradient itself the loss changes fastest: its difference is the gradient's squared norm.
      const [before, norm] = [tf.clone(variable), value(tf.norm(gradient))];
      const at = (step: number) => {
        variable.assign(tf.add(before, tf.mul(gradient, step / norm)));
        return value(loss());
      };
      const slope = (at(1e-2) - at(-1e-2)) / 2e-2;
      variable.assign(before);
      expect(Math.abs(slope - norm) / norm, name).toBeLessThan(2e-2);
    }
  });

  it('has loss 0 if no token counts', () => {
    const model = make();
    const nothing = { ...batch(), lossMask: new Float32Array(16) };
    expect(value(model.loss(nothing))).toBe(0);
  });

  it('computes the same loss in chunks as at once', () => {
    const { lm } = make();
    const hidden = tf.randomNormal([20, 16], 0, 1, 'float32', 3);
    const counted = { rows: Int32Array.of(3, 9, 9, 0, 19), targets: Int32Array.of(1, 2, 3, 4, 0), weights: Float32Array.of(1, 2, 1, 0.5, 0) }; // prettier-ignore
    const both = (f: (x: tf.Tensor) => tf.Scalar) => tf.valueAndGrad(f)(hidden);
    const [whole, chunks] = [
      both((x) => countedLoss(lm, x, counted)),
      both((x) => countedLoss(lm, x, counted, {}, 48)),
    ];
    expectClose(chunks.value, whole.value, { rtol: 1e-6 });
    expectClose(chunks.grad, whole.grad, { rtol: 1e-6 });
  });

  it('trains special tokens in a tied head too, but not in a separate one', () => {
    const lm = makeLM();
    const x = tf.randomNormal([1, 3, 16], 0, 1, 'float32', 8) as tf.Tensor3D;
    const tied = make(true, lm);
    const special = tf.add(
      tf.slice(lm.params.embed.weight as tf.Variable, [IMAGE, 0], [2, 16]),
      tied.params.tokenOffsets,
    );
    const others = tf.slice(lm.params.embed.weight as tf.Variable, [0, 0], [IMAGE, 16]);
    const product = tf.matMul(tf.reshape(lm.headInput(x), [3, 16]), tf.concat([others, special]), false, true);
    expectClose(tf.reshape(tied.lm.logits(x), [3, 24]), product, { rtol: 1e-5 });

    const { hiddenSize, vocabSize, params, blocks } = lm;
    const untied: CausalLM = { hiddenSize, vocabSize, params, blocks, embed: (t) => lm.embed(t), logits: (y) => lm.logits(y) }; // prettier-ignore
    expectClose(make(true, untied).lm.logits(x), lm.logits(x), { atol: 0 });
  });

  it('trains special tokens in a separate head with separateHead', () => {
    const tied = makeLM();
    const { hiddenSize, vocabSize, params, blocks } = tied;
    const untied = { hiddenSize, vocabSize, params, blocks, embed: (t: tf.Tensor2D) => tied.embed(t), logits: (y: tf.Tensor3D) => tied.logits(y), separateHeadInput: (y: tf.Tensor3D) => tied.headInput(y) }; // prettier-ignore
    const separate = { ...config, separateHead: true };
    const own = initFlamingo(separate, blocks.length, new Random(3));
    const model = new Flamingo(separate, own, { lm: untied });
    const head = own.headOffsets!;
    const x = tf.randomNormal<tf.Rank.R3>([1, 3, 16], 0, 1, 'float32', 8);
    expectClose(model.lm.logits(x), tied.logits(x), { atol: 0 });
    head.assign(tf.randomNormal([2, 16], 0, 1, 'float32', 9));
    const added = tf.matMul(tf.reshape(tied.headInput(x), [3, 16]), head, false, true);
    const gained = tf.sub(model.lm.logits(x), tied.logits(x));
    expectClose(tf.reshape(tf.slice(gained, [0, 0, IMAGE], [1, 3, 2]), [3, 2]), added, { rtol: 1e-4, atol: 1e-5 });
    expectClose(tf.slice(gained, [0, 0, 0], [1, 3, IMAGE]), tf.zeros([1, 3, IMAGE]), { atol: 0 });
    const { grads } = tf.variableGrads(() => model.loss(batch()), [head]);
    expect(tf.max(tf.abs(Object.values(grads)[0]!)).dataSync()[0]).toBeGreaterThan(1e-4);
    expect(() => new Flamingo(separate, own, { lm: tied })).toThrow(
      /separateHeadInput.*, but its head is tied\. Remove/,
    );
  });

  it('generates the same answers to several prompts with different images as to each alone', async () => {
    const model = make();
    const options = { maxNewTokens: 4, stopTokens: [] };
    const together = await model.generate(PROMPTS, options);
    for (const [i, one] of PROMPTS.entries()) {
      const [alone] = await model.generate([one], options);
      expect(together[i]!.tokens).toEqual(alone!.tokens);
    }
  });

  it('decodes step by step as in one call', async () => {
    const model = make();
    const { tokens, visual } = PROMPTS[0]!;
    const answer = [6, 7, 8];
    const media = model.prepare([PROMPTS[0]!]);
    const session = DecodingSession.open(model.lm, [tokens], media.context);
    let [last] = await session.start();
    for (const token of answer) [last] = await session.next([0], [token]);
    session.dispose();
    media.dispose();
    const text = tokens.length + answer.length;
    const context = {
      // The answer sees the last image.
      media: new MediaContext(
        model.latents({ ...visual!, shape: [1, ...visual!.shape] }),
        [0, 1, 1, 1, 2, 2, 2, 2],
        text,
      ),
    };
    const x = hiddenStates(model.lm, tf.tensor2d([[...tokens, ...answer]], [1, text], 'int32'), context);
    expectClose(tf.reshape(model.lm.logits(tf.slice(x, [0, text - 1, 0], [1, 1, 16])), [24]), last!, { rtol: 1e-5 });
  });

  it('stops at <EOC>, or at the given stop tokens', async () => {
    const [free] = await make().generate([PROMPTS[0]!], { maxNewTokens: 2, stopTokens: [] });
    const [stopped] = await make().generate([PROMPTS[0]!], { maxNewTokens: 9, stopTokens: [free!.tokens[0]!] });
    expect(stopped).toMatchObject({ tokens: [free!.tokens[0]], stopped: true });
    const lm = makeLM();
    const closing: CausalLM = Object.assign(Object.create(lm) as CausalLM, {
      logits: (x: tf.Tensor3D) => {
        const [batch, text] = x.shape;
        return tf.tile(tf.reshape(tf.range(0, 24), [1, 1, 24]), [batch, text, 1]) as tf.Tensor3D;
      },
    });
    const [closed] = await make(true, closing).generate([PROMPTS[0]!], { maxNewTokens: 9 });
    expect(closed).toMatchObject({ tokens: [EOC], stopped: true });
  });

  it('gives an answer the same score as its beam search', async () => {
    const model = make();
    const [answer] = await model.generate([PROMPTS[0]!], { maxNewTokens: 4, beams: 3 });
    const [[score]] = (await model.score([PROMPTS[0]!], [[answer!.tokens, [5]]])) as [CandidateScore[]];
    expectClose(score!.sum, answer!.score, { rtol: 1e-4 });
    expectClose(score!.mean, score!.sum / answer!.tokens.length, { rtol: 1e-6 });
  });

  it('depends on the image', async () => {
    const model = make();
    const { tokens, visual } = PROMPTS[1]!;
    const other = { tokens, visual: { ...visual!, data: visual!.data.map((x) => -x) } };
    const scores = await model.score([PROMPTS[1]!, other], [[[5]], [[5]]]);
    const [a, b] = scores.flat();
    expect(Math.abs(a!.sum - b!.sum)).toBeGreaterThan(1e-4);
  });

  it('encodes frames with its vision encoder, which gets no gradient', () => {
    const weight = tf.variable(tf.randomNormal([3, 6], 0, 1, 'float32', 3) as tf.Tensor2D);
    const vision: VisionEncoder = {
      featureDim: 6,
      imageSize: 2,
      mean: [0, 0, 0],
      std: [1, 1, 1],
      encode: (images) => {
        const [n, h, w] = images.shape;
        return tf.reshape(tf.matMul(tf.reshape(images, [n * h * w, 3]), weight), [n, h * w, 6]) as tf.Tensor3D;
      },
    };
    const model = make(true, makeLM(), vision);
    const pixels = features(3, 2, 2, 1, 2, 2, 3);
    const frames: Visual = { ...pixels, kind: 'frames' };
    const encoded = vision.encode(tf.tensor4d(pixels.data, [4, 2, 2, 3])).dataSync() as Float32Array;
    const cached: Visual = { kind: 'features', shape: [2, 2, 1, 4, 6], data: encoded };
    expectClose(model.latents(frames), model.latents(cached), { rtol: 1e-6 });
    const { latents } = model.params.resampler;
    const { grads } = tf.variableGrads(() => model.loss(batch(frames)), [latents]);
    expect(value(tf.max(tf.abs(grads[latents.name]!)))).toBeGreaterThan(0);
    expect(() => tf.variableGrads(() => model.loss(batch(frames)), [weight])).toThrow();
  });

  it('saves and loads trained parameters under stable names', async () => {
    const [a, b] = [make(true), make(false)];
    const state = await a.state();
    expect(Object.keys(state)).toEqual(
      expect.arrayContaining(['resampler.latents', 'xattn.blocks.0.attn.key.weight', 'tokenOffsets']),
    );
    b.load(state);
    expectClose(b.loss(batch()), a.loss(batch()), { atol: 0 });
    expect(() => b.load({ ...state, stray: state['tokenOffsets']! }, 'my.safetensors')).toThrow(
      /my\.safetensors.*unexpected \(1\): stray/,
    );
  });

  it('refuses a wrong config and wrong parameters', () => {
    const lm = makeLM();
    const params = initFlamingo(config, 2, new Random(1));
    const build = (changes: object) => () => new Flamingo({ ...config, ...changes }, params, { lm });
    expect(build({ resample: {} })).toThrow(/Flamingo: resample is not a known key.*Did you mean resampler/);
    expect(build({ resampler: { ...config.resampler, activation: 'tanh' } })).toThrow(
      /Flamingo: resampler\.activation must be one of relu, .*got "tanh"/,
    );
    expect(build({ xattn: { ...config.xattn, placement: 'after' } })).toThrow(/xattn\.placement must be one of paper/);
    expect(build({ tokens: { image: '<image>', endOfChunk: EOC } })).toThrow(/tokens\.image must be a whole number/);
    expect(build({ separateHead: true })).toThrow(/Flamingo: .*missing \(1\): headOffsets/);
    expect(build({ xattn: { ...config.xattn, every: 2 } })).toThrow(/parameters for 1 gated blocks, got 2/);
    expect(() => initFlamingo(config, 2, 3 as never)).toThrow(/initFlamingo: random must be a Random, got 3/);
  });

  it('has the same loss frozen, and throws if used after freeze', async () => {
    const model = make();
    const { latents } = model.params.resampler;
    const before = value(model.loss(batch()));
    const frozen = await model.freeze();
    expect(Math.abs(value(frozen.loss(batch())) - before)).toBeLessThan(1e-5);
    expect(() => model.loss(batch())).toThrow('Flamingo: used after freeze(). Use the object that freeze() returned.');
    expect(latents.isDisposed).toBe(false);
  });

  it('leaves no tensors behind', async () => {
    const model = make();
    const trained = Object.values(variables(model.params));
    await expectNoLeak(() => {
      const { value, grads } = tf.variableGrads(() => model.loss(batch()), trained);
      tf.dispose([value, ...Object.values(grads)]);
    });
    await expectNoLeak(async () => {
      await model.generate(PROMPTS, { maxNewTokens: 2 });
      await model.score(PROMPTS, PROMPTS.map(() => [[1, 2], [3]])); // prettier-ignore
    });
  });

  it.each([
    [
      'a prompt with an <image> token but no image',
      { tokens: [IMAGE, 1] },
      /prompt 0 has 1 <image> tokens but 0 images/,
    ],
    [
      'two images and one <image> token',
      { tokens: [IMAGE, 1], visual: features(1, 2, 1, 4, 6) },
      /1 <image> tokens but 2 images/,
    ],
    [
      'images in text without <image> tokens',
      { tokens: [1], visual: features(1, 1, 1, 4, 6) },
      /0 <image> tokens but 1 images/,
    ],
    [
      'data shorter than their shape',
      { tokens: [IMAGE], visual: { ...features(1, 1, 1, 4, 6), data: new Float32Array(10) } },
      /shape \[1, 1, 4, 6\] must hold 24 numbers, got 10/,
    ],
    [
      'a batch axis',
      { tokens: [IMAGE], visual: features(1, 1, 1, 1, 4, 6) },
      /must be \[media, frames, patches, featureDim\], got \[1, 1, 1, 4, 6\]/,
    ],
    [
      'an unknown kind',
      { tokens: [IMAGE], visual: { ...features(1, 1, 1, 4, 6), kind: 'pixels' } },
      /kind must be one of frames, features, got pixels/,
    ],
    [
      'frames of four channels',
      { tokens: [IMAGE], visual: { ...features(1, 1, 1, 2, 2, 4), kind: 'frames' } },
      /must be \[media, frames, height, width, 3\]/,
    ],
    [
      'features of another width',
      { tokens: [IMAGE], visual: features(1, 1, 1, 4, 5) },
      /features must be \[batch, media, frames, patches, 6\], got \[1, 1, 1, 4, 5\]/,
    ],
    [
      'images without patches',
      { tokens: [IMAGE], visual: features(1, 1, 1, 0, 6) },
      /features must hold at least one .*got \[1, 1, 1, 0, 6\]/,
    ],
    [
      'a media index beyond the images',
      { ...prompt(1, [IMAGE, 1]), mediaIndex: [1, 2] },
      /from 0 \(no image\) to 1 \(the number of images\), got 2 at position 1/,
    ],
    [
      'NaN as media index',
      { ...prompt(1, [IMAGE, 1]), mediaIndex: [1, NaN] },
      /mediaIndex must hold whole numbers .* got NaN/,
    ],
    ['a short media index', { ...prompt(1, [IMAGE, 1]), mediaIndex: [1] }, /2 tokens but 1 entries in mediaIndex/],
  ])('refuses %s in generate, score and prepare', async (_, wrong, message) => {
    // prettier-ignore
    const model = make();
    const prompts = [wrong as FlamingoPrompt];
    await expectNoLeak(async () => {
      await expect(model.generate(prompts, { maxNewTokens: 1 })).rejects.toThrow(message);
      await expect(model.score(prompts, [[[1], [2]]])).rejects.toThrow(message);
      expect(() => model.prepare(prompts)).toThrow(message);
    });
  });

  it.each<[string, Partial<FlamingoBatch>, RegExp]>([
    ['a short mask', { lossMask: new Float32Array(3) }, /lossMask must hold 2 rows x 8 .*got 3/],
    [
      'a media index beyond the images',
      { mediaIndex: Array.from(batch().mediaIndex, (i) => 2 * i) },
      /to 2 \(the number of images\), got 4 at position 4/,
    ],
    ['NaN as media index', { mediaIndex: Array.from(batch().mediaIndex, (i) => i / 0) }, /whole numbers.*got NaN/],
    ['a media index without images', { visual: undefined }, /to 0 \(the number of images\), got 1/],
    [
      '<image> tokens without images',
      { visual: undefined, mediaIndex: new Int32Array(16) },
      /row 0 has 2 <image> tokens, but visual holds 0/,
    ],
    [
      'fewer images than <image> tokens',
      { visual: features(3, 2, 1, 1, 4, 6), mediaIndex: new Int32Array(16) },
      /row 0 has 2 <image> tokens, but visual holds 1 images per row/,
    ],
    ['images of another batch', { visual: features(3, 1, 2, 1, 4, 6) }, /images of 2 rows, got 1/],
    [
      'data shorter than their shape',
      { visual: { ...features(3, 2, 2, 1, 4, 6), data: new Float32Array(9) } },
      /must hold 96 numbers, got 9/,
    ],
    [
      'a missing axis',
      { visual: features(1, 2, 2, 4, 6) },
      /\[batch, media, frames, patches, featureDim\], got \[2, 2, 4, 6\]/,
    ],
    [
      'frames without an encoder',
      { visual: { ...features(1, 2, 2, 1, 2, 2, 3), kind: 'frames' } },
      /no vision encoder/,
    ],
  ])('refuses a batch with %s', async (_, change, message) => {
    // prettier-ignore
    const model = make();
    await expectNoLeak(() => {
      expect(() => model.loss({ ...batch(), ...change })).toThrow(message);
    });
  });

  it('treats a batch with zero images per row as text alone', () => {
    const model = make();
    const text = { ...batch(), tokens: new Int32Array(16), mediaIndex: new Int32Array(16) };
    const none: Visual = { kind: 'features', shape: [2, 0, 1, 4, 6], data: new Float32Array(0) };
    const { visual: _, ...alone } = text;
    expectClose(model.loss({ ...text, visual: none }), model.loss(alone), { atol: 0 });
  });

  it('explains what does not fit', async () => {
    const model = make();
    const small = { ...PROMPTS[1]!, visual: features(1, 1, 1, 3, 6) };
    await expect(model.generate([PROMPTS[0]!, small], { maxNewTokens: 1 })).rejects.toThrow(
      /one kind and size, .*prompt 1/,
    );
    const lm = makeLM() as CausalLM<LMContext>;
    const wrong = (changes: Partial<FlamingoConfig>) => () =>
      new Flamingo({ ...config, ...changes }, model.params, { lm, vision: { featureDim: 5 } as VisionEncoder });
    expect(wrong({ tokens: { image: 3, endOfChunk: 24 } })).toThrow(/width 6, but those of the vision encoder have 5/);
    expect(wrong({ xattn: { ...config.xattn, visualSize: 7 } })).toThrow(/latents of width 7/);
    expect(() => new Flamingo({ ...config, tokens: { image: 3, endOfChunk: 24 } }, model.params, { lm })).toThrow(
      /vocabSize is 24, got ids 3 and 24/,
    );
  });
});
