import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { writeSafetensors } from '@flamingo-ts/checkpoint';
import { disposeParams, Random, useBackend, type StateTensor } from '@flamingo-ts/kernels';
import { hiddenStates } from '@flamingo-ts/lm-core';
import { initCausalLM, Transformer, type HFConfigJson, type TransformerParams } from '@flamingo-ts/lm-hf';
import { describeBackends, expectClose, expectNoLeak } from '@flamingo-ts/testing';
import * as tf from '@tensorflow/tfjs-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  Flamingo,
  flamingoFromOpenFlamingo,
  initFlamingo,
  loadOpenFlamingo,
  openFlamingoForm,
  openFlamingoPreset,
  openFlamingoPresets,
  type OpenFlamingoArchitecture,
  type OpenFlamingoCheckpoint,
  type OpenFlamingoOptions,
  type VisionEncoder,
} from './index';

type Shapes = Record<string, readonly number[]>;
type State = Record<string, StateTensor>;

/** Names of embedding and separate head, by path of the layers. */
const TABLES: Readonly<Record<string, readonly string[]>> = {
  'transformer.blocks': ['transformer.wte'],
  'gpt_neox.layers': ['gpt_neox.embed_in', 'embed_out'],
  'model.layers': ['model.embed_tokens'],
};

type Sizes = Pick<OpenFlamingoArchitecture, 'lm' | 'resampler' | 'xattn'>;

/** Names and shapes in a checkpoint that OpenFlamingo saves for a model of these sizes. */
function savedShapes({ lm, resampler: r, xattn: x }: Sizes, vocabSize: number): Shapes {
  const shapes: Shapes = { 'perceiver.latents': [r.numLatents, r.visualSize] };
  const norm = (name: string, size: number) => Object.assign(shapes, { [`${name}.weight`]: [size], [`${name}.bias`]: [size] }); // prettier-ignore
  const attention = (name: string, width: number, media: number, inner: number) =>
    Object.assign(shapes, {
      [`${name}.to_q.weight`]: [inner, width],
      [`${name}.to_kv.weight`]: [2 * inner, media],
      [`${name}.to_out.weight`]: [width, inner],
    });
  const feedForward = (name: string, width: number, inner: number) => {
    norm(`${name}.0`, width);
    Object.assign(shapes, { [`${name}.1.weight`]: [inner, width], [`${name}.3.weight`]: [width, inner] });
  };
  for (let i = 0; i < r.numLayers; i++) {
    norm(`perceiver.layers.${i}.0.norm_media`, r.visualSize);
    norm(`perceiver.layers.${i}.0.norm_latents`, r.visualSize);
    attention(`perceiver.layers.${i}.0`, r.visualSize, r.visualSize, r.numHeads * r.headDim);
    feedForward(`perceiver.layers.${i}.1`, r.visualSize, r.intermediateSize);
  }
  norm('perceiver.norm', r.visualSize);
  for (const table of TABLES[lm.layers]!) shapes[`lang_encoder.${table}.weight`] = [vocabSize, lm.hiddenSize];
  for (let i = x.every - 1; i < lm.numLayers; i += x.every) {
    const block = `lang_encoder.${lm.layers}.${i}.gated_cross_attn_layer`;
    Object.assign(shapes, { [`${block}.attn_gate`]: [1], [`${block}.ff_gate`]: [1] });
    norm(`${block}.attn.norm`, x.hiddenSize);
    attention(`${block}.attn`, x.hiddenSize, x.visualSize, x.numHeads * x.headDim);
    feedForward(`${block}.ff`, x.hiddenSize, x.intermediateSize);
  }
  return shapes;
}

const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

