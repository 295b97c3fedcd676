import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { crossEntropy, embedding, layerNorm, linear, rmsNorm, type StateTensor } from '@flamingo-ts/kernels';
import { loadChinchilla } from '@flamingo-ts/lm-chinchilla';
import {
  beamSearch,
  DecodingSession,
  filterLogits,
  generate,
  hiddenStates,
  KVCache,
  loadTokenizer,
  logSoftmax,
  scoreCandidates,
  sentencePieceTokenizer,
  trainByteLevelBPE,
  type CausalLM,
  type LMContext,
} from '@flamingo-ts/lm-core';
import { loadCausalLM, modelTypes, type Transformer } from '@flamingo-ts/lm-hf';
import type { Reference } from '@flamingo-ts/testing';
import type { GoldenCase, GoldenHandler, GoldenResult } from './case';
import { Comparison, GRADIENT, OUTPUT } from './comparison';

/** Language models, decoding, tokenizers. */
export const lmHandlers: readonly GoldenHandler[] = [
  { matches: ({ meta }) => meta.model_type === 'chinchilla', run: checkChinchilla },
  { matches: ({ meta }) => modelTypes.includes(meta.model_type), run: checkPretrained },
  { matches: ({ meta }) => meta.greedy && meta.beam && meta.scoring && meta.filters, run: checkDecoding },
  {
    matches: ({ meta, folder }) => meta.kind === 'tokenizer' && existsSync(join(folder, 'tokenizer.json')),
    run: checkTokenizer,
  },
  {
    matches: ({ meta, folder }) => meta.kind === 'sentencepiece' && existsSync(join(folder, 'tokenizer.model')),
    run: checkSentencePiece,
  },
];

async function checkChinchilla(c: GoldenCase): Promise<GoldenResult> {
  const { meta } = c.sibling('config.json');
  const state = c.sibling('model.safetensors').tensors as Record<string, StateTensor>;
  const lm = loadChinchilla(
    {
      vocabSize: meta.vocab_size,
      hiddenSize: meta.d_model,
      numLayers: meta.n_layers,
      numHeads: meta.n_heads,
      headDim: meta.kv_size,
      intermediateSize: meta.ffw_size,
      activation: meta.activation_function === 'gelu_tanh' ? 'gelu-tanh' : 'gelu',
      epsilon: meta.rms_norm_eps,
    },
    state,
    c.name,
  );
  try {
    const comparison = new Comparison();
    checkModel(lm, c, comparison, {
      table: lm.params.embed.weight as tf.Variable,
      project: (rows) => rows,
      norm: (x) => rmsNorm(x, lm.params.final_norm, lm.config.epsilon),
    });
    return comparison.result();
  } finally {
    lm.dispose();
  }
}

/** A folder in the format of transformers. */
async function checkPretrained(c: GoldenCase): Promise<GoldenResult> {
  const { lm } = await loadCausalLM(c.folder);
  try {
    const comparison = new Comparison();
    const { embed, embed_proj } = lm.params;
    checkModel(lm, c, comparison, {
      table: embed.weight as tf.Variable,
      project: (rows) => (embed_proj ? linear(rows, embed_proj) : rows),
      norm: (x) => finalNorm(lm, x),
    });
    const { positions } = lm.config;
    if (positions.kind === 'rotary') {
      comparison.stored(c, 'rotary.inv_freq', positions.frequencies, OUTPUT);
    }
    if (positions.kind === 'alibi') {
      comparison.stored(c, 'alibi.slopes', positions.slopes, OUTPUT);
    }
    return comparison.result();
  } finally {
    lm.dispose();
  }
}

function finalNorm({ params, config }: Transformer, x: tf.Tensor3D): tf.Tensor {
  const { kind, epsilon } = config.norm;
  if (!params.final_norm) return tf.clone(x);
  return kind === 'rms' ? rmsNorm(x, params.final_norm, epsilon) : layerNorm(x, params.final_norm, epsilon);
}

