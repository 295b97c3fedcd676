/* eslint-disable @typescript-eslint/no-explicit-any -- the JSON of each kind of case has its own form */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { writeSafetensors } from '@flamingo-ts/checkpoint';
import {
  flamingoFromOpenFlamingo,
  loadOpenFlamingo,
  type Flamingo,
  type FlamingoBatch,
  type FlamingoPrompt,
  type Visual,
} from '@flamingo-ts/flamingo';
import {
  CrossAttention,
  GatedXAttn,
  gatedXAttnFromOpenFlamingo,
  initGatedXAttn,
  MediaContext,
  type GatedXAttnConfig,
} from '@flamingo-ts/gated-xattn';
import {
  globalNorm,
  loadState,
  Random,
  variables,
  valueAndGrads,
  type ParamTree,
  type StateTensor,
} from '@flamingo-ts/kernels';
import { DecodingSession } from '@flamingo-ts/lm-core';
import { adamW, chain, clipByGlobalNorm, type Gradients } from '@flamingo-ts/optim';
import {
  initResampler,
  PerceiverResampler,
  resamplerFromOpenFlamingo,
  type ResamplerConfig,
} from '@flamingo-ts/perceiver-resampler';
import { stateFrom, type Reference, type Values } from '@flamingo-ts/testing';
import * as tf from '@tensorflow/tfjs-core';
import { torchFile } from '../../packages/checkpoint/test/torch-file';
import type { GoldenCase, GoldenHandler, GoldenResult } from './case';
import { Comparison, GRADIENT, OUTPUT } from './comparison';
import { TinyLM } from './tiny-lm';

type State = Record<string, StateTensor>;

function numbers({ tensors }: Reference, name: string): number[] {
  return Array.from(tensors[name]!.data as Int32Array, Number);
}

/**
 * Compares gradients by name. If the loss does not depend on a parameter, the reference must have zeros. Compares all gates as
 * one vector, because the gradient of a single number may cancel to almost 0.
 */
function compareGradients(check: Comparison, params: Record<string, tf.Variable>, grads: Gradients, expected: State) {
  const gates: { actual: number[]; expected: number[] } = { actual: [], expected: [] };
  for (const [name, param] of Object.entries(params)) {
    const want = expected[name];
    if (!want) throw new Error(`the reference has no gradient of ${name}`);
    const actual = grads[name] ?? tf.zerosLike(param);
    if (param.size > 1) {
      check.close(`gradient of ${name}`, actual, want, GRADIENT);
    } else {
      gates.actual.push(actual.dataSync()[0]!);
      gates.expected.push(want.data[0]!);
    }
  }
  if (gates.actual.length > 0) check.close('gradients of gates', gates.actual, gates.expected, GRADIENT);
}

// --- One module ---

/** Runs a module on its inputs, and compares its output and all gradients of `sum(output * cotangent)`. */
function runModule(
  c: GoldenCase,
  params: ParamTree,
  rename: (state: State) => State,
  inputs: readonly string[],
  apply: (inputs: Record<string, tf.Variable>) => tf.Tensor,
): GoldenResult {
  loadState(params, rename(stateFrom(c, 'param.')), { what: c.name });
  const given = Object.fromEntries(inputs.map((name) => [name, tf.variable(c.tensor(name))]));
  const all = { ...given, ...variables(params) };
  const cotangent = c.tensor('cotangent');
  let y: tf.Tensor | undefined;
  const { grads } = valueAndGrads(() => {
    y = tf.keep(apply(given));
    return tf.sum(tf.mul(y, cotangent)) as tf.Scalar;
  }, all);
  const check = new Comparison();
  const closed = c.meta.gates === 'closed';
  if (closed) check.close('output', y!, c.tensor('x'), 0);
  check.close('output', y!, c.tensor('out.y'), OUTPUT);
  const expected = rename(stateFrom(c, 'grad.'));
  if (closed) {
    const gates = /^(attn|mlp)Gate$/;
    for (const [name, param] of Object.entries(all)) {
      if (!gates.test(name)) check.close(`gradient of ${name}`, grads[name] ?? tf.zerosLike(param), expected[name]!, 0);
    }
    compareGradients(check, Object.fromEntries(Object.entries(all).filter(([n]) => gates.test(n))), grads, expected);
  } else {
    compareGradients(check, all, grads, expected);
  }
  tf.dispose([y!, ...Object.values(all)]);
  return check.result();
}

