/**
 * Your own language model learns to see. Any object with `embed`, `blocks` and `logits` is a `CausalLM`; here each token
 * becomes the mean of all tokens before it. The language model stays frozen, and the gated cross-attention around it learns
 * to name what an image shows.
 *
 *   npm install @flamingo-ts/flamingo @flamingo-ts/lm-core @flamingo-ts/optim @flamingo-ts/kernels \
 *     @tensorflow/tfjs-core@4.22.0 @tensorflow/tfjs-backend-wasm@4.22.0
 */
import { Flamingo, initFlamingo, type FlamingoConfig, type TiedHead } from '@flamingo-ts/flamingo';
import { Random, useBackend, variables, valueAndGrads } from '@flamingo-ts/kernels';
import { hiddenStates, type CausalLM } from '@flamingo-ts/lm-core';
import { adamW } from '@flamingo-ts/optim';
import * as tf from '@tensorflow/tfjs-core';

const WORDS = ['<image>', '<EOC>', 'a', 'red', 'green', 'blue', 'field'];
const COLORS = ['red', 'green', 'blue'];
const [WIDTH, PATCHES] = [16, 4];

await useBackend('wasm');

/** Row i averages the tokens up to i, float32 [text, text]. */
const averages = (text: number) =>
  tf.div(tf.linalg.bandPart(tf.ones([text, text]), -1, 0), tf.reshape(tf.range(1, text + 1), [-1, 1]));

const table = tf.randomNormal<tf.Rank.R2>([WORDS.length, WIDTH], 0, 1, 'float32', 1);
const lm: CausalLM & TiedHead = {
  hiddenSize: WIDTH,
  vocabSize: WORDS.length,
  params: {},
  embed: (tokens) => tf.gather<tf.Tensor3D>(table as never, tokens),
  blocks: [
    {
      params: {},
      apply: (x) => tf.matMul(tf.tile(tf.expandDims(averages(x.shape[1])), [x.shape[0], 1, 1]), x) as tf.Tensor3D,
    },
  ],
  logits: (x) =>
    tf.reshape(tf.matMul(tf.reshape(x, [-1, WIDTH]), table, false, true), [x.shape[0], x.shape[1], WORDS.length]),
  headInput: (x) => tf.clone(x),
};

const config: FlamingoConfig = {
  resampler: {
    visualSize: WIDTH,
    inputSize: COLORS.length,
    numLayers: 1,
    numHeads: 2,
    headDim: 8,
    numLatents: 2,
    intermediateSize: 32,
    activation: 'squared-relu',
    finalNorm: true,
  },
  xattn: {
    hiddenSize: WIDTH,
    visualSize: WIDTH,
    numHeads: 2,
    headDim: 8,
    intermediateSize: 32,
    activation: 'squared-relu',
    normMedia: true,
    every: 1,
    placement: 'paper',
  },
  tokens: { image: 0, endOfChunk: 1 },
};
const model = new Flamingo(config, initFlamingo(config, lm.blocks.length, new Random(0)), { lm });

/** An image of one color, float32 [patches, colors]. */
const imageOf = (color: number) =>
  Float32Array.from({ length: PATCHES * COLORS.length }, (_, i) => (i % COLORS.length === color ? 1 : 0));

/** `<image> a red field <EOC>` for each color, each with an image of its color. */
const sentences = COLORS.map((color) => ['<image>', 'a', color, 'field', '<EOC>'].map((w) => WORDS.indexOf(w)));
const [size, text] = [sentences.length, sentences[0]!.length];
const batch = {
  size,
  text,
  tokens: Int32Array.from(sentences.flat()),
  lossMask: sentences.flatMap((tokens) => tokens.map((token) => (token === 0 ? 0 : 1))),
  mediaIndex: sentences.flatMap((tokens) => tokens.map(() => 1)),
  visual: {
    kind: 'features' as const,
    shape: [size, 1, 1, PATCHES, COLORS.length],
    data: Float32Array.from(COLORS.flatMap((_, i) => [...imageOf(i)])),
  },
};

// The gates start closed: until training opens them, the output is the bare language model's, bit for bit.
const tokens = tf.tensor2d(batch.tokens, [size, text], 'int32');
const bare = tf.tidy(() => lm.logits(hiddenStates(lm, tokens, {})).dataSync());
const seeing = tf.tidy(() => {
  const context = { media: model.encodeMedia(batch) };
  return model.lm.logits(hiddenStates(model.lm, tokens, context)).dataSync();
});
console.log(`closed gates change nothing: ${bare.every((value, i) => value === seeing[i])}`);

const params = variables(model.params);
const optimizer = adamW({ learningRate: 0.03, weightDecay: 0 });
const state = optimizer.init(params);
for (let step = 0; step <= 150; step++) {
  const { value, grads } = valueAndGrads(() => model.loss(batch), params);
  if (step % 50 === 0) console.log(`step ${step}: loss ${value.dataSync()[0]!.toFixed(3)}`);
  optimizer.update(grads, state, params);
  tf.dispose([value, grads]);
}

// Which color follows `<image> a`, by the likelihood of each candidate.
const prompts = COLORS.map((_, i) => ({
  tokens: [WORDS.indexOf('<image>'), WORDS.indexOf('a')],
  visual: { ...batch.visual, shape: [1, 1, PATCHES, COLORS.length], data: imageOf(i) },
}));
const candidates = COLORS.map((color) => [WORDS.indexOf(color)]);
const scores = await model.score(
  prompts,
  prompts.map(() => candidates),
);
scores.forEach((row, i) => {
  const best = row.reduce((top, { sum }, j) => (sum > row[top]!.sum ? j : top), 0);
  console.log(`the ${COLORS[i]} image: ${COLORS[best]}`);
});