/** Parts of a model that the references compare. */
interface Inside {
  /** The embedding. */
  readonly table: tf.Variable;
  /** Projects its rows to the residual stream, before positions are added. */
  readonly project: (rows: tf.Tensor) => tf.Tensor;
  readonly norm: (x: tf.Tensor3D) => tf.Tensor;
}

/** Compares everything in the golden.safetensors of a language model, for any architecture. */
function checkModel(lm: CausalLM, c: GoldenCase, comparison: Comparison, inside: Inside): void {
  checkFull(lm, c, comparison, inside);
  for (const padding of ['leftpad', 'rightpad']) checkPadded(lm, c, comparison, padding);
  checkCached(lm, c, comparison);
}

/** One call without padding: the residual stream at every block, the loss, and its gradient at every block. */
function checkFull(lm: CausalLM, c: GoldenCase, comparison: Comparison, { table, project, norm }: Inside): void {
  const tokens = c.tensor('full.input_ids') as tf.Tensor2D;
  const from = (i: number, x: tf.Tensor3D) => lm.blocks.slice(i).reduce((h, block) => block.apply(h, {}), x);
  const lossFrom = (i: number) => (x: tf.Tensor) => meanLoss(lm.logits(from(i, x as tf.Tensor3D)), tokens);

  let x = lm.embed(tokens, {});
  for (let i = 0; i <= lm.blocks.length; i++) {
    if (i > 0) x = lm.blocks[i - 1]!.apply(x, {});
    comparison.stored(c, `full.hidden.${i}`, x, OUTPUT);
    const gradient = tf.grad(lossFrom(i))(x);
    comparison.stored(c, `full.grad_hidden.${i}`, gradient, GRADIENT);
    if (i === 0) {
      const rows = embedding(table, tokens);
      const positions = tf.sub(x, project(rows));
      const byRows = tf.grad((r) => lossFrom(0)(tf.add(project(r), positions)))(rows);
      comparison.stored(c, 'full.inputs_embeds', rows, OUTPUT);
      comparison.stored(c, 'full.grad_inputs_embeds', byRows, GRADIENT);
    }
  }
  comparison.stored(c, 'full.final_norm', norm(x), OUTPUT);
  comparison.stored(c, 'full.logits', lm.logits(x), OUTPUT);
  comparison.stored(c, 'full.loss', tf.reshape(meanLoss(lm.logits(x), tokens), [1]), OUTPUT);
}

/** Mean cross-entropy over pairs (t-1, t) of two real tokens; over all pairs without a mask. */
function meanLoss(logits: tf.Tensor3D, tokens: tf.Tensor2D, mask?: tf.Tensor2D): tf.Scalar {
  const [batch, text, vocab] = logits.shape;
  const pairs = [batch, text - 1] as [number, number];
  const predicted = tf.reshape(tf.slice(logits, [0, 0, 0], [...pairs, vocab]), [batch * (text - 1), vocab]);
  const targets = tf.reshape(tf.slice(tokens, [0, 1], pairs), [batch * (text - 1)]);
  const weights = mask && tf.mul(tf.slice(mask, [0, 0], pairs), tf.slice(mask, [0, 1], pairs));
  return crossEntropy(predicted, targets, { weights: weights && tf.reshape(weights, [batch * (text - 1)]) });
}

function checkPadded(lm: CausalLM, c: GoldenCase, comparison: Comparison, name: string): void {
  const tokens = c.tensor(`${name}.input_ids`) as tf.Tensor2D;
  const keyMask = tf.cast(c.tensor(`${name}.attention_mask`), 'float32') as tf.Tensor2D;
  const real = tf.expandDims(keyMask, 2);
  const x = hiddenStates(lm, tokens, { keyMask });
  const logits = lm.logits(x);
  comparison.stored(c, `${name}.hidden_last`, tf.mul(x, real), OUTPUT);
  comparison.stored(c, `${name}.logits`, tf.mul(logits, real), OUTPUT);
  const loss = tf.reshape(meanLoss(logits, tokens, keyMask), [1]);
  comparison.stored(c, `${name}.loss`, loss, OUTPUT);
}

