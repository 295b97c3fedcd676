import * as tf from '@tensorflow/tfjs-core';
import { countParams, disposeParams, Random, stateOf, variables, type StateTensor } from '@flamingo-ts/kernels';
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
import {
  Chinchilla,
  chinchillaPreset,
  chinchillaShapes,
  initChinchilla,
  loadChinchilla,
  loadFrozenChinchilla,
  type ChinchillaConfig,
} from './index';

// Recorded from an independent PyTorch implementation whose attention was checked against Transformer-XL's own code.
const golden = loadReference(new URL('../test/reference/chinchilla', import.meta.url));
const weights = loadReference(new URL('../test/reference/chinchilla-model', import.meta.url));
const recorded: ChinchillaConfig = {
  vocabSize: golden.meta.config.vocab_size,
  hiddenSize: golden.meta.config.d_model,
  numLayers: golden.meta.config.n_layers,
  numHeads: golden.meta.config.n_heads,
  headDim: golden.meta.config.kv_size,
  intermediateSize: golden.meta.config.ffw_size,
  epsilon: golden.meta.config.rms_norm_eps,
};
const load = () => loadChinchilla(recorded, weights.tensors as Record<string, StateTensor>);

/** Heads together are wider than the residual stream, as in some sizes of the Chinchilla paper. */
const small: ChinchillaConfig = {
  vocabSize: 20,
  hiddenSize: 12,
  numLayers: 2,
  numHeads: 2,
  headDim: 8,
  intermediateSize: 24,
  embeddingScale: 2,
  outputScale: 4,
};
const fresh = (seed = 1) => new Chinchilla(small, initChinchilla(small, new Random(seed)));