/** A checkpoint in memory, or one with shapes only. */
const opened = (state: Record<string, { shape: readonly number[]; data?: Float32Array }>): OpenFlamingoCheckpoint => ({
  names: Object.keys(state),
  info: (name) => ({ dtype: 'F32', shape: state[name]!.shape }),
  read: async (name) => ({ dtype: 'F32', shape: state[name]!.shape, data: state[name]!.data! }),
});
const openedShapes = (shapes: Shapes) => opened(Object.fromEntries(Object.entries(shapes).map(([n, shape]) => [n, { shape }]))); // prettier-ignore

describe('presets', () => {
  it.each(Object.entries(openFlamingoPresets))(
    '%s follows from the names and shapes of its checkpoint',
    (_, preset) => {
      const { lm, resampler, xattn } = preset;
      const form = openFlamingoForm(openedShapes(savedShapes(preset, 50280)));
      expect(form).toEqual({
        resampler,
        xattn,
        lm: {
          layers: lm.layers,
          hiddenSize: lm.hiddenSize,
          numLayers: [lm.numLayers, lm.numLayers + xattn.every - 1],
          vocabSize: 50280,
        },
      });
    },
  );

  // Sizes of checkpoint.pt as Hugging Face shows them: the trained parameters and the embeddings in float32. The
  // vocabulary is that of GPT-NeoX, 50277 tokens, and three added tokens.
  it.each([
    ['OpenFlamingo-3B-vitl-mpt1b', 4.19],
    ['OpenFlamingo-3B-vitl-mpt1b-langinstruct', 4.19],
    ['OpenFlamingo-4B-vitl-rpj3b-langinstruct', 4.87],
    ['OpenFlamingo-9B-vitl-mpt7b', 5.54],
  ] as const)('%s has the size of the published file, %s GB', (name, gigabytes) => {
    const shapes = savedShapes(openFlamingoPresets[name], 50280);
    const bytes = 4 * Object.values(shapes).reduce((sum, shape) => sum + sizeOf(shape), 0);
    expect((bytes / 1e9).toFixed(2)).toBe(gigabytes.toFixed(2));
  });

  it('lists the known names', () => {
    expect(() => openFlamingoPreset('3b')).toThrow(/expected one of OpenFlamingo-3B-vitl-mpt1b, .*got 3b\. .*loadOpen/);
    expect(openFlamingoPreset('OpenFlamingo-9B-vitl-mpt7b').xattn.every).toBe(4);
  });
});

// --- Small models of every family ---

const mpt = { vocab_size: 20, d_model: 12, n_layers: 4, n_heads: 2, max_seq_len: 32 };
const usual = { vocab_size: 20, hidden_size: 12, num_hidden_layers: 4, num_attention_heads: 2, intermediate_size: 24 };
const families: readonly (readonly [name: string, layers: string, every: number, json: HFConfigJson])[] = [
  ['mosaic_gpt', 'transformer.blocks', 1, { ...mpt, model_type: 'mosaic_gpt', alibi: true, attn_qk_ln: true }],
  ['mosaic_gpt, learned positions', 'transformer.blocks', 1, { ...mpt, model_type: 'mosaic_gpt', attn_qk_ln: true }],
  ['mpt', 'transformer.blocks', 4, { ...mpt, model_type: 'mpt' }],
  ['gpt_neox', 'gpt_neox.layers', 2, { ...usual, model_type: 'gpt_neox', rotary_pct: 1 }],
  ['llama', 'model.layers', 3, { ...usual, model_type: 'llama' }],
];

/** Of the language model's 20 embedding rows OpenFlamingo keeps 18: 15 tokens, 2 special tokens and a padding token. */
const VOCABULARY = 18;
const tokens = { endOfChunk: 15, image: 16 };
const [visualSize, headDim] = [6, 4];

function sizesOf(layers: string, every: number): Sizes {
  const shared = { numHeads: 2, headDim, activation: 'gelu', visualSize } as const;
  return {
    lm: { name: '', modelType: '', layers, numLayers: 4, hiddenSize: 12 },
    resampler: { ...shared, numLayers: 2, numLatents: 3, intermediateSize: 24, finalNorm: true },
    xattn: { ...shared, hiddenSize: 12, intermediateSize: 48, normMedia: false, every, placement: 'open-flamingo' },
  };
}