/** Reads a prompt in one call, then token by token; first without padding, then the left-padded batch. */
function checkCached(lm: CausalLM, c: GoldenCase, comparison: Comparison): void {
  const cache = new KVCache(lm.blocks.length);
  const tokens = c.tensor('full.input_ids') as tf.Tensor2D;
  const logits = stepByStep(lm, tokens, prefill(c, 'cache'), cache);
  comparison.stored(c, 'cache.logits', logits, OUTPUT);
  for (let i = 0; i < lm.blocks.length; i++) {
    for (const [name, stored] of [
      ['k', cache.layer(i)!.keys],
      ['v', cache.layer(i)!.values],
    ] as const) {
      const want = c.tensors[`cache.${name}.${i}`]!; // [b, h, s, d]
      const [b, h, s, d] = want.shape as [number, number, number, number];
      const byHead = tf.transpose(tf.reshape(stored, [b, s, h, d]), [0, 2, 1, 3]);
      comparison.close(`cache.${name}.${i}`, byHead, want, OUTPUT);
    }
  }
  cache.dispose();

  const padded = new KVCache(lm.blocks.length);
  const mask = tf.cast(c.tensor('leftpad.attention_mask'), 'float32') as tf.Tensor2D;
  const left = stepByStep(lm, c.tensor('leftpad.input_ids') as tf.Tensor2D, prefill(c, 'cache_leftpad'), padded, mask);
  const real = tf.mul(left, tf.expandDims(mask, 2));
  comparison.stored(c, 'cache_leftpad.logits', real, OUTPUT);
  padded.dispose();
}

function prefill(c: GoldenCase, name: string): number {
  return Number(c.tensors[`${name}.prefill_len`]!.data[0]);
}

function stepByStep(lm: CausalLM, tokens: tf.Tensor2D, first: number, cache: KVCache, mask?: tf.Tensor2D): tf.Tensor3D {
  const [batch, text] = tokens.shape;
  const parts: tf.Tensor3D[] = [];
  for (let past = 0; past < text; past = cache.length) {
    const size = past === 0 ? first : 1;
    const keyMask = mask && tf.slice(mask, [0, 0], [batch, past + size]);
    const context: LMContext = { cache, keyMask };
    parts.push(lm.logits(hiddenStates(lm, tf.slice(tokens, [0, past], [batch, size]), context)));
  }
  return tf.concat(parts, 1);
}

async function checkDecoding(c: GoldenCase): Promise<GoldenResult> {
  const comparison = new Comparison();
  const { meta } = c;
  // The searches were recorded with the GPT-2 in the folder next to this one.
  const { lm } = await loadCausalLM(join(c.folder, '../gpt2'));
  const prompts: number[][] = meta.prompts;
  const decoding = { maxNewTokens: meta.max_new_tokens, stopTokens: [meta.eos_token_id] };
  const greedy = await generate(lm, prompts, decoding);
  for (const r of meta.greedy.results) comparison.same('greedy', greedy[r.prompt]!.tokens, r.generated);

  for (const [rules, { num_beams: beams, results }] of [
    ['current', meta.beam],
    ['transformers-4.2x', meta.beam_legacy],
  ] as const) {
    for (const r of results) {
      const session = DecodingSession.open(lm, [prompts[r.prompt]!]);
      const lengthPenalty = r.length_penalty;
      const options = { ...decoding, beams, rules, lengthPenalty, earlyStopping: r.early_stopping };
      const [answers] = await beamSearch(session, options);
      session.dispose();
      const what = `beams of prompt ${r.prompt}, ${rules}, penalty ${lengthPenalty}, early ${r.early_stopping}`;
      comparison.same(
        what,
        answers!.map((a) => a.tokens),
        r.generated,
      );
      comparison.close(
        what,
        answers!.map((a) => a.score),
        r.scores,
        1e-5,
      );
    }
  }
  const scored = await scoreCandidates(
    lm,
    prompts,
    prompts.map((_, i) => meta.scoring.results.find((r: { prompt: number }) => r.prompt === i).candidates),
  );
  for (const r of meta.scoring.results) {
    comparison.close(
      'candidate sums',
      scored[r.prompt]!.map((s) => s.sum),
      r.sum,
      1e-4,
    );
    comparison.close(
      'candidate means',
      scored[r.prompt]!.map((s) => s.mean),
      r.mean,
      1e-4,
    );
  }
  checkFilters(c, comparison);
  lm.dispose();
  return comparison.result();
}

