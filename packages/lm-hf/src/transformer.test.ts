import { fileURLToPath } from 'node:url';
import * as tf from '@tensorflow/tfjs-core';
import { checkInterleaving } from '@flamingo-ts/gated-xattn';
import { countParams, crossEntropy, namedParams, Random, stateOf, variables } from '@flamingo-ts/kernels';
import {
  checkCausalLM,
  generate,
  hiddenStates,
  KVCache,
  languageModelLoss,
  nextTokenBatch,
  scoreCandidates,
} from '@flamingo-ts/lm-core';
import {
  checkGradient,
  describeBackends,
  expectClose,
  expectNoLeak,
  loadReference,
  relativeError,
} from '@flamingo-ts/testing';
import { describe, expect, it } from 'vitest';
import { configs } from '../test/configs';
import { transformerConfig } from './families';
import { causalLMShapes, initCausalLM, loadCausalLM, type Transformer } from './index';

const at = (name: string) => fileURLToPath(new URL(`../test/reference/${name}`, import.meta.url));
const families = ['gpt2', 'opt-postln-proj', 'gpt-neox', 'llama-gqa-rope3', 'mpt-heads-not-pow2', 'mosaic-gpt'];
const fresh = (name: string, seed = 1) => initCausalLM(configs[name]!, new Random(seed));

/** Mean cross-entropy of every next token. */
function meanLoss(logits: tf.Tensor3D, tokens: tf.Tensor2D): tf.Scalar {
  const [batch, text, vocab] = logits.shape;
  const rows = tf.reshape(tf.slice(logits, [0, 0, 0], [batch, text - 1, vocab]), [batch * (text - 1), vocab]);
  return crossEntropy(rows, tf.reshape(tf.slice(tokens, [0, 1], [batch, text - 1]), [batch * (text - 1)]));
}

/** Token by token after a prompt of `first`. */
function stepByStep(
  lm: Transformer,
  tokens: tf.Tensor2D,
  first: number,
  cache: KVCache,
  mask?: tf.Tensor2D,
): tf.Tensor {
  const [batch, text] = tokens.shape;
  const parts: tf.Tensor3D[] = [];
  for (let past = 0; past < text; past = cache.length) {
    const size = past ? 1 : first;
    const keyMask = mask && tf.slice(mask, [0, 0], [batch, past + size]);
    parts.push(lm.logits(hiddenStates(lm, tf.slice(tokens, [0, past], [batch, size]), { cache, keyMask })));
  }
  return tf.concat(parts, 1);
}

// Recorded from transformers 5.18.0, mosaic-gpt from an independent implementation; see expected.json of each.
describeBackends('recorded models', (backend) => {
  it.each(families)('%s: residuals, logits, gradients, padding, decoding', async (name) => {
    const { lm } = await loadCausalLM(at(name));
    const expected = loadReference(`${at(name)}/expected`);
    const want = (tensor: string) => expected.tensors[tensor]!;
    tf.tidy(() => {
      const tokens = expected.tensor('full.input_ids') as tf.Tensor2D;
      let x = lm.embed(tokens, {});
      const lossOf = (h: tf.Tensor) =>
        meanLoss(lm.logits(lm.blocks.reduce((y, block) => block.apply(y, {}), h as tf.Tensor3D)), tokens);
      expectClose(tf.grad(lossOf)(x), want('full.grad_hidden.0'), { atol: 2e-5 });
      for (const [i, block] of lm.blocks.entries()) {
        expectClose(x, want(`full.hidden.${i}`), { atol: 1e-4 });
        x = block.apply(x, {});
      }
      expectClose(x, want('full.hidden.2'), { atol: 1e-4 });
      expectClose(lm.logits(x), want('full.logits'), { atol: 1e-4 });

      const mask = tf.cast(expected.tensor('leftpad.attention_mask'), 'float32') as tf.Tensor2D;
      const padded = expected.tensor('leftpad.input_ids') as tf.Tensor2D;
      const real = (logits: tf.Tensor) => tf.mul(logits, tf.expandDims(mask, 2));
      const whole = lm.logits(hiddenStates(lm, padded, { keyMask: mask }));
      expectClose(real(whole), want('leftpad.logits'), { atol: 1e-4 });
      const [plain, left] = [new KVCache(2), new KVCache(2)];
      expectClose(stepByStep(lm, tokens, 5, plain), want('full.logits'), { atol: 1e-4 });
      expectClose(real(stepByStep(lm, padded, 7, left, mask)), want('leftpad.logits'), { atol: 1e-4 });
      // After rotary, before heads are repeated.
      const [b, h, s, d] = want('cache.k.1').shape as [number, number, number, number];
      const keys = tf.transpose(tf.reshape(plain.layer(1)!.keys, [b, s, h, d]), [0, 2, 1, 3]);
      expectClose(keys, want('cache.k.1'), { atol: 1e-4 });
      plain.dispose();
      left.dispose();
    });
    lm.dispose();
  });

  it.each(families)('%s: nearly the same logits in bfloat16', async (name) => {
    const { lm } = await loadCausalLM(at(name), { freeze: 'bfloat16' });
    const expected = loadReference(`${at(name)}/expected`);
    const logits = tf.tidy(() => lm.logits(hiddenStates(lm, expected.tensor('full.input_ids') as tf.Tensor2D, {})));
    // Rows of the embedding are rounded on every backend, matrices where the backend packs them.
    expect(relativeError(logits, expected.tensors['full.logits']!)).toBeLessThan(backend === 'native' ? 2e-2 : 1e-2);
    logits.dispose();
    lm.dispose();
  });
});

