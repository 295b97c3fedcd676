import { namedParams, Random, stateOf } from '@flamingo-ts/kernels';
import { Chinchilla, initChinchilla } from '@flamingo-ts/lm-chinchilla';
import { generate, scoreCandidates, type CausalLM } from '@flamingo-ts/lm-core';
import { initCausalLM } from '@flamingo-ts/lm-hf';
import { describeBackends, expectNoLeak } from '@flamingo-ts/testing';
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import { countClosedGateDifferences, Flamingo, initFlamingo, type FlamingoConfig, type FlamingoPrompt } from './index';

const [IMAGE, EOC] = [22, 23];
const sizes = { visualSize: 6, numHeads: 2, headDim: 4, activation: 'squared-relu' } as const;
const llama = { vocab_size: 24, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 32 };
const chinchilla = { vocabSize: 24, hiddenSize: 16, numLayers: 2, numHeads: 2, headDim: 8, intermediateSize: 32 };

const languageModels: readonly (readonly [name: string, separateHead: boolean, make: () => CausalLM])[] = [
  ['a tied head', false, () => new Chinchilla(chinchilla, initChinchilla(chinchilla, new Random(1)))],
  ['a separate head', true, () => initCausalLM({ ...llama, model_type: 'llama' }, new Random(1))],
];

/** A Flamingo in which every gate and offset has been trained. */
function trained(lm: CausalLM, separateHead: boolean): Flamingo {
  const config: FlamingoConfig = {
    tokens: { image: IMAGE, endOfChunk: EOC },
    resampler: { ...sizes, numLayers: 1, numLatents: 3, intermediateSize: 12, finalNorm: true },
    xattn: { ...sizes, hiddenSize: 16, intermediateSize: 32, normMedia: true, every: 1, placement: 'paper' },
    separateHead,
  };
  const params = initFlamingo(config, 2, new Random(2));
  for (const variable of closable(params)) {
    variable.assign(tf.randomNormal(variable.shape, 0, 0.5, 'float32', 9));
  }
  return new Flamingo(config, params, { lm });
}

function closable(params: Flamingo['params']): tf.Variable[] {
  return [...namedParams(params)].flatMap(([name, p]) => (/Gate$|Offsets$/.test(name) ? [p as tf.Variable] : []));
}

function prompt(tokens: readonly number[], spoil?: number): FlamingoPrompt {
  const media = tokens.filter((token) => token === IMAGE).length;
  const random = new Random(tokens.length);
  const data = Float32Array.from({ length: media * 4 * 6 }, () => random.normal());
  if (spoil !== undefined) data[7] = spoil;
  return { tokens, visual: { kind: 'features', shape: [media, 1, 4, 6], data } };
}

describeBackends('closed gates', () => {
  describe.each(languageModels)('with %s', (_, separateHead, makeLM) => {
    it('leave the logits of the bare language model unchanged, whatever the image', async () => {
      const lm = makeLM();
      const model = trained(lm, separateHead);
      const before = await stateOf(model.params);
      for (const spoil of [undefined, NaN, Infinity, 1e30]) {
        expect(await countClosedGateDifferences(model, prompt([1, IMAGE, 5, EOC, IMAGE, 7, 8], spoil))).toBe(0);
      }
      expect(await countClosedGateDifferences(model, { tokens: [1, 5, 9] })).toBe(0);
      expect(await stateOf(model.params)).toEqual(before);
      await expectNoLeak(async () => {
        await countClosedGateDifferences(model, prompt([1, IMAGE, 5]));
      });
    });

    it('leave its decoding and its scores unchanged', async () => {
      const lm = makeLM();
      const model = trained(lm, separateHead);
      const prompts = [prompt([1, IMAGE, 5, EOC, IMAGE]), prompt([IMAGE, 8], NaN), prompt([2, IMAGE, 3])];
      const tokens = prompts.map((p) => p.tokens);
      const options = { maxNewTokens: 6, stopTokens: [] };
      const candidates = prompts.map(() => [[6, 7], [EOC]]);
      const open = await model.generate([prompts[0]!], options);
      closable(model.params).forEach((variable) => variable.assign(tf.zerosLike(variable)));
      const bare = await generate(lm, tokens, options);
      expect(open[0]!.score).not.toBe(bare[0]!.score);
      expect(await model.generate(prompts, options)).toEqual(bare);
      expect(await model.score(prompts, candidates)).toEqual(await scoreCandidates(lm, tokens, candidates));
    });

    it('are reported as different for a model with another language model', async () => {
      const model = trained(makeLM(), separateHead);
      const other = makeLM();
      const embedding = [...namedParams(other.params).values()].find((p) => p.shape[0] === 24) as tf.Variable;
      embedding.assign(tf.add(embedding, 1e-6));
      const mixed = Object.assign(Object.create(model) as Flamingo, { parts: { lm: other } });
      expect(await countClosedGateDifferences(mixed, prompt([1, IMAGE, 5]))).toBeGreaterThan(0);
    });
  });
});
