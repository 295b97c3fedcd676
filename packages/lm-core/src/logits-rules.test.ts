import { describeBackends, expectClose, loadReference } from '@flamingo-ts/testing';
import { Random } from '@flamingo-ts/kernels';
import { beforeAll, describe, expect, it } from 'vitest';
import { TinyGPT2 } from '../test/gpt2';
import {
  beamSearch,
  DecodingSession,
  generate,
  greedy,
  logSoftmax,
  sample,
  scoreCandidates,
  type Hypothesis,
  type Stepper,
} from './index';
import { logitsRule } from './logits-rules';

/** A model that only looks at the last token; it returns the rows of the table themselves. */
const chain = (prompts: number[][], table: readonly Float32Array[]): Stepper => ({
  prompts,
  start: async () => prompts.map((prompt) => table[prompt.at(-1)!]!),
  next: async (_, tokens) => tokens.map((token) => table[token]!),
});

const randomTable = (seed: number, vocab: number) => {
  const random = new Random(seed);
  return Array.from({ length: vocab }, () => Float32Array.from({ length: vocab }, () => random.uniform() * 4 - 2));
};

const maxNewTokens = 8;
/** Every way of decoding a chain with the same options. */
const ways: [string, (stepper: Stepper, options: object) => Promise<Hypothesis[]>][] = [
  ['greedy', (stepper, options) => greedy(stepper, { maxNewTokens, ...options })],
  ['sampled', (stepper, options) => sample(stepper, { maxNewTokens, seed: 5, topK: 3, ...options })],
  ...(['current', 'transformers-4.2x'] as const).map((rules): (typeof ways)[number] => [
    `beams, ${rules}`,
    async (stepper, options) => (await beamSearch(stepper, { maxNewTokens, beams: 3, rules, ...options })).flat(),
  ]),
];

describe('repetitionPenalty', () => {
  it('divides positive logits and multiplies negative ones, once for each token of prompt and answer', () => {
    const scores = Float32Array.of(2, -1, -4, 0, 5);
    logitsRule([[1], [0, 2, 2]], { repetitionPenalty: 2, maxNewTokens: 1 })!(scores, [3], 1);
    expect([...scores]).toEqual([1, -1, -8, 0, 5]);
  });

  it('changes which token is chosen, but not its likelihood in the score', async () => {
    // Token 1 is in the prompt: 1.5 / 2 is less than 1. Then token 0 is in the answer: 3 / 2 is less than 2.
    const table = [
      [3, -1, 2],
      [1, 1.5, 0],
      [0, 0, 0],
    ].map((row) => Float32Array.from(row));
    const [answer] = await greedy(chain([[1]], table), { maxNewTokens: 2, repetitionPenalty: 2 });
    expect(answer!.tokens).toEqual([0, 2]);
    expect(answer!.score).toBeCloseTo(logSoftmax(table[1]!)[0]! + logSoftmax(table[0]!)[2]!, 6);
    const [plain] = await greedy(chain([[1]], table), { maxNewTokens: 2 });
    expect(plain!.tokens).toEqual([1, 1]);
  });

  it('applies to log-probabilities in beam search, which finds the best of all answers scored one by one', async () => {
    const [vocab, length, by] = [3, 3, 1.7];
    for (let seed = 0; seed < 10; seed++) {
      const table = randomTable(seed, vocab);
      const prompt = [seed % vocab, 1];
      let want = { tokens: [] as number[], score: -Infinity };
      for (let i = 0; i < vocab ** length; i++) {
        const tokens = Array.from({ length }, (_, j) => Math.floor(i / vocab ** j) % vocab);
        let score = 0;
        tokens.forEach((token, j) => {
          const before = [...prompt, ...tokens.slice(0, j)];
          const logProb = logSoftmax(table[before.at(-1)!]!)[token]!;
          score += before.includes(token) ? logProb * by : logProb;
        });
        if (score > want.score) want = { tokens, score };
      }
      const options = { beams: vocab ** length, maxNewTokens: length, repetitionPenalty: by };
      const [answers] = await beamSearch(chain([prompt], table), options);
      expect(answers![0]!.tokens).toEqual(want.tokens);
      expect(answers![0]!.score).toBeCloseTo(want.score, 6);
    }
  });
});