describeBackends('Chinchilla', (backend) => {
  it('reproduces residuals, logits and gradients', () => {
    tf.tidy(() => {
      const lm = load();
      const ids = golden.tensor('full.input_ids') as tf.Tensor2D;
      let x = lm.embed(ids);
      for (const [i, block] of lm.blocks.entries()) {
        expectClose(x, golden.tensors[`full.hidden.${i}`]!, { atol: 1e-4 });
        x = block.apply(x, {});
      }
      expectClose(x, golden.tensors['full.hidden.2']!, { atol: 1e-4 });
      expectClose(lm.logits(x), golden.tensors['full.logits']!, { atol: 1e-4 });

      const texts = (ids.arraySync() as number[][]).map((row) => nextTokenBatch([row]));
      const loss = () => tf.div(tf.addN(texts.map((text) => languageModelLoss(lm, text))), texts.length) as tf.Scalar;
      expectClose(tf.reshape(loss(), [1]), golden.tensors['full.loss']!, { atol: 1e-5 });
      const lossOf = (h: tf.Tensor) => {
        const rows = tf.reshape(lm.logits(lm.blocks[1]!.apply(h as tf.Tensor3D, {})), [24, 96]);
        const targets = (ids.arraySync() as number[][]).flatMap((row) => [...row.slice(1), -1]);
        const logProbs = tf.logSoftmax(rows);
        const hot = tf.oneHot(tf.tensor1d(targets, 'int32'), 96);
        return tf.neg(tf.div(tf.sum(tf.mul(logProbs, hot)), 22)) as tf.Scalar;
      };
      const gradient = tf.grad(lossOf)(golden.tensor('full.hidden.1'));
      expectClose(gradient, golden.tensors['full.grad_hidden.1']!, { atol: 2e-5 });
      lm.dispose();
    });
  });

  it.each(['leftpad', 'rightpad'])('reproduces logits with %s', (name) => {
    tf.tidy(() => {
      const lm = load();
      const keyMask = tf.cast(golden.tensor(`${name}.attention_mask`), 'float32') as tf.Tensor2D;
      const x = hiddenStates(lm, golden.tensor(`${name}.input_ids`) as tf.Tensor2D, { keyMask });
      const real = tf.mul(lm.logits(x), tf.expandDims(keyMask, 2));
      expectClose(real, golden.tensors[`${name}.logits`]!, { atol: 1e-4 });
      lm.dispose();
    });
  });

  it('reproduces logits and cached keys token by token', () => {
    tf.tidy(() => {
      const lm = load();
      const cache = new KVCache(2);
      const ids = golden.tensor('full.input_ids') as tf.Tensor2D;
      const first = Number(golden.tensors['cache.prefill_len']!.data[0]);
      const parts: tf.Tensor3D[] = [];
      for (let past = 0; past < 12; past = cache.length) {
        const text = tf.slice(ids, [0, past], [2, past ? 1 : first]);
        parts.push(lm.logits(hiddenStates(lm, text, { cache })));
      }
      expectClose(tf.concat(parts, 1), golden.tensors['cache.logits']!, { atol: 1e-4 });
      const keys = tf.transpose(tf.reshape(cache.layer(1)!.keys, [2, 12, 4, 8]), [0, 2, 1, 3]);
      expectClose(keys, golden.tensors['cache.k.1']!, { atol: 1e-4 });
      cache.dispose();
      lm.dispose();
    });
  });

  it('satisfies the CausalLM contract, trained or frozen, beyond the first table of positions', async () => {
    const lm = fresh();
    // The table of positions is made for 64 first; the same code everywhere, so one fast backend outgrows it.
    const text = backend === 'wasm' ? 70 : 8;
    await checkCausalLM(lm, { text });
    const frozen = await lm.freeze();
    await checkCausalLM(frozen, { text });
    frozen.dispose();
  });

  it('returns a head input whose products with embedded tokens are the logits', () => {
    tf.tidy(() => {
      const lm = fresh();
      const x = lm.blocks[0]!.apply(lm.embed(tf.tensor2d([1, 2, 3], [1, 3], 'int32')), {});
      const table = tf.reshape(
        lm.embed(
          tf.tensor2d(
            Array.from({ length: 20 }, (_, i) => i),
            [1, 20],
            'int32',
          ),
        ),
        [20, 12],
      );
      const products = tf.matMul(tf.reshape(lm.headInput(x), [3, 12]), table, false, true);
      expectClose(tf.reshape(products, [1, 3, 20]), lm.logits(x), { rtol: 1e-5 });
      lm.dispose();
    });
  });

  it('has the gradients of finite differences, from embedding to head', () => {
    tf.tidy(() => {
      const lm = fresh();
      const f = (x: tf.Tensor) => lm.logits(lm.blocks.reduce((h, b) => b.apply(h, {}), x as tf.Tensor3D));
      checkGradient(f, [lm.embed(tf.tensor2d([1, 2, 3, 4, 5], [1, 5], 'int32'))], { rtol: 2e-2 });
      lm.dispose();
    });
  });

  it('has a gradient for every parameter; frozen, none for matrices and the same for its input', async () => {
    const lm = fresh();
    const batch = nextTokenBatch([[1, 2, 3, 4, 5, 6]]);
    const names = Object.keys(chinchillaShapes(small));
    const trainable = variables(lm.params);
    expect(Object.keys(trainable)).toEqual(names);
    const { value, grads } = tf.variableGrads(() => languageModelLoss(lm, batch), Object.values(trainable));
    for (const [name, variable] of Object.entries(trainable)) {
      const size = tf.tidy(() => tf.sum(tf.abs(grads[variable.name]!)).dataSync()[0]!);
      expect(size, name).toBeGreaterThan(0);
    }
    const x = tf.randomNormal([1, 6, 12], 0, 1, 'float32', 1);
    const through = (model: Chinchilla) =>
      tf.grad((h) => tf.sum(tf.square(model.blocks[0]!.apply(h as tf.Tensor3D, {}))))(x);
    const before = through(lm);
    const frozen = await lm.freeze();
    const after = through(frozen);
    expectClose(after, before, { rtol: 1e-5 });
    expect(() => lm.logits(x as tf.Tensor3D)).toThrow(
      'Chinchilla: used after freeze(). Use the object that freeze() returned.',
    );
    expect(() => lm.dispose()).toThrow('Chinchilla: used after freeze()');
    expect(Object.keys(variables(frozen.params)).some((name) => name.includes('proj.weight'))).toBe(false);
    expect(countParams(frozen.params)).toBe(
      names.map((n) => size(chinchillaShapes(small)[n]!)).reduce((a, b) => a + b),
    );
    tf.dispose([value, grads, x, before, after]);
    frozen.dispose();
  });

  it('has nearly the same logits in bfloat16, and the same answers', async () => {
    const lm = load();
    const ids = golden.tensor('full.input_ids') as tf.Tensor2D;
    const prompt = [[3, 1, 4, 1, 5]];
    const answer = await generate(lm, prompt, { maxNewTokens: 3 });
    const frozen = await lm.freeze('bfloat16');
    const logits = tf.tidy(() => frozen.logits(hiddenStates(frozen, ids, {})));
    expect(relativeError(logits, golden.tensors['full.logits']!)).toBeLessThan(2e-2);
    expect((await generate(frozen, prompt, { maxNewTokens: 3 }))[0]!.tokens).toEqual(answer[0]!.tokens);
    logits.dispose();
    frozen.dispose();
  });

  it('learns, and leaves no tensors behind', async () => {
    const lm = fresh();
    const batch = nextTokenBatch([
      [1, 2, 3, 4, 5, 6, 7, 8],
      [8, 7, 6, 5, 4, 3, 2, 1],
    ]);
    const trainable = Object.values(variables(lm.params));
    const step = () => {
      const { value, grads } = tf.variableGrads(() => languageModelLoss(lm, batch), trainable);
      for (const v of trainable) tf.tidy(() => v.assign(tf.sub(v, tf.mul(grads[v.name]!, 0.02))));
      const loss = value.dataSync()[0]!;
      tf.dispose([value, grads]);
      return loss;
    };
    const first = step();
    for (let i = 0; i < 12; i++) step();
    expect(step()).toBeLessThan(first / 2);
    await expectNoLeak(() => void step());
    await expectNoLeak(async () => {
      await generate(lm, [[1, 2], [3]], { maxNewTokens: 4, beams: 2 });
      await scoreCandidates(lm, [[1, 2]], [[[3], [4, 5]]]);
    });
    await expectNoLeak(async () => {
      const frozen = await fresh().freeze('bfloat16');
      await generate(frozen, [[1, 2]], { maxNewTokens: 2 });
      frozen.dispose();
    });
    lm.dispose();
  });

  it('freezes while it reads, with the same result as freeze()', async () => {
    await expectNoLeak(async () => {
      const lm = fresh();
      const state = await stateOf(lm.params);
      const names = Object.keys(state);
      const source = { names, info: (name: string) => state[name]!, read: async (name: string) => state[name]! };
      for (const precision of ['float32', 'bfloat16', 'int8'] as const) {
        const frozen = await loadChinchilla(small, state).freeze(precision);
        const read = await loadFrozenChinchilla(small, source, precision);
        const tokens = tf.tensor2d([1, 2, 3, 4], [1, 4], 'int32');
        const [a, b] = [frozen, read].map((m) => tf.tidy(() => m.logits(hiddenStates(m, tokens, {}))));
        expectClose(a!, b!, { atol: 0 });
        tf.dispose([tokens, a!, b!]);
        frozen.dispose();
        read.dispose();
      }
      const lacking = { ...source, names: names.slice(1) };
      await expect(loadFrozenChinchilla(small, lacking, 'int8', 'a file')).rejects.toThrow(
        /a file.*missing \(1\): embed/,
      );
      lm.dispose();
    });
  });

  it('saves and loads by name', async () => {
    const lm = fresh();
    const state = await stateOf(lm.params);
    const copy = loadChinchilla(small, state, 'lm.safetensors');
    expect(await stateOf(copy.params)).toEqual(state);
    delete state['layers.1.ffn.up.bias'];
    const before = tf.memory().numTensors;
    expect(() =>
      loadChinchilla(small, { ...state, extra: { shape: [1], data: new Float32Array(1) } }, 'lm.safetensors'),
    ).toThrow(/lm.safetensors: .*missing \(1\): layers.1.ffn.up.bias. unexpected \(1\): extra/);
    expect(tf.memory().numTensors).toBe(before);
    lm.dispose();
    copy.dispose();
  });

  it('refuses parameters of another config, and a number for a Random', () => {
    const params = initChinchilla(small, new Random(1));
    expect(() => new Chinchilla({ ...small, numLayers: 5 }, params)).toThrow(/Chinchilla: the parameters do not fit/);
    expect(() => initChinchilla(small, 7 as never)).toThrow(/Random/);
    disposeParams(params);
  });

  it('names the axis that does not fit', () => {
    const lm = fresh();
    tf.tidy(() => {
      expect(() => lm.embed(tf.tensor1d([4, 4], 'int32') as tf.Tensor as tf.Tensor2D)).toThrow(
        /tokens must be \[batch, text\], got \[2\]/,
      );
      expect(() => lm.logits(tf.zeros([1, 4, 8]))).toThrow(/x must be \[batch, text, 12\], got \[1, 4, 8\]/);
    });
    lm.dispose();
  });
});