describeBackends('Transformer', (backend) => {
  it.each(Object.keys(configs))('%s satisfies the CausalLM contract, and that of gated blocks', async (name) => {
    const lm = fresh(name);
    await checkInterleaving(lm);
    // Tables of positions are made for 64 first; the same code everywhere, so one fast backend outgrows them.
    if (backend === 'wasm') await checkCausalLM(lm, { text: 70 });
    lm.dispose();
  });

  it.each(Object.keys(configs))('%s counts positions over real tokens, wherever the padding is', (name) => {
    tf.tidy(() => {
      const lm = fresh(name);
      const logits = (ids: number[], mask?: number[]) => {
        const keyMask = mask && tf.tensor2d(mask, [1, mask.length]);
        const cache = new KVCache(2);
        const y = stepByStep(lm, tf.tensor2d(ids, [1, ids.length], 'int32'), ids.length - 1, cache, keyMask);
        cache.dispose();
        return y;
      };
      const holes = logits([0, 3, 1, 0, 0, 4, 1, 5], [0, 1, 1, 0, 0, 1, 1, 1]);
      const real = tf.gather(holes, tf.tensor1d([1, 2, 5, 6, 7], 'int32'), 1);
      expectClose(real, logits([3, 1, 4, 1, 5]), { rtol: 1e-5 });
      lm.dispose();
    });
  });

  it('generates the same answers frozen, and alone or in a batch', async () => {
    const lm = fresh('llama, grouped heads');
    const prompts = [[1, 2, 3, 4], [5, 6]]; // prettier-ignore
    const options = { maxNewTokens: 5, beams: 2 };
    const answers = await generate(lm, prompts, options);
    expect((await generate(lm, prompts.slice(1), options))[0]!.tokens).toEqual(answers[1]!.tokens);
    const frozen = await lm.freeze();
    expect((await generate(frozen, prompts, options)).map((a) => a.tokens)).toEqual(answers.map((a) => a.tokens));
    await expect(generate(lm, prompts, options)).rejects.toThrow('Transformer: used after freeze()');
    frozen.dispose();
  });

  it.each(['opt, norms after, embedding projected', 'gpt_neox', 'llama, grouped heads', 'mpt', 'mosaic_gpt'])(
    '%s has the gradients of finite differences, from embedding to head',
    (name) => {
      tf.tidy(() => {
        const lm = fresh(name);
        const f = (x: tf.Tensor) => lm.logits(lm.blocks.reduce((h, b) => b.apply(h, {}), x as tf.Tensor3D));
        // Large enough that few values are near the kinks of relu and clipping.
        const x = tf.mul(lm.embed(tf.tensor2d([1, 2, 3, 4], [1, 4], 'int32'), {}), 30);
        checkGradient(f, [x], { rtol: 2e-2 });
        lm.dispose();
      });
    },
  );

  it.each(Object.keys(configs))('%s gives every parameter a gradient; frozen, matrices get none', async (name) => {
    const lm = fresh(name);
    const batch = nextTokenBatch([[1, 2, 3, 4, 5, 6]]);
    const trainable = variables(lm.params);
    const { value, grads } = tf.variableGrads(() => languageModelLoss(lm, batch), Object.values(trainable));
    for (const [parameter, variable] of Object.entries(trainable)) {
      // A bias on all keys of a head adds the same to all scores of a query, unless keys are rotated or normalized.
      if (parameter.endsWith('k_proj.bias') && !/neox|llama/.test(name)) continue;
      const size = tf.tidy(() => tf.max(tf.abs(grads[variable.name]!)).dataSync()[0]!);
      expect(size, parameter).toBeGreaterThan(1e-9);
    }
    tf.dispose([value, grads]);
    const frozen = await lm.freeze('bfloat16');
    const matrices = Object.keys(variables(frozen.params)).filter((p) => /proj\.weight|ffn\.\w+\.weight|head/.test(p));
    expect(matrices).toEqual([]);
    expect(countParams(frozen.params)).toBe(Object.values(causalLMShapes(configs[name]!)).map(size).reduce(add));
    frozen.dispose();
  });

  it('clips queries, keys and values if the config says so', () => {
    const lm = fresh('mpt');
    const cache = new KVCache(2);
    tf.tidy(() => {
      lm.blocks[0]!.apply(tf.randomNormal<tf.Rank.R3>([1, 9, 12], 0, 1, 'float32', 1), { cache });
      const { keys, values } = cache.layer(0)!;
      for (const x of [keys, values]) expect(tf.max(tf.abs(x)).dataSync()[0]).toBe(1.5);
    });
    cache.dispose();
    lm.dispose();
  });

  it('leaves no tensors behind', async () => {
    for (const name of ['gpt2', 'llama, grouped heads', 'mosaic_gpt']) {
      const lm = fresh(name);
      await expectNoLeak(async () => {
        await generate(lm, [[1, 2], [3]], { maxNewTokens: 3, beams: 2 });
        await scoreCandidates(lm, [[1, 2]], [[[3], [4, 5]]]);
      });
      const batch = nextTokenBatch([[1, 2, 3]]);
      await expectNoLeak(() => tf.variableGrads(() => languageModelLoss(lm, batch)) as never);
      lm.dispose();
    }
    await expectNoLeak(async () => {
      const frozen = await fresh('gpt_neox').freeze('bfloat16');
      await generate(frozen, [[1, 2], [3]], { maxNewTokens: 2 });
      frozen.dispose();
    });
    await expectNoLeak(async () => {
      const frozen = await fresh('gpt2').freeze('bfloat16');
      (await frozen.freeze('bfloat16')).dispose();
    });
  });

  it('returns a head input whose products with the rows of the head are the logits', () => {
    tf.tidy(() => {
      const lm = fresh('llama, grouped heads');
      const ids = Array.from({ length: 20 }, (_, i) => i);
      const table = tf.reshape(lm.embed(tf.tensor2d(ids, [1, 20], 'int32'), {}), [20, 16]);
      const x = tf.randomNormal<tf.Rank.R3>([1, 3, 16], 0, 1, 'float32', 1);
      const products = tf.matMul(tf.reshape(lm.headInput!(x), [3, 16]), table, false, true);
      expectClose(tf.reshape(products, [1, 3, 20]), lm.logits(x), { rtol: 1e-5 });
      lm.dispose();
      const apart = fresh('llama');
      expect('headInput' in apart).toBe(false);
      const { weight } = apart.params.head!;
      const rows = tf.matMul(tf.reshape(apart.separateHeadInput!(x), [3, 16]), weight as tf.Tensor2D, false, true);
      expectClose(tf.reshape(rows, [1, 3, -1]), apart.logits(x), { rtol: 1e-5 });
      apart.dispose();
      const projected = fresh('opt, norms after, embedding projected');
      expect(['headInput', 'separateHeadInput'].filter((name) => name in projected)).toEqual([]);
      projected.dispose();
    });
  });

  it('rejects wrong shapes and texts that are too long', () => {
    const lm = fresh('gpt2');
    tf.tidy(() => {
      expect(() => lm.embed(tf.tensor1d([4, 4], 'int32') as tf.Tensor as tf.Tensor2D, {})).toThrow(
        /tokens must be \[batch, text\], got \[2\]/,
      );
      expect(() => lm.logits(tf.zeros([1, 4, 8]))).toThrow(/x must be \[batch, text, 16\], got \[1, 4, 8\]/);
      const long = tf.zeros<tf.Rank.R2>([2, 130], 'int32');
      expect(() => lm.embed(long, {})).toThrow(/at most 128 tokens.*got 130/);
      const mask = (real: number) =>
        tf.tensor2d(
          Array.from({ length: 260 }, (_, i) => (i % 130 < 130 - real ? 0 : 1)),
          [2, 130],
        );
      expect(() => lm.embed(long, { keyMask: mask(129) })).toThrow(/at most 128 tokens.*got 129/);
      // Padding uses no positions.
      expect(lm.embed(long, { keyMask: mask(128) }).shape).toEqual([2, 130, 16]);
    });
    lm.dispose();
  });
});