/** Matches the cases of one class, of either implementation. */
const isModule = (name: string) => (c: GoldenCase) =>
  new RegExp(`^(open_flamingo|flamingo_pytorch)\\.${name}$`).test(c.meta.module) && 'out.y' in c.tensors;

const resampler: GoldenHandler = {
  matches: isModule('PerceiverResampler'),
  async run(c) {
    const hp = c.meta.hyperparameters;
    const config: ResamplerConfig = {
      visualSize: hp.dim,
      numLayers: hp.depth,
      numHeads: hp.heads,
      headDim: hp.dim_head,
      numLatents: hp.num_latents,
      intermediateSize: hp.ff_mult * hp.dim,
      activation: 'gelu',
      finalNorm: true,
      numFrames: hp.max_num_frames ?? undefined,
      numMedia: hp.max_num_media ?? hp.num_media_embeds ?? undefined,
    };
    const module = new PerceiverResampler(config, initResampler(config, new Random(0)));
    // flamingo-pytorch has no axis for frames, and none for media if there is only one.
    const [batch, ...rest] = c.tensors['x']!.shape as number[];
    const media = rest.slice(0, -2);
    const shape = [batch!, media[0] ?? 1, media[1] ?? 1, ...rest.slice(-2)] as [number, number, number, number, number];
    return runModule(c, module.params, resamplerFromOpenFlamingo, ['x'], ({ x }) =>
      module.apply(tf.reshape(x!, shape) as tf.Tensor5D),
    );
  },
};

/** Config of a block. The references do not normalize media, and average over all images for a token without an image. */
function xattnConfig(hp: any, locations: boolean): GatedXAttnConfig {
  const immediate = hp.only_attend_immediate_media ? 'immediate' : 'all-previous';
  return {
    hiddenSize: hp.dim,
    visualSize: hp.dim_visual ?? hp.dim,
    numHeads: hp.heads,
    headDim: hp.dim_head,
    intermediateSize: (hp.ff_mult ?? 4) * hp.dim,
    activation: 'gelu',
    normMedia: false,
    attend: locations ? immediate : 'all',
    emptyRows: 'uniform',
  };
}

/**
 * Media index from `[batch, n]` flags of image tokens: their number up to and including each token, or, for text that follows
 * a prompt, their number in the prompt.
 */
function mediaIndex(locations: ArrayLike<number>, batch: number, text: number, afterPrompt: boolean): number[] {
  const width = locations.length / batch;
  return Array.from({ length: batch }, (_, b) => {
    const row = Array.from({ length: width }, (__, i) => locations[b * width + i]!);
    const count = (end: number) => row.slice(0, end).reduce((a, x) => a + x, 0);
    return Array.from({ length: text }, (__, i) => count(afterPrompt ? width : i + 1));
  }).flat();
}

function mediaContext(c: GoldenCase, media: tf.Tensor4D): MediaContext {
  const [batch, text] = c.tensors['x']!.shape as [number, number];
  const index = c.tensors['media_locations']
    ? mediaIndex(numbers(c, 'media_locations'), batch, text, c.meta.call.use_cached_media ?? false)
    : new Array<number>(batch * text).fill(0);
  return new MediaContext(media, index, text, { allowMissingImages: true });
}

/** A class of cross-attention; `make` builds ours. */
const xattn = (name: string, make: (config: GatedXAttnConfig) => CrossAttention | GatedXAttn): GoldenHandler => ({
  matches: isModule(name),
  async run(c) {
    const module = make(xattnConfig(c.meta.hyperparameters, 'media_locations' in c.tensors));
    return runModule(c, module.params, gatedXAttnFromOpenFlamingo, ['x', 'media'], ({ x, media }) =>
      module.apply(x as unknown as tf.Tensor3D, mediaContext(c, media as unknown as tf.Tensor4D)),
    );
  },
});

const crossAttention = xattn('MaskedCrossAttention', (config) => {
  return new CrossAttention(config, initGatedXAttn(config, new Random(0)).attn);
});

