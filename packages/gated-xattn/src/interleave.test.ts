import { namedParams, Random } from '@flamingo-ts/kernels';
import { Chinchilla, initChinchilla } from '@flamingo-ts/lm-chinchilla';
import { checkCausalLM, generate, hiddenStates, type ContextFactory } from '@flamingo-ts/lm-core';
import { describeBackends, expectClose, expectNoLeak } from '@flamingo-ts/testing';
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import {
  gatedPositions,
  interleave,
  InterleavedLM,
  interleaveShapes,
  MediaContext,
  type InterleaveConfig,
  type MediaLMContext,
} from './index';

const language = { vocabSize: 20, hiddenSize: 16, numLayers: 4, numHeads: 2, headDim: 8, intermediateSize: 32 };

const config: InterleaveConfig = {
  hiddenSize: 16,
  visualSize: 6,
  numHeads: 2,
  headDim: 4,
  intermediateSize: 32,
  activation: 'squared-relu',
  normMedia: true,
  every: 2,
  placement: 'paper',
};

const makeLM = () => new Chinchilla(language, initChinchilla(language, new Random(1)));

/** Gated blocks in a small language model; open: with gates far from 0. */
function make(open: boolean, changes: Partial<InterleaveConfig> = {}): InterleavedLM {
  const lm = interleave(makeLM(), { ...config, ...changes }, new Random(2));
  if (open) {
    for (const { params } of lm.gated) {
      params.attnGate.assign(tf.tensor1d([0.8]));
      params.mlpGate.assign(tf.tensor1d([0.5]));
    }
  }
  return lm;
}

const TOKENS = [3, 1, 4, 1, 5, 9, 2, 6];
const tokens = () => tf.tensor2d([TOKENS], [1, 8], 'int32');
const latents = (batch = 1): tf.Tensor4D => tf.randomNormal([batch, 2, 3, 6], 0, 1, 'float32', 5);
const context = (l: tf.Tensor4D, index = [0, 1, 1, 1, 2, 2, 2, 2]): MediaLMContext => ({
  media: new MediaContext(l, index, 8),
});

/** The first token of each text sees no image, the others see the first image of their prompt. */
const decoding =
  (l: tf.Tensor4D): ContextFactory<MediaLMContext> =>
  ({ base, tokens, prompts, padding, past }) => {
    const index = tokens.flatMap((row, r) => row.map((_, i) => (past + i > padding[r]! ? 1 : 0)));
    return { ...base, media: new MediaContext(l, index, tokens[0]!.length, { owners: prompts }) };
  };

describe('gatedPositions', () => {
  it('follows the paper and OpenFlamingo', () => {
    expect(gatedPositions(8, { every: 3, placement: 'paper' })).toEqual([0, 3, 6]);
    expect(gatedPositions(8, { every: 3, placement: 'open-flamingo' })).toEqual([2, 5]);
    expect(gatedPositions(80, { every: 7, placement: 'paper' })).toHaveLength(12);
    expect(() => gatedPositions(8, { every: 9, placement: 'paper' })).toThrow(
      /every must be.*8, the number of blocks, got 9/,
    );
  });
});