describe('noRepeatNgram', () => {
  const banned = (n: number, prompt: number[], answer: number[]) => {
    const scores = new Float32Array(6);
    logitsRule([prompt], { noRepeatNgram: n, maxNewTokens: 1 })!(scores, answer, 0);
    return [...scores.keys()].filter((token) => scores[token] === -Infinity);
  };

  it('bans each token that would complete an n-gram seen before', () => {
    expect(banned(3, [1, 2, 3, 1, 2, 4, 1], [2])).toEqual([3, 4]);
    expect(banned(2, [1, 2, 3, 1, 2, 4, 1], [2])).toEqual([3, 4]);
    expect(banned(1, [1, 2], [4])).toEqual([1, 2, 4]);
    expect(banned(2, [5], [5])).toEqual([5]);
    expect(banned(3, [1, 2, 3], [])).toEqual([]);
    expect(banned(4, [1, 1], [])).toEqual([]);
  });

  /** Positions at which a token completes an n-gram that occurred before, by comparing all pairs. */
  const repeats = (tokens: readonly number[], n: number) =>
    [...tokens.keys()].filter((end) => {
      const run = tokens.slice(end - n + 1, end + 1).join();
      return end >= n - 1 && [...tokens.keys()].some((e) => e < end && tokens.slice(e - n + 1, e + 1).join() === run);
    });

  it.each(ways)('leaves no repeated n-gram in an answer: %s', async (_, decode) => {
    let without = 0;
    for (let seed = 0; seed < 20; seed++) {
      const prompt = [0, 1, 0, 1, seed % 6];
      for (const n of [2, 3]) {
        const seen = (answer: Hypothesis) =>
          repeats([...prompt, ...answer.tokens], n).filter((end) => end >= prompt.length).length;
        const stepper = chain([prompt], randomTable(seed, 6));
        for (const answer of await decode(stepper, { noRepeatNgram: n })) {
          expect(answer.tokens).toHaveLength(maxNewTokens);
          expect(seen(answer)).toBe(0);
        }
        for (const answer of await decode(stepper, {})) without += seen(answer);
      }
    }
    expect(without).toBeGreaterThan(20);
  });

  it('reports when no token is left', async () => {
    const uniform = chain([[0, 1]], randomTable(1, 2));
    const options = { maxNewTokens: 3, noRepeatNgram: 1 };
    await expect(greedy(uniform, options)).rejects.toThrow(/after 0 tokens .* prompt 0, expected a token.*Raise noRep/);
    await expect(beamSearch(uniform, { ...options, beams: 2 })).rejects.toThrow(/after 0 tokens .* prompt 0/);
    await expect(beamSearch(uniform, { ...options, beams: 2, rules: 'transformers-4.2x' })).rejects.toThrow(/after 0/);
  });
});