const gatedBlock = xattn('GatedCrossAttentionBlock', (config) => {
  return new GatedXAttn(config, initGatedXAttn(config, new Random(0)));
});

/** Attention weights per image: all keys are equal, and each image has one latent, whose value is its one-hot number. */
const attentionTable: GoldenHandler = {
  matches: (c) => c.meta.entries?.every((entry: any) => 'attention_per_image' in entry) ?? false,
  async run(c) {
    const check = new Comparison();
    c.meta.entries.forEach((entry: any, i: number) => {
      check.close(`entry ${i}`, attentionPerImage(entry), (entry.attention_per_image as number[][][]).flat(2), 1e-6);
    });
    return check.result();
  },
};

function attentionPerImage(entry: any): number[] {
  const n: number = entry.number_of_images;
  const text: number = entry.number_of_text_tokens;
  const locations: number[][] | null = entry.media_locations;
  const rows = entry.attention_per_image.length;
  const hp = { dim: n, dim_visual: n, heads: 1, dim_head: n, ...entry };
  const config = xattnConfig(hp, locations !== null);
  const { norm } = initGatedXAttn(config, new Random(0)).attn;
  const eye = { weight: tf.variable(tf.eye(n)) };
  const zero = { weight: tf.variable(tf.zeros([n, n]) as tf.Tensor2D) };
  const module = new CrossAttention(config, { norm, query: zero, key: zero, value: eye, output: eye });
  const index = mediaIndex(locations?.flat() ?? [], rows, text, entry.use_cached_media);
  const media = tf.tile(tf.reshape(tf.eye(n), [1, n, 1, n]), [rows, 1, 1, 1]) as tf.Tensor4D;
  const weights = module.apply(
    tf.zeros([rows, text, n]) as tf.Tensor3D,
    new MediaContext(media, index, text, { allowMissingImages: true }),
  );
  return Array.from(weights.dataSync());
}

// --- The whole model ---

/** The model of an end-to-end case, and its language model. */
interface WholeModel {
  readonly model: Flamingo;
  readonly lm: TinyLM;
}

/**
 * Loads the model of an end-to-end case as an OpenFlamingo checkpoint, from both file formats. Its parameters may be in another
 * file of the folder.
 */