/** A checkpoint of random values with open gates; its embedding is the language model's except for special tokens. */
function trainedOn(lm: Transformer, layers: string, every: number): State {
  const random = new Random(5);
  const state: State = {};
  for (const [name, shape] of Object.entries(savedShapes(sizesOf(layers, every), VOCABULARY))) {
    state[name] = { shape, data: Float32Array.from({ length: sizeOf(shape) }, () => 0.4 * random.normal()) };
  }
  const rows = (lm.params.embed.weight as tf.Tensor2D).dataSync();
  const { data } = state[`lang_encoder.${TABLES[layers]![0]!}.weight`]!;
  data.set(rows.subarray(0, tokens.endOfChunk * 12));
  data.set(rows.subarray((VOCABULARY - 1) * 12, VOCABULARY * 12), (VOCABULARY - 1) * 12);
  return state;
}

/** The language model as in OpenFlamingo: embedding and head truncated, rows of the special tokens trained. */
function resized(lm: Transformer, table: StateTensor): Transformer {
  const { embed: _, head, ...params } = lm.params;
  const cut = head && (tf.slice(head.weight as tf.Tensor2D, [0, 0], [VOCABULARY, 12]) as tf.Tensor2D);
  const own: TransformerParams = {
    ...params,
    embed: { weight: tf.variable(tf.tensor2d(table.data, [VOCABULARY, 12])) },
    ...(cut && { head: { weight: tf.variable(cut) } }),
  };
  return new Transformer({ ...lm.config, vocabSize: VOCABULARY }, own);
}

const text = [0, 16, 3, 15, 16, 7, 14, 15];

/** Logits of a text with two images. */
function logitsOf(model: Flamingo): tf.Tensor3D {
  const random = new Random(8);
  const data = Float32Array.from({ length: 2 * 5 * visualSize }, () => random.normal());
  const visual = { kind: 'features', shape: [1, 2, 1, 5, visualSize], data } as const;
  return tf.tidy(() => {
    const media = model.encodeMedia({ text: text.length, mediaIndex: [0, 1, 1, 1, 2, 2, 2, 2], visual });
    const hidden = hiddenStates(model.lm, tf.tensor2d(text, [1, text.length], 'int32'), { media });
    return model.lm.logits(hidden);
  });
}

describeBackends('loadOpenFlamingo', () => {
  it.each(families)('equals a model with its embedding replaced, on %s', async (_, layers, every, json) => {
    const lm = initCausalLM(json, new Random(1));
    const state = trainedOn(lm, layers, every);
    const { resampler, xattn } = sizesOf(layers, every);
    const config = { tokens, resampler, xattn };
    const theirs = new Flamingo(config, initFlamingo(config, 4, new Random(2)), {
      lm: resized(lm, state[`lang_encoder.${TABLES[layers]![0]!}.weight`]!),
    });
    theirs.load(flamingoFromOpenFlamingo(state));
    const ours = await loadOpenFlamingo(opened(state), { lm, tokens, headDim });
    const frozen = await loadOpenFlamingo(opened(state), { lm, tokens, headDim, freeze: 'float32' });
    tf.tidy(() => {
      const want = logitsOf(theirs);
      expect(want.shape).toEqual([1, text.length, VOCABULARY]);
      expectClose(logitsOf(ours), want, { atol: 2e-5 });
      expectClose(logitsOf(frozen), want, { atol: 2e-5 });
    });
    for (const params of [ours.params, frozen.params, theirs.params, lm.params]) disposeParams(params);
  });
});