const size = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
const add = (a: number, b: number) => a + b;

describe('config.json', () => {
  const llama = { model_type: 'llama', vocab_size: 32000, hidden_size: 4096, intermediate_size: 11008 };
  const neox = { model_type: 'gpt_neox', vocab_size: 50304, rotary_pct: 0.25 };
  const opt = { model_type: 'opt', vocab_size: 50272, max_position_embeddings: 2048 };

  // The numbers that the authors and Hugging Face state.
  it.each([
    ['GPT-2', { model_type: 'gpt2', vocab_size: 50257, n_embd: 768, n_layer: 12, n_head: 12 }, 124_439_808],
    [
      'OPT 125M',
      { ...opt, hidden_size: 768, ffn_dim: 3072, num_attention_heads: 12, num_hidden_layers: 12 },
      125_239_296,
    ],
    [
      'OPT 350M',
      {
        ...opt,
        hidden_size: 1024,
        word_embed_proj_dim: 512,
        ffn_dim: 4096,
        num_attention_heads: 16,
        num_hidden_layers: 24,
        do_layer_norm_before: false,
      },
      331_196_416,
    ],
    [
      'Pythia 1B',
      { ...neox, hidden_size: 2048, intermediate_size: 8192, num_attention_heads: 8, num_hidden_layers: 16 },
      1_011_781_632,
    ],
    ['LLaMA 7B', { ...llama, num_attention_heads: 32, num_hidden_layers: 32 }, 6_738_415_616],
    [
      'Llama 3 8B',
      {
        ...llama,
        vocab_size: 128256,
        intermediate_size: 14336,
        num_attention_heads: 32,
        num_key_value_heads: 8,
        num_hidden_layers: 32,
        rope_theta: 500000,
      },
      8_030_261_248,
    ],
    ['MPT 7B', { model_type: 'mpt', vocab_size: 50432, d_model: 4096, n_heads: 32, n_layers: 32 }, 6_649_286_656],
  ])('counts the parameters of %s without making any', (_, config, count) => {
    expect(Object.values(causalLMShapes(config)).map(size).reduce(add)).toBe(count);
  });

  it('creates parameters with the listed shapes, the same for the same seed', async () => {
    for (const name of Object.keys(configs)) {
      const lm = fresh(name);
      const shapes = Object.fromEntries([...namedParams(lm.params)].map(([key, p]) => [key, p.shape]));
      expect(shapes).toEqual(causalLMShapes(configs[name]!));
      lm.dispose();
    }
    const [a, b] = [fresh('llama', 5), fresh('llama', 5)];
    expect(await stateOf(a.params)).toEqual(await stateOf(b.params));
    a.dispose();
    b.dispose();
  });

  it('reads the rotary options from the keys of transformers 5 and of earlier versions', () => {
    const config = { ...configs['gpt_neox'], rotary_pct: 0.5, rotary_emb_base: 500 };
    const { rotary_pct: _, rotary_emb_base: __, ...rest } = config;
    const now = { ...rest, rope_parameters: { rope_type: 'default', rope_theta: 500, partial_rotary_factor: 0.5 } };
    expect(transformerConfig(now)).toEqual(transformerConfig(config));
    const scaled = { ...configs['llama'], rope_scaling: { type: 'linear', factor: 2 } };
    const scaledNow = { ...configs['llama'], rope_parameters: { rope_type: 'linear', factor: 2, rope_theta: 10000 } };
    expect(transformerConfig(scaledNow)).toEqual(transformerConfig(scaled));
    expect(transformerConfig(scaled)).not.toEqual(transformerConfig(configs['llama']!));
  });

  it('gives missing keys the defaults of transformers', () => {
    const neoX = transformerConfig({
      ...configs['gpt_neox'],
      rotary_pct: undefined,
      hidden_size: 64,
      rope_scaling: null,
    });
    expect(neoX.positions).toEqual({
      kind: 'rotary',
      frequencies: [1, 0.1, 0.01, 0.001].map((x) => expect.closeTo(x, 9)),
    });
    expect([neoX.residual, neoX.attentionBias, neoX.tiedHead]).toEqual(['parallel', true, false]);
    const gpt = transformerConfig({ ...configs['gpt2'], n_inner: null });
    expect([gpt.intermediateSize, gpt.activation, gpt.tiedHead]).toEqual([64, 'gelu-tanh', true]);
    const llama = transformerConfig(configs['llama']!);
    expect([llama.numKeyValueHeads, llama.headDim, llama.tiedHead, llama.norm.epsilon]).toEqual([2, 8, false, 1e-6]);
  });

  it.each([
    [
      'an unknown family',
      { model_type: 'bloom' },
      /model_type must be one of gpt2, opt, gpt_neox, llama, mpt, mosaic_gpt, got "bloom".*checkCausalLM.*bring-your-own-llm\.md/,
    ],
    ['a missing family', {}, /model_type must be one of .*got nothing/],
    [
      'quantized weights',
      {
        model_type: 'gpt2',
        vocab_size: 50,
        n_embd: 8,
        n_layer: 1,
        n_head: 2,
        quantization_config: { quant_method: 'gptq' },
      },
      /the weights must be float32, float16 or bfloat16, got quantized ones \(quantization_config: "gptq"\)/,
    ],
    ['a missing size', { ...configs['llama'], hidden_size: undefined }, /hidden_size must be a number, got nothing/],
    [
      'a fractional size',
      { ...configs['gpt2'], n_layer: 1.5 },
      /n_layer must be a whole number of at least 1, got 1.5/,
    ],
    ['heads of fractional width', { ...configs['gpt2'], n_head: 3 }, /width 16 must be a multiple.*heads, got 3/],
    [
      'groups of fractional size',
      { ...configs['llama'], num_key_value_heads: 3 },
      /query heads, 2, must be a multiple.*got 3/,
    ],
    [
      'an unknown activation',
      { ...configs['opt'], activation_function: 'mish' },
      /activation_function must be one of relu.*got "mish"/,
    ],
    [
      'another kind of rotary scaling',
      { ...configs['llama'], rope_scaling: { rope_type: 'yarn' } },
      /rope_scaling: rope_type must be "default" or "linear" or "llama3", got "yarn"/,
    ],
    [
      'an odd number of rotary channels',
      { ...configs['gpt_neox'], rotary_pct: 0.4 },
      /rotary_pct must result in an even number.*got 3/,
    ],
    [
      'a prefix LM',
      { ...configs['mpt'], attn_config: { prefix_lm: true } },
      /attn_config: prefix_lm must be false, got true/,
    ],
    ['scaled logits', { ...configs['mpt'], logit_scale: 0.5 }, /logit_scale must be null, got 0.5/],
    ['a flag that is not a boolean', { ...configs['opt'], enable_bias: 1 }, /enable_bias must be true or false, got 1/],
    [
      'a section that is not an object',
      { ...configs['mpt'], attn_config: [] },
      /attn_config must be an object, got \[\]/,
    ],
  ])('refuses %s', (_, config, message) => {
    expect(() => transformerConfig(config)).toThrow(message);
  });
});