const size = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

describe('sizes', () => {
  // Flamingo table 5 and section 1.3 of its appendix; Chinchilla table A9 counts 32000*d + layers * (13 d^2 and vectors).
  it.each([
    ['chinchilla-1.4b', 1.37],
    ['chinchilla-7b', 7.11],
    ['chinchilla-7b-printed', 8.86],
    ['chinchilla-70b', 70.07],
  ])('%s has %f billion parameters, counted without making any', (name, billions) => {
    const count = Object.values(chinchillaShapes(chinchillaPreset(name)))
      .map(size)
      .reduce((a, b) => a + b);
    expect(count / 1e9).toBeCloseTo(billions, 1);
    expect(Math.abs(count / 1e9 / billions - 1)).toBeLessThan(5e-3);
  });

  it('refuses values out of range', () => {
    expect(() => chinchillaPreset('chinchilla-2b')).toThrow(/expected one of chinchilla-mini, .*got chinchilla-2b/);
    expect(() => chinchillaShapes({ ...small, hiddenSize: 13 })).toThrow(/hiddenSize must be even.*got 13/);
    expect(() => chinchillaShapes({ ...small, numHeads: 0 })).toThrow(/numHeads must be a whole number.*got 0/);
    const wrong = [{ activation: 'relu7' }, { epsilon: NaN }, { outputScale: '4' }, { embeddingScale: 0 }];
    for (const option of wrong) {
      const [key] = Object.keys(option);
      expect(() => chinchillaShapes({ ...small, ...option } as ChinchillaConfig)).toThrow(`Chinchilla: ${key} must be`);
    }
    expect(() => chinchillaShapes({ ...small, nHeads: 4 } as ChinchillaConfig)).toThrow(
      /Chinchilla: nHeads is not a known key, .*Remove it/,
    );
  });
});