async function wholeModel(c: GoldenCase, gates: 'as given' | 'closed' = 'as given'): Promise<WholeModel> {
  const { language_model: language, resampler, special_ids: ids } = c.meta.hyperparameters;
  const file = /^\S+/.exec(c.meta.parameters_from ?? '')?.[0];
  const state = stateFrom(file ? c.sibling(file) : c, 'param.');
  if (gates === 'closed') for (const name of Object.keys(state)) if (/_gate$/.test(name)) state[name]!.data.fill(0);
  const tokens = { image: ids['<image>'], endOfChunk: ids['<|endofchunk|>'] };
  const languageState: State = {};
  for (const [name, value] of Object.entries(state)) {
    const own = /^lang_encoder\.transformer\.(.*)$/.exec(name);
    if (own) languageState[own[1]!] = value;
  }
  // With closed gates and untrained special tokens, the model equals its language model.
  if (gates === 'as given')
    languageState['wte.weight'] = withoutRows(languageState['wte.weight']!, Object.values(tokens));
  const lm = new TinyLM(languageState, language.layers, language.heads);
  const folder = await mkdtemp(join(tmpdir(), 'goldens-'));
  try {
    await writeFile(join(folder, 'checkpoint.pt'), torchFile({ epoch: 1, model_state_dict: state }));
    await writeSafetensors(join(folder, 'model.safetensors'), state);
    const options = { lm, tokens, headDim: resampler.dim_head };
    const model = await loadOpenFlamingo(join(folder, 'checkpoint.pt'), options);
    const other = await loadOpenFlamingo(folder, options);
    if (!isDeepStrictEqual(await other.state(), await model.state())) {
      throw new Error('the model loaded from safetensors differs from the one loaded from .pt');
    }
    tf.dispose(Object.values(variables(other.params)));
    return { model, lm };
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** An embedding table before training of some rows: they are the mean of the others. */
function withoutRows({ shape, data }: StateTensor, rows: readonly number[]): StateTensor {
  const [count, width] = shape as [number, number];
  const mean = new Float32Array(width);
  const isOwn = (i: number) => !rows.includes(Math.floor(i / width));
  data.forEach((x, i) => (mean[i % width]! += isOwn(i) ? x / (count - rows.length) : 0));
  return { shape, data: data.map((x, i) => (isOwn(i) ? x : mean[i % width]!)) };
}

function release({ model, lm }: WholeModel): void {
  tf.dispose([...Object.values(variables(model.params)), ...Object.values(variables(lm.params))]);
}

const isWhole = (c: GoldenCase) => /^open_flamingo\.Flamingo\b/.test(c.meta.module);

/** The batch of a case; `prefix` selects one of its two data streams. */
function batchOf(c: GoldenCase, prefix = ''): FlamingoBatch & { readonly visual: Visual } {
  const ids = c.tensors[`${prefix}input_ids`]!;
  const [size, text] = ids.shape as [number, number];
  const image = c.meta.hyperparameters.special_ids['<image>'];
  const tokens = Int32Array.from(ids.data as Int32Array, Number);
  const labels = c.tensors[`${prefix}labels`];
  return {
    size,
    text,
    tokens,
    lossMask: Float32Array.from(tokens, (_, i) => (labels && Number(labels.data[i]) !== -100 ? 1 : 0)),
    mediaIndex: mediaIndex(
      tokens.map((token) => (token === image ? 1 : 0)),
      size,
      text,
      false,
    ),
    visual: featuresOf(c, prefix),
  };
}

function featuresOf(c: GoldenCase, prefix = ''): Visual {
  const { shape, data } = c.tensors[`${prefix}vision_features`]!;
  return { kind: 'features', shape, data: data as Float32Array };
}

/** The prompts of a case, one per row. */
function promptsOf(c: GoldenCase): FlamingoPrompt[] {
  const { size, text, tokens, visual } = batchOf(c);
  const [, ...shape] = visual.shape;
  const each = visual.data.length / size;
  return Array.from({ length: size }, (_, i) => ({
    tokens: Array.from(tokens.subarray(i * text, (i + 1) * text)),
    visual: { ...visual, shape, data: visual.data.subarray(i * each, (i + 1) * each) },
  }));
}

/** Latents, the residual stream before and after each block, and logits; with the attention mask of the case. */
function forward(model: Flamingo, c: GoldenCase): { latents: tf.Tensor; hidden: tf.Tensor3D[]; logits: tf.Tensor } {
  const batch = batchOf(c);
  const media = model.encodeMedia(batch)!;
  const keyMask = tf.cast(c.tensor('attention_mask'), 'float32') as tf.Tensor2D;
  const context = { media, keyMask };
  const hidden = [model.lm.embed(c.tensor('input_ids') as tf.Tensor2D, context)];
  for (const block of model.lm.blocks) hidden.push(block.apply(hidden.at(-1)!, context));
  return { latents: media.latents, hidden, logits: model.lm.logits(hidden.at(-1)!) };
}

const wholeForward: GoldenHandler = {
  matches: (c) => isWhole(c) && 'out.resampled' in c.tensors,
  async run(c) {
    const whole = await wholeModel(c);
    const { model, lm } = whole;
    const check = new Comparison();
    const { latents, hidden, logits } = forward(model, c);
    check.close('resampled', latents, c.tensor('out.resampled'), OUTPUT);
    // The copy for this repository's tests contains neither hidden states nor gradients.
    for (const [i, x] of hidden.entries()) {
      if (`out.hidden.${i}` in c.tensors) check.close(`hidden ${i}`, x, c.tensor(`out.hidden.${i}`), OUTPUT);
    }
    check.close('logits', logits, c.tensor('out.logits'), OUTPUT);

    const trained = variables(model.params);
    const all = { ...trained, embedding: lm.params.tokens as tf.Variable };
    const { value, grads } = valueAndGrads(() => model.loss(batchOf(c), { embedding: all.embedding }), all);
    check.close('loss', tf.reshape(value, [1]), c.tensor('out.loss'), OUTPUT);
    const reference = stateFrom(c, 'grad.');
    const embedding = reference['lang_encoder.transformer.wte.weight'];
    if (embedding) {
      compareGradients(check, all, grads, {
        ...flamingoFromOpenFlamingo(reference),
        embedding,
        tokenOffsets: rowsOf(embedding, model),
      });
    }
    release(whole);
    return check.result();
  },
};

/** The rows of `<image>` and `<EOC>` in a table of all tokens. */
function rowsOf({ shape, data }: StateTensor, { config }: Flamingo): StateTensor {
  const width = shape[1]!;
  const rows = [config.tokens.image, config.tokens.endOfChunk];
  const values = rows.flatMap((row) => Array.from(data.subarray(row * width, (row + 1) * width)));
  return { shape: [rows.length, width], data: Float32Array.from(values) };
}

const closedGates: GoldenHandler = {
  matches: (c) => isWhole(c) && 'out.logits' in c.tensors && /\bgates? 0\b/.test(c.meta.about),
  async run(c) {
    const whole = await wholeModel(c, 'closed');
    const { model, lm } = whole;
    const check = new Comparison();
    const { logits } = forward(model, c);
    const keyMask = tf.cast(c.tensor('attention_mask'), 'float32') as tf.Tensor2D;
    let x = lm.embed(c.tensor('input_ids') as tf.Tensor2D, {});
    for (const block of lm.blocks) x = block.apply(x, { keyMask });
    check.close('logits of the language model alone', logits, lm.logits(x), 0);
    check.close('logits', logits, c.tensor('out.logits'), OUTPUT);
    check.close('loss', tf.reshape(model.loss(batchOf(c)), [1]), c.tensor('out.loss'), OUTPUT);
    release(whole);
    return check.result();
  },
};

const generation: GoldenHandler = {
  matches: (c) => isWhole(c) && 'out.ids' in c.tensors,
  async run(c) {
    const whole = await wholeModel(c);
    const { model } = whole;
    const { max_new_tokens: maxNewTokens, end_token_id: end, num_beams: beams } = c.meta.call;
    const { pad } = c.meta.hyperparameters.special_ids;
    const prompts = promptsOf(c);
    const answers = await model.generate(prompts, { maxNewTokens, stopTokens: [end], beams });
    const length = c.tensors['out.ids']!.shape[1]!;
    const ids = prompts.map(({ tokens }, i) => {
      const row = [...tokens, ...answers[i]!.tokens];
      return [...row, ...new Array<number>(length - row.length).fill(pad)];
    });
    const check = new Comparison();
    check.same('ids', ids.flat(), numbers(c, 'out.ids'));
    if ('out.step_logits' in c.tensors) {
      const steps = await stepLogits(model, prompts, ids);
      check.close('step logits', steps, c.tensors['out.step_logits']!.data as Float32Array, OUTPUT);
    }
    release(whole);
    return check.result();
  },
};

/** Logits of each step when the given tokens are read one by one; `[rows, steps, vocab]` flattened. */
async function stepLogits(model: Flamingo, prompts: readonly FlamingoPrompt[], ids: number[][]): Promise<Values> {
  const media = model.prepare(prompts);
  const read = prompts.map(({ tokens }) => tokens);
  const session = DecodingSession.open(model.lm, read, media.context);
  const from = read[0]!.length;
  const steps = [await session.start()];
  const rows = ids.map((_, row) => row);
  for (let at = from; at < ids[0]!.length - 1; at++) {
    steps.push(
      await session.next(
        rows,
        ids.map((row) => row[at]!),
      ),
    );
  }
  session.dispose();
  media.dispose();
  return rows.flatMap((row) => steps.flatMap((step) => Array.from(step[row]!)));
}

const scoring: GoldenHandler = {
  matches: (c) => isWhole(c) && 'class_token_ids' in c.meta,
  async run(c) {
    const whole = await wholeModel(c);
    const prompts = promptsOf(c);
    const candidates = prompts.map(() => c.meta.class_token_ids as number[][]);
    const scores = (await whole.model.score(prompts, candidates)).flat();
    const check = new Comparison();
    check.close('mean', scores.map((s) => s.mean), numbersOf(c, 'out.mean_logprobs'), OUTPUT); // prettier-ignore
    check.close('sum', scores.map((s) => s.sum), numbersOf(c, 'out.sum_logprobs'), OUTPUT); // prettier-ignore
    release(whole);
    return check.result();
  },
};

const numbersOf = (c: GoldenCase, name: string) => Array.from(c.tensors[name]!.data as Float32Array);

const training: GoldenHandler = {
  matches: (c) => isWhole(c) && 'training' in c.meta && 'out.losses' in c.tensors,
  async run(c) {
    const whole = await wholeModel(c);
    const { model } = whole;
    const { training } = c.meta;
    const withTokens = training.trained.some((name: string) => name.endsWith('wte.weight'));
    const params = Object.fromEntries(
      Object.entries(variables(model.params)).filter(([name]) => withTokens || name !== 'tokenOffsets'),
    );
    const wholeBlock = /^all parameters/.test(training.decayed);
    const optimizer = chain(
      clipByGlobalNorm(Number(/limit ([\d.]+)/.exec(training.gradient_clip)![1])),
      adamW({
        learningRate: training.lr,
        beta1: training.betas[0],
        beta2: training.betas[1],
        epsilon: training.eps,
        weightDecay: training.weight_decay,
        decayMask: (name, p) => name.startsWith('xattn.') && (wholeBlock || p.rank >= 2),
      }),
    );
    const state = optimizer.init(params);
    const factors = training.loss_multipliers ?? { interleaved: 1 };
    const seen: Record<string, number[]> = { losses: [], pair_losses: [], grad_norms: [] };
    for (let step = 0; step < training.steps; step++) {
      tf.tidy(() => {
        const { grads } = valueAndGrads(() => {
          const interleaved = model.loss(batchOf(c));
          seen['losses']!.push(interleaved.dataSync()[0]!);
          if (!factors.pairs) return tf.mul(interleaved, factors.interleaved);
          const pairs = model.loss(batchOf(c, 'pair_'));
          seen['pair_losses']!.push(pairs.dataSync()[0]!);
          return tf.add(tf.mul(interleaved, factors.interleaved), tf.mul(pairs, factors.pairs));
        }, params);
        seen['grad_norms']!.push(globalNorm(Object.values(grads)).dataSync()[0]!);
        optimizer.update(grads, state, params);
      });
    }
    const check = new Comparison();
    for (const [name, values] of Object.entries(seen)) {
      if (`out.${name}` in c.tensors) check.close(name, values, numbersOf(c, `out.${name}`), OUTPUT);
    }
    await compareTrained(check, c, whole, params);
    release(whole);
    return check.result();
  },
};

/**
 * Compares parameters after training: 99% must be within 1e-6 and all within 1e-4, because the optimizer divides by the size of
 * gradients, some of which are almost 0.
 */
async function compareTrained(
  check: Comparison,
  c: GoldenCase,
  { model, lm }: WholeModel,
  params: Record<string, tf.Variable>,
): Promise<void> {
  const final = stateFrom(c, 'out.final.');
  const expected = flamingoFromOpenFlamingo(final);
  const embedding = final['lang_encoder.transformer.wte.weight'];
  if (embedding) {
    // OpenFlamingo stores the row itself, this package what training added to it.
    const before = rowsOf({ shape: embedding.shape, data: lm.params.tokens.dataSync() as Float32Array }, model);
    const after = rowsOf(embedding, model);
    expected['tokenOffsets'] = { ...after, data: after.data.map((x, i) => x - before.data[i]!) };
  }
  let [count, near, worst] = [0, 0, 0];
  for (const [name, param] of Object.entries(params)) {
    const values = (await param.data()) as Float32Array;
    values.forEach((value, i) => {
      const difference = Math.abs(value - expected[name]!.data[i]!);
      count++;
      if (difference <= 1e-6) near++;
      worst = Math.max(worst, difference);
    });
    check.close(name, param, expected[name]!, GRADIENT);
  }
  check.note('largest difference of a trained parameter', worst, 1e-4);
  check.note('share of trained parameters off by more than 1e-6', 1 - near / count, 0.01);
}

/** Resampler, cross attention, gated blocks and the interleaved model. */
export const flamingoHandlers: readonly GoldenHandler[] = [
  resampler,
  crossAttention,
  gatedBlock,
  attentionTable,
  closedGates,
  wholeForward,
  generation,
  scoring,
  training,
];