describeBackends('allowedAnswers', (backend) => {
  let lm: TinyGPT2;
  beforeAll(() => {
    const weights = loadReference(new URL('../test/reference/gpt2', import.meta.url));
    lm = new TinyGPT2(weights, weights.meta.config);
  });
  const stop = 7;
  const stopTokens = [stop];
  const prompts = [[1, 2, 3], [4], [5, 6, 5, 6, 5]];

  /** Lists of different lengths whose answers share prefixes; one answer is a prefix of another. */
  const answersFor = (seed: number): number[][][] => {
    const random = new Random(seed);
    const draw = () => 8 + Math.floor(random.uniform() * 4);
    return prompts.map((_, i) => {
      const answers = Array.from({ length: 3 + i }, () =>
        Array.from({ length: 1 + Math.floor(random.uniform() * 4) }, draw),
      );
      answers.push([...answers[0]!, draw()]);
      return [...new Map(answers.map((answer) => [answer.join(), answer])).values()];
    });
  };

  it.each(['current', 'transformers-4.2x'] as const)(
    'ranks answers as scoreCandidates does if there is a beam for each, with the %s rules',
    async (rules) => {
      // The rules are the same code everywhere; one fast backend tries more answers.
      for (let seed = 0; seed < (backend === 'wasm' ? 8 : 1); seed++) {
        const allowedAnswers = answersFor(seed);
        const candidates = allowedAnswers.map((list) => list.map((answer) => [...answer, stop]));
        const scores = await scoreCandidates(lm, prompts, candidates);
        const beams = Math.max(...allowedAnswers.map((list) => list.length));
        const options = { maxNewTokens: 8, beams, stopTokens, rules, allowedAnswers };
        const session = DecodingSession.open(lm, prompts);
        const found = await beamSearch(session, options);
        session.dispose();
        const best = await generate(lm, prompts, options);
        prompts.forEach((_, i) => {
          const want = candidates[i]!.map((tokens, j) => ({ tokens, sum: scores[i]![j]!.sum }));
          want.sort((a, b) => b.sum - a.sum);
          expect(found[i]!.map((answer) => answer.tokens)).toEqual(want.map(({ tokens }) => tokens));
          expectClose(
            found[i]!.map((answer) => answer.score),
            want.map(({ sum }) => sum),
            { atol: 1e-4 },
          );
          expect(best[i]).toEqual(found[i]![0]);
        });
      }
    },
  );

  it('returns one of them with every decoding method, and the same one for a prompt alone or in a batch', async () => {
    const allowedAnswers = answersFor(9);
    const drawn = new Set<string>();
    for (const how of [{}, { beams: 2 }, ...Array.from({ length: 8 }, (_, seed) => ({ temperature: 2, seed }))]) {
      const options = { maxNewTokens: 8, stopTokens, ...how };
      const together = await generate(lm, prompts, { ...options, allowedAnswers });
      together.forEach(({ tokens, stopped }, i) => {
        expect(allowedAnswers[i]!.map((answer) => [...answer, stop])).toContainEqual(tokens);
        expect(stopped).toBe(true);
        drawn.add(`${i}: ${tokens.join()}`);
      });
      if ('temperature' in how) continue; // Prompt i samples from stream i, which differs when it is alone.
      for (const [i, prompt] of prompts.entries()) {
        const [alone] = await generate(lm, [prompt], { ...options, allowedAnswers: [allowedAnswers[i]!] });
        expect(alone!.tokens).toEqual(together[i]!.tokens);
      }
    }
    expect(drawn.size).toBeGreaterThan(6);
  });

  it('rejects answers that cannot be generated', async () => {
    const refused = (allowedAnswers: number[][][], options = {}) =>
      expect(generate(lm, [[1]], { maxNewTokens: 3, stopTokens, allowedAnswers, ...options })).rejects;
    await refused([[[8]]], { stopTokens: undefined }).toThrow(/requires stopTokens, expected at least one, got none/);
    await refused([[[8]], [[8]]]).toThrow(/allowedAnswers must have one list per prompt, 1 in total, got 2/);
    await refused([[]]).toThrow(/at least one answer for each prompt, got none for prompt 0/);
    await refused([[[8], [8, 7]]]).toThrow(/must not contain stop tokens, got 7 in answer 1 of prompt 0/);
    await refused([[[8, 9, 10]]]).toThrow(/fit into maxNewTokens 3, got 3 tokens .* Raise maxNewTokens to 4/);
    await refused([[[8], [500]]]).toThrow(/allowed answer 1 of prompt 0: .* vocabSize 96, got 500/);
    // "8 8" repeats the 8 of the answer itself.
    await refused([[[8, 8]]], { noRepeatNgram: 1 }).toThrow(/after 1 tokens of the answer to prompt 0/);
    await refused([[[8]]], { repetitionPenalty: 0 }).toThrow(
      /repetitionPenalty must be a finite number greater than 0, got 0/,
    );
    await refused([[[8]]], { noRepeatNgram: 1.5 }).toThrow(/noRepeatNgram must be a whole number.* got 1.5/);
  });
});

it.each(ways)('does not change the logits that a stepper returns: %s', async (_, decode) => {
  const table = randomTable(3, 5);
  const options = {
    repetitionPenalty: 1.5,
    noRepeatNgram: 2,
    stopTokens: [4],
    allowedAnswers: [
      [
        [1, 2],
        [1, 3, 0],
      ],
    ],
  };
  await decode(chain([[0]], table), options);
  expect(table).toEqual(randomTable(3, 5));
});