describeBackends('InterleavedLM', () => {
  it('equals the bare language model bit for bit while all gates are closed', () => {
    const lm = make(false);
    const interleaved = lm.logits(hiddenStates(lm, tokens(), context(latents())));
    expectClose(interleaved, lm.lm.logits(hiddenStates(lm.lm, tokens(), {})), { atol: 0 });
  });

  it('sees the images once gates are open, but not before the first one', () => {
    const lm = make(true);
    const run = (l: tf.Tensor4D) => hiddenStates(lm, tokens(), context(l));
    const [a, b] = [run(latents()), run(tf.neg(latents()))];
    const first = (y: tf.Tensor3D) => tf.slice(y, [0, 0, 0], [1, 1, 16]);
    expectClose(first(a), first(b), { atol: 0 });
    expect(tf.max(tf.abs(tf.sub(a, b))).dataSync()[0]).toBeGreaterThan(1e-3);
  });

  it('meets the contract of CausalLM, for one prompt and for several', async () => {
    const lm = make(true);
    // The check expects equal results from both of its prompts, so both get the same images.
    const l = tf.tile(latents(), [2, 1, 1, 1]);
    const report = await checkCausalLM(lm, { context: decoding(l), tolerance: 1e-4 });
    expect(report.incremental).toBeLessThan(1e-4);
    l.dispose();
  });

  it('decodes from precomputed keys and values as from latents', async () => {
    const lm = make(true, { latentSize: 5 });
    const raw = tf.randomNormal([1, 2, 3, 5], 0, 1, 'float32', 5) as tf.Tensor4D;
    const l = lm.projectMedia(raw);
    const keysValues = lm.mediaKeysValues(l);
    const cached: ContextFactory<MediaLMContext> = (call) => {
      const { mediaIndex, text, owners } = decoding(l)(call).media!;
      return { ...call.base, media: new MediaContext(l, mediaIndex, text, { owners, keysValues }) };
    };
    const answer = (context: ContextFactory<MediaLMContext>) =>
      generate(lm, [TOKENS], { maxNewTokens: 5, beams: 2, context });
    expect((await answer(cached))[0]!.tokens).toEqual((await answer(decoding(l)))[0]!.tokens);
  });

  it('leaves no tensors behind', async () => {
    const lm = make(true);
    const l = latents();
    const x = tokens();
    await expectNoLeak(() => tf.tidy(() => lm.logits(hiddenStates(lm, x, context(l)))));
    await expectNoLeak(async () => {
      await generate(lm, [TOKENS], { maxNewTokens: 3, context: decoding(l) });
    });
  });

  it('names its parameters as its shapes do', () => {
    const c = { ...config, latentSize: 5 };
    const { xattn } = interleave(makeLM(), c, new Random(1)).params;
    const shapes = Object.fromEntries([...namedParams(xattn)].map(([name, p]) => [name, p.shape]));
    expect(shapes).toEqual(interleaveShapes(c, 4));
    expect(Object.keys(shapes)).toContain('blocks.1.attn.query.weight');
  });

  it('says what does not fit', () => {
    expect(() => make(false, { hiddenSize: 8 })).toThrow(/hiddenSize must be the language model's 16, got 8/);
    expect(() => make(false, { depth: 2 } as never)).toThrow(/depth is not a known key, expected only hiddenSize, /);
    expect(() => make(false, { placement: 'before' as never })).toThrow(/placement must be one of paper, open-/);
    expect(() => gatedPositions(4, { every: 2, placement: 'before' as never })).toThrow(/placement must be one of/);
    expect(() => make(false, { attend: 'next' as never })).toThrow(/attend must be one of immediate, .*got "next"/);
    expect(() => make(false, { emptyRows: 0 as never })).toThrow(/emptyRows must be one of zero, uniform, got 0/);
    expect(() => interleave(makeLM(), config, 2 as never)).toThrow(/random must be a Random, got 2/);
    const { params } = make(false);
    const wide = { ...config, latentSize: 5 };
    expect(() => new InterleavedLM(makeLM(), wide, params.xattn)).toThrow(/missing \(1\): mediaProjection\.weight/);
    const blocks = [...params.xattn.blocks, ...params.xattn.blocks];
    expect(() => new InterleavedLM(makeLM(), config, { blocks })).toThrow(/2 gated blocks, got 4/);
    const { mlpGate: _, ...gateless } = params.xattn.blocks[0]!;
    const broken = { blocks: [params.xattn.blocks[1]!, gateless as never] };
    expect(() => new InterleavedLM(makeLM(), config, broken)).toThrow(/missing \(1\): blocks\.1\.mlpGate/);
    expect(() => make(false, { headDim: 0 })).toThrow(/headDim must be.*got 0/);
    expect(() => new InterleavedLM(makeLM(), config, { blocks: [] })).toThrow(/2 gated blocks, got 0/);
    expect(() => make(false, { latentSize: 5 }).projectMedia(latents())).toThrow(/latents, 5\], got \[1, 2, 3, 6\]/);
  });
});