function checkFilters(c: GoldenCase, comparison: Comparison): void {
  const filters = c.sibling('filters.safetensors');
  const logits = rowsOf(filters, 'filter.logits');
  const { specs, rows_where_top_p_cuts_inside_a_tie: ties } = c.meta.filters;
  for (const [name, spec] of Object.entries<Record<string, number>>(specs)) {
    const want = rowsOf(filters, `filter.${name}.probs`);
    logits.forEach((row, i) => {
      const kept = filterLogits(row, {
        temperature: spec['temperature'],
        topK: spec['top_k'],
        topP: spec['top_p'],
        minTokensToKeep: spec['keep'],
      });
      const got = Array.from(logSoftmax(kept), Math.exp);
      // Which of several equal tokens remain depends on the sort, so this compares values, not positions.
      const ordered = (p: number[]) => (ties[name]?.includes(i) ? [...p].sort((a, b) => a - b) : p);
      comparison.close(`filter ${name}`, ordered(got), ordered(want[i]!), 1e-6);
    });
  }
}

function rowsOf(c: Reference, name: string): number[][] {
  const { shape, data } = c.tensors[name]!;
  const width = shape[1]!;
  return Array.from({ length: shape[0]! }, (_, i) => Array.from(data.slice(i * width, (i + 1) * width), Number));
}

async function checkTokenizer(c: GoldenCase): Promise<GoldenResult> {
  const comparison = new Comparison();
  const tokenizer = loadTokenizer(c.sibling('tokenizer.json').meta, c.name);
  for (const { text, ids, add_special_tokens, decoded, decoded_skipping_special } of c.meta.cases) {
    const shown = JSON.stringify(text);
    const options = { addSpecialTokens: add_special_tokens, parseSpecialTokens: true };
    comparison.same(`ids of ${shown}`, tokenizer.encode(text, options), ids);
    comparison.same(`text of ${shown}`, tokenizer.decode(ids), decoded);
    const plain = tokenizer.decode(ids, { skipSpecialTokens: true });
    comparison.same(`text of ${shown} without special tokens`, plain, decoded_skipping_special);
  }
  const { training } = c.meta;
  if (training) {
    const corpus = readFileSync(join(c.folder, '..', training.corpus), 'utf8');
    const ours = loadTokenizer(trainByteLevelBPE([corpus], { vocabSize: training.vocab_size }));
    const [got, want] = [ours, tokenizer].map((t) => t.encode(corpus).length) as [number, number];
    // Ties are broken differently, and the recorded vocabulary has special tokens, so this compares the number of ids.
    comparison.close('ids over the corpus', [got], [want], 0.01);
  }
  return comparison.result();
}

async function checkSentencePiece(c: GoldenCase): Promise<GoldenResult> {
  const comparison = new Comparison();
  const tokenizer = loadTokenizer(sentencePieceTokenizer(readFileSync(join(c.folder, 'tokenizer.model')), c.name));
  for (const { text, ids, decoded } of c.meta.cases) {
    const shown = JSON.stringify(text);
    // The file has no template, so both options give the ids of the text.
    for (const addSpecialTokens of [false, true]) {
      comparison.same(`ids of ${shown}`, tokenizer.encode(text, { addSpecialTokens, parseSpecialTokens: true }), ids);
    }
    comparison.same(`text of ${shown}`, tokenizer.decode(ids), decoded);
  }
  return comparison.result();
}