describe('a checkpoint', async () => {
  // The models below are made before a test chooses a backend.
  await useBackend('cpu');
  let folder: string;
  beforeAll(async () => {
    await useBackend('cpu');
    folder = await mkdtemp(join(tmpdir(), 'open-flamingo-'));
  });
  afterAll(() => rm(folder, { recursive: true }));

  const [, layers, every, json] = families[2]!;
  const lm = initCausalLM(json, new Random(1));
  const state = trainedOn(lm, layers, every);
  const options = { lm, tokens, headDim };
  const load = (given: State, more: Partial<OpenFlamingoOptions> = {}) =>
    loadOpenFlamingo(opened(given), { ...options, ...more });
  const without = (pattern: RegExp) =>
    Object.fromEntries(Object.entries(state).filter(([name]) => !pattern.test(name)));
  const wte = 'lang_encoder.transformer.wte.weight';

  it('is read from a file with wrapped names, bfloat16 values and the frozen models', async () => {
    const value = { shape: [3, 3], data: new Float32Array(9) };
    const wrapped = Object.fromEntries(Object.entries(state).map(([name, tensor]) => [`module.${name}`, tensor]));
    const path = join(folder, 'checkpoint.safetensors');
    const others = {
      'module.vision_encoder.conv1.weight': value,
      'module.lang_encoder.transformer.blocks.0.decoder_layer.attn.Wqkv.weight': value,
      'module.lang_encoder.gated_cross_attn_layers.3.attn_gate': value,
      'module.lang_encoder.old_decoder_blocks.0.attn.Wqkv.weight': value,
    };
    await writeSafetensors(path, { ...wrapped, ...others }, { floats: 'BF16' });
    const model = await loadOpenFlamingo(path, options);
    const exact = await load(state);
    tf.tidy(() => expectClose(logitsOf(model), logitsOf(exact), { atol: 0.05 }));
    for (const { params } of [model, exact]) disposeParams(params);
  });

  it('without trained special tokens leaves the language model unchanged', async () => {
    const rows = (lm.params.embed.weight as tf.Tensor2D).dataSync().slice(0, VOCABULARY * 12) as Float32Array;
    const model = await load({ ...state, [wte]: { shape: [VOCABULARY, 12], data: rows } });
    expect(model.params.tokenOffsets.dataSync().every((x) => x === 0)).toBe(true);
    disposeParams(model.params);
  });

  const wider = initCausalLM({ ...json, d_model: 16 }, new Random(1));
  const deeper = initCausalLM({ ...json, n_layers: 8 }, new Random(1));
  const other = initCausalLM(json, new Random(2));
  const smaller = initCausalLM({ ...json, vocab_size: 17 }, new Random(1));
  const vision = { featureDim: 8 } as VisionEncoder;
  const misshapen = (name: string, ...shape: number[]) => ({
    ...state,
    [name]: { shape, data: new Float32Array(sizeOf(shape)) },
  });
  const block = 'lang_encoder.transformer.blocks.3.gated_cross_attn_layer';

  it.each<[string, () => Promise<Flamingo>, RegExp]>([
    [
      'a language model of another width',
      () => load(state, { lm: wider }),
      /trained with a language model of 4 to 7 blocks of width 12 in transformer\.blocks, .* 18 tokens; the given one has 4 blocks of width 16 with 20 tokens: their sizes differ\. Load the one/,
    ],
    [
      'a language model of more layers',
      () => load(state, { lm: deeper }),
      /of 4 to 7 blocks of width 12 .* the given one has 8 blocks/,
    ],
    [
      'another language model',
      () => load(state, { lm: other }),
      /the given one has 4 blocks of width 12 with 20 tokens: 15 of 15 rows of the two embeddings differ, the first is that of token 0\. Load/,
    ],
    [
      'a smaller vocabulary',
      () => load(state, { lm: smaller }),
      /its embedding has 18 rows, but that of the language model only 17\. .*vocabSize: 18/,
    ],
    [
      'other special tokens',
      () => load(state, { tokens: { image: 4, endOfChunk: 3 } }),
      /2 of 15 rows .* differ, the first is that of token 15 \(are 4 and 3 the special tokens\?\)/,
    ],
    [
      'a special token beyond the vocabulary',
      () => load(state, { tokens: { image: 18, endOfChunk: 3 } }),
      /two of its 18 tokens, got ids 18 and/,
    ],
    [
      'the same id for both special tokens',
      () => load(state, { tokens: { image: 3, endOfChunk: 3 } }),
      /two of its 18 tokens, got ids 3 and 3/,
    ],
    [
      'another encoder',
      () => load(state, { vision }),
      /features of width 6, but the given vision encoder has 8\. .*L\/14/,
    ],
    [
      'heads of another width',
      () => load(state, { headDim: 5 }),
      /the resampler has queries of width 8, which is not a multiple of headDim 5/,
    ],
    [
      'no resampler',
      () => load(without(/perceiver/)),
      /of its \d+ tensors .* none belongs to the resampler \(perceiver/,
    ],
    [
      'no embedding',
      () => load(without(/wte/)),
      /none belongs to the embedding \(lang_encoder.*Pass the state dict of a whole/,
    ],
    ['the language model only', () => load(without(/perceiver|gated/)), /to the resampler .*, to the gated blocks/],
    [
      'a missing tensor',
      () => load(without(/layers\.1\.1\.3/)),
      /missing \(1\): resampler\.layers\.1\.mlpDown\.weight\./,
    ],
    [
      'a missing matrix',
      () => load(without(/attn\.to_q/)),
      /block of layer 3 must have a matrix attn\.to_q\.weight, got none/,
    ],
    [
      'a huge layer number',
      () => load(misshapen('perceiver.layers.4000000000.0.norm_media.bias', 6)),
      /missing \(12\): resampler\.layers\.2.*unexpected \(1\): resampler\.layers\.4000000000/,
    ],
    ['an unknown tensor', () => load(misshapen('perceiver.more', 2)), /unexpected \(1\): resampler\.more\. Check/],
    [
      'a misshapen tensor',
      () => load(misshapen(`${block}.ff.3.weight`, 12, 47)),
      /xattn\.blocks\.0\.mlp\.down\.weight: expected \[12, 48\], got \[12, 47\]/,
    ],
    ['a narrower embedding', () => load(misshapen(wte, 18, 6)), /as wide as the gated blocks, 12, got \[18, 6\]/],
    [
      'a gated block at an irregular position',
      () => load({ ...state, ...misshapen(`${block.replace('3', '5')}.ff.3.weight`, 1) }),
      /must precede every 4th layer, .* before layers 3, 5 of transformer\.blocks/,
    ],
    [
      'gated blocks in two lists',
      () => load(misshapen(block.replace('transformer.blocks', 'model.layers') + '.ff_gate', 1)),
      /one list of layers, got transformer\.blocks and model\.layers/,
    ],
    [
      'a NaN',
      () => load({ ...state, [wte]: { shape: [18, 12], data: state[wte]!.data.map((x, i) => (i === 30 ? NaN : x)) } }),
      /rows of the two embeddings differ/,
    ],
    ['a path that does not exist', () => loadOpenFlamingo('no.pt', options), /no\.pt does not exist/],
  ])('is refused with %s', async (_, loading, message) => {
    await expectNoLeak(async () => {
      await expect(loading()).rejects.toThrow(message);
    });
  });

  it('with the sizes of a published model names its language model in the error', async () => {
    const preset = openFlamingoPresets['OpenFlamingo-4B-vitl-rpj3b'];
    await expect(loadOpenFlamingo(openedShapes(savedShapes(preset, 50280)), options)).rejects.toThrow(
      /of 32 to 33 blocks of width 2560 .*Load the one that it was trained with: togethercomputer\/RedPajama-INCITE-Base-3B-v1 if it is OpenFlamingo-4B-vitl-rpj3b, togethercomputer\/RedPajama-INCITE-Instruct-3B-v1 if/,
    );
  });
});
