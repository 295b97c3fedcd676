import { describeBackends, expectClose, expectNoLeak, loadReference } from '@flamingo-ts/testing';
import { beforeAll, describe, expect, it } from 'vitest';
import { TinyGPT2 } from '../test/gpt2';
import {
  beamSearch,
  DecodingSession,
  filterLogits,
  generate,
  scoreCandidates,
  type BeamOptions,
  type Stepper,
} from './index';

const reference = (name: string) => loadReference(new URL(`../test/reference/${name}`, import.meta.url));

// Recorded from transformers 5.18.0 generate on the random GPT-2 of gpt2.json; beam_legacy from its 4.2x scorer's rules.
const { meta } = reference('decode');
const prompts: number[][] = meta.prompts;
const decoding = { maxNewTokens: meta.max_new_tokens, stopTokens: [meta.eos_token_id] };

interface BeamCase {
  prompt: number;
  length_penalty: number;
  early_stopping: boolean | 'never';
  generated: number[][];
  scores: number[];
}

describeBackends('decoding', (backend) => {
  let lm: TinyGPT2;
  beforeAll(() => {
    const weights = reference('gpt2');
    lm = new TinyGPT2(weights, weights.meta.config);
  });

  it('takes the most likely tokens, prompt by prompt and as a padded batch', async () => {
    const want = meta.greedy.results.map((r: { generated: number[] }) => r.generated);
    const batched = await generate(lm, prompts, decoding);
    expect(batched.map((answer) => answer.tokens)).toEqual(want);
    expect(batched.map((answer) => answer.stopped)).toEqual([false, true, true]);
    for (const [i, prompt] of prompts.entries()) {
      expect((await generate(lm, [prompt], decoding))[0]!.tokens).toEqual(want[i]);
    }
  });

  it.each([
    ['current', 'beam'],
    ['transformers-4.2x', 'beam_legacy'],
  ] as const)('finds the beams of the %s rules', async (rules, recorded) => {
    for (const length_penalty of [0, 1, -2]) {
      // The rules are the same code everywhere; one fast backend goes through all of them.
      for (const early_stopping of backend === 'wasm' ? ([false, true, 'never'] as const) : ([false] as const)) {
        const want: BeamCase[] = meta[recorded].results.filter(
          (r: BeamCase) => r.length_penalty === length_penalty && r.early_stopping === early_stopping,
        );
        const options: BeamOptions = {
          ...decoding,
          beams: meta[recorded].num_beams,
          lengthPenalty: length_penalty,
          earlyStopping: early_stopping,
          rules,
        };
        const session = DecodingSession.open(lm, prompts);
        const got = await beamSearch(session, options);
        session.dispose();
        for (const [i, answers] of got.entries()) {
          expect(answers.map((a) => a.tokens)).toEqual(want[i]!.generated);
          expectClose(
            answers.map((a) => a.score),
            want[i]!.scores,
            { atol: 1e-4, rtol: 1e-5 },
          );
        }
      }
    }
  });

  it('scores candidates, all prompts in one batch', async () => {
    const results: { candidates: number[][]; token_logprobs: number[][]; sum: number[]; mean: number[] }[] =
      meta.scoring.results;
    const scores = await scoreCandidates(
      lm,
      prompts,
      results.map((r) => r.candidates),
    );
    results.forEach((want, i) => {
      expectClose(
        scores[i]!.flatMap((s) => s.tokenLogProbs),
        want.token_logprobs.flat(),
        { atol: 1e-4 },
      );
      expectClose(
        scores[i]!.map((s) => s.sum),
        want.sum,
        { atol: 1e-4 },
      );
      expectClose(
        scores[i]!.map((s) => s.mean),
        want.mean,
        { atol: 1e-4 },
      );
    });
  });

  it('samples the same tokens for the same seed, whatever else is in the batch', async () => {
    const options = { ...decoding, temperature: 1.3, topK: 20, topP: 0.95, seed: 7 };
    const together = await generate(lm, prompts, options);
    expect(await generate(lm, prompts, options)).toEqual(together);
    expect((await generate(lm, prompts.slice(0, 1), options))[0]!.tokens).toEqual(together[0]!.tokens);
    const other = await generate(lm, prompts, { ...options, seed: 8 });
    expect(other.map((a) => a.tokens)).not.toEqual(together.map((a) => a.tokens));
  });

  it('leaves no tensors behind', async () => {
    await expectNoLeak(async () => {
      await generate(lm, prompts, { ...decoding, beams: 2 });
      await scoreCandidates(
        lm,
        prompts,
        prompts.map(() => [[1], [2, 3]]),
      );
      const rules = { repetitionPenalty: 1.2, noRepeatNgram: 3, allowedAnswers: prompts.map(() => [[90], [91, 92]]) };
      const answers = await generate(lm, prompts, { ...decoding, ...rules, beams: 2 });
      expect(answers.map((answer) => answer.stopped)).toEqual([true, true, true]);
      const broken = () => {
        throw new Error('the pipe is closed');
      };
      await expect(generate(lm, prompts, { ...decoding, onToken: broken })).rejects.toThrow('the pipe is closed');
    });
  });

  it('passes every token to onToken as it is chosen', async () => {
    const received: number[][] = prompts.map(() => []);
    const answers = await generate(lm, prompts, {
      ...decoding,
      topK: 20,
      onToken: ({ prompt, token, text }) => {
        received[prompt]!.push(token);
        expect(text).toBe('');
      },
    });
    expect(received).toEqual(answers.map((answer) => answer.tokens));
  });

  it('passes the prompt of each row to the context factory', async () => {
    const calls: string[] = [];
    await generate(lm, prompts, {
      ...decoding,
      maxNewTokens: 2,
      beams: 2,
      context: ({ base, tokens, prompts: rows, padding, past }) => {
        calls.push(`${tokens[0]!.length} tokens after ${past}: prompts ${rows}, padding ${padding}`);
        return base;
      },
    });
    expect(calls).toEqual([
      '7 tokens after 0: prompts 0,1,2, padding 2,4,0',
      '1 tokens after 7: prompts 0,0,1,1,2,2, padding 2,2,4,4,0,0',
    ]);
  });

  it('rejects invalid prompts and options', async () => {
    await expect(generate(lm, [[]], decoding)).rejects.toThrow(/prompt 0: expected at least one token, got none/);
    await expect(generate(lm, [[96]], decoding)).rejects.toThrow(/below the model's vocabSize 96, got 96/);
    await expect(generate(lm, prompts, { maxNewTokens: 0 })).rejects.toThrow(
      /maxNewTokens must be a whole number.*got 0/,
    );
    await expect(generate(lm, prompts, { ...decoding, beams: 2, topK: 3 })).rejects.toThrow(
      /either beams or temperature/,
    );
    await expect(generate(lm, prompts, { ...decoding, beams: 2, onToken: () => undefined })).rejects.toThrow(
      /onToken works for greedy and sampled decoding, got 2 beams.*Omit beams or onToken/,
    );
    await expect(generate(lm, prompts, { ...decoding, topP: 1.5 })).rejects.toThrow(/topP must be .*got 1.5/);
    const wrong: [object, RegExp][] = [
      [{ maxNewTokens: NaN }, /maxNewTokens must be a whole number of at least 1, got NaN/],
      [{ rules: 'transformers' }, /rules must be one of current, transformers-4\.2x, got "transformers"/],
      [{ earlyStopping: 'always' }, /earlyStopping must be one of true, false, never, got "always"/],
      [{ temperature: NaN }, /temperature must be a finite number greater than 0, got NaN/],
      [{ lengthPenalty: '1' }, /lengthPenalty must be a finite number, got "1"/],
      [{ seed: 0.5 }, /seed must be a whole number, got 0\.5/],
      [{ stopTokens: 3 }, /stopTokens must be an array/],
      [{ tokenizer: {} }, /tokenizer must have a decode method/],
      [{ maxTokens: 3 }, /maxTokens is not a known key/],
    ];
    for (const [options, message] of wrong) {
      await expect(generate(lm, prompts, { ...decoding, ...options })).rejects.toThrow(message);
    }
    expect(() => filterLogits([1], { topQ: 1 } as object)).toThrow(/^filterLogits: topQ .*Did you mean topK/);
    await expect(scoreCandidates(lm, prompts, [[[1]]])).rejects.toThrow(/one list per prompt, 3 in total, got 1/);
    await expect(scoreCandidates(lm, [[1]], [[[1], []]])).rejects.toThrow(
      /candidate 1 of prompt 0: expected at least one/,
    );
  });
});

describe('beamSearch', () => {
  /** A model over three tokens that only looks at the last one; token 2 ends an answer. */
  const chain = (table: number[][]): Stepper => ({
    prompts: [[0]],
    start: async () => [Float32Array.from(table[0]!)],
    next: async (_, tokens) => tokens.map((token) => Float32Array.from(table[token]!)),
  });

  it('finds the likelier answer behind an unlikely first token', async () => {
    const p = [
      [0.6, 0.4, 1e-9],
      [0.05, 0.05, 0.9],
      [1 / 3, 1 / 3, 1 / 3],
    ].map((row) => row.map(Math.log));
    const [answers] = await beamSearch(chain(p), { beams: 2, maxNewTokens: 3, stopTokens: [2] });
    expect(answers![0]!.tokens).toEqual([1, 2]);
    expect(answers![0]!.score).toBeCloseTo(Math.log(0.4 * 0.9), 5);
  });

  it('reports logits that overflowed', async () => {
    const broken = chain([[NaN, NaN, NaN]]);
    await expect(beamSearch(broken, { beams: 2, maxNewTokens: 3 })).rejects.toThrow(/expected finite logits/);
  });
});
