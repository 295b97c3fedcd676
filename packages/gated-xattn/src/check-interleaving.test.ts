import { Chinchilla, initChinchilla } from '@flamingo-ts/lm-chinchilla';
import { embedding, Random } from '@flamingo-ts/kernels';
import type { CausalLM, LMBlock } from '@flamingo-ts/lm-core';
import { describeBackends, expectNoLeak } from '@flamingo-ts/testing';
import * as tf from '@tensorflow/tfjs-core';
import { expect, it } from 'vitest';
import { checkInterleaving } from './index';

const config = { vocabSize: 20, hiddenSize: 16, numLayers: 2, numHeads: 2, headDim: 8, intermediateSize: 32 };
const make = () => new Chinchilla(config, initChinchilla(config, new Random(1)));

/** A language model with some parts replaced. */
function altered(lm: Chinchilla, change: Partial<CausalLM>): CausalLM {
  const { hiddenSize, vocabSize, params, blocks } = lm;
  return { hiddenSize, vocabSize, params, blocks, embed: (t) => lm.embed(t), logits: (x) => lm.logits(x), ...change };
}

describeBackends('checkInterleaving', () => {
  it('accepts a language model that meets the contract, and leaves no tensors behind', async () => {
    const lm = make();
    await expectNoLeak(async () => {
      const { alone, seeing, seen, blind } = await checkInterleaving(lm);
      expect(Object.values({ ...alone, ...seeing, blind }).every((gap) => gap < 1e-4)).toBe(true);
      expect(seen).toBeGreaterThan(1e-3);
    });
    lm.dispose();
  });

  it('rejects one that sees later tokens', async () => {
    const lm = make();
    const [first, second] = lm.blocks;
    const leaky: LMBlock = {
      params: {},
      apply: (x, context) => tf.tidy(() => tf.add(first!.apply(x, context), tf.mul(1e-2, tf.max(x, 1, true)))),
    };
    await expect(checkInterleaving(altered(lm, { blocks: [leaky, second!] }))).rejects.toThrow(/got causality/);
    lm.dispose();
  });

  it('rejects one that depends on the identity of its tensors', async () => {
    const lm = make();
    let own: tf.Tensor | undefined;
    const embed = (tokens: tf.Tensor2D) => (own = embedding(lm.params.embed.weight, tokens)) as tf.Tensor3D;
    const [first, second] = lm.blocks;
    const selfish: LMBlock = {
      params: {},
      apply: (x, context) => tf.tidy(() => first!.apply(x === own ? x : tf.mul(x, 1.1), context)),
    };
    await expect(checkInterleaving(altered(lm, { embed, blocks: [selfish, second!] }))).rejects.toThrow(
      /closed gates must change nothing, but 6 of 6 rows of logits differ from the bare model's/,
    );
    lm.dispose();
  });

  it('rejects one whose blocks ignore their input', async () => {
    const lm = make();
    let own: tf.Tensor3D;
    const embed = (tokens: tf.Tensor2D) => (own = lm.embed(tokens));
    // Each block continues from its own previous output.
    const blocks = lm.blocks.map((block): LMBlock => ({ params: {}, apply: (_, c) => (own = block.apply(own, c)) }));
    await expect(checkInterleaving(altered(lm, { embed, blocks }))).rejects.toThrow(
      /another image to change the logits.*got a change of 0.0e\+0 after/,
    );
    lm.dispose();
  });
});
