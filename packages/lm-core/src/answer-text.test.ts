import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  beamSearch,
  greedy,
  loadTokenizer,
  requireToken,
  sample,
  trainByteLevelBPE,
  type AnswerPiece,
  type Hypothesis,
  type Stepper,
  type TextOptions,
} from './index';

const corpus = 'one two three one two three one two three, wonder of wonders: one two ';
const tokenizer = loadTokenizer(trainByteLevelBPE([corpus], { vocabSize: 280, specialTokens: ['<EOC>'] }));
const stop = requireToken(tokenizer, '<EOC>');
const pieces = (text: string) => tokenizer.encode(text).map((id) => tokenizer.decode([id]));

/** A model that answers prompt `i` with `scripts[i]`, then with stop tokens forever. */
function scripted(scripts: readonly (readonly number[])[]): Stepper {
  let rows: { prompt: number; step: number }[] = [];
  const logits = () =>
    rows.map(({ prompt, step }) => {
      const row = new Float32Array(tokenizer.vocabSize);
      row[scripts[prompt]![step] ?? stop] = 50;
      return row;
    });
  return {
    prompts: scripts.map(() => [0]),
    start: async () => {
      rows = scripts.map((_, prompt) => ({ prompt, step: 0 }));
      return logits();
    },
    next: async (parents) => {
      rows = parents.map((parent) => ({ ...rows[parent]!, step: rows[parent]!.step + 1 }));
      return logits();
    },
  };
}

/** The answers of the scripts, and the texts and tokens that `onToken` received for each. */
async function stream(scripts: readonly (readonly number[])[], options: TextOptions & { maxNewTokens?: number } = {}) {
  const received: AnswerPiece[] = [];
  const onToken = received.push.bind(received);
  const decoding = { maxNewTokens: 40, stopTokens: [stop], tokenizer, onToken, ...options };
  const answers = await greedy(scripted(scripts), decoding);
  const texts = answers.map((_, i) => received.filter(({ prompt }) => prompt === i).map(({ text }) => text));
  const tokens = answers.map((_, i) => received.filter(({ prompt }) => prompt === i).map(({ token }) => token));
  return { answers, texts, tokens };
}

describe('stop strings', () => {
  const script = tokenizer.encode('one two three one');

  it('end an answer even if they start inside one token and end inside another', async () => {
    expect(pieces('one two three one')).toEqual(['one', ' two', ' three', ' one']);
    const want = { tokens: script.slice(0, 3), stopped: true, text: 'one t', stopString: 'wo th' };
    const options = { maxNewTokens: 9, tokenizer, stopStrings: ['absent', 'wo th'] };
    expect((await greedy(scripted([script]), options))[0]).toMatchObject(want);
    expect((await sample(scripted([script]), { ...options, topK: 1 }))[0]).toMatchObject(want);
    for (const rules of ['current', 'transformers-4.2x'] as const) {
      const [beams] = await beamSearch(scripted([script]), { ...options, beams: 2, rules });
      expect(beams![0]).toMatchObject(want);
    }
  });

  it('apply at the first match in the text, separately for each answer', async () => {
    const answers = await greedy(scripted([script, script.slice(1), []]), {
      maxNewTokens: 4,
      stopTokens: [stop],
      tokenizer,
      stopStrings: ['hr', 'th', 'o t'],
    });
    expect(answers.map(({ tokens, text, stopString, stopped }) => [tokens.length, text, stopString, stopped])).toEqual([
      [3, 'one tw', 'o t', true],
      [2, ' tw', 'o t', true],
      [1, '', undefined, true],
    ]);
    const [open] = await greedy(scripted([script]), { maxNewTokens: 2, tokenizer, stopStrings: ['th'] });
    expect(open).toEqual({ tokens: script.slice(0, 2), stopped: false, score: open!.score, text: 'one two' });
  });

  it('finish a beam, which then ranks like one that ended with a stop token', async () => {
    // " two" is likelier at first, but what follows it is not.
    const [one, two, three] = ['one', ' two', ' three'].map((text) => tokenizer.encode(text)[0]!) as [
      number,
      number,
      number,
    ];
    const row = (p: Record<number, number>) =>
      Float32Array.from({ length: tokenizer.vocabSize }, (_, id) => Math.log(p[id] ?? 1e-9));
    const stepper: Stepper = {
      prompts: [[0]],
      start: async () => [row({ [one]: 0.4, [two]: 0.6 })],
      next: async (_, tokens) =>
        tokens.map((id) => row(id === two ? { [three]: 0.5, [one]: 0.5 } : { [three]: 0.9, [two]: 0.1 })),
    };
    const options = { beams: 2, maxNewTokens: 2, tokenizer, stopStrings: ['e t', 'ot'] };
    const [answers] = await beamSearch(stepper, options);
    expect(answers![0]).toMatchObject({ tokens: [one, three], text: 'on', stopString: 'e t', stopped: true });
    expect(answers![0]!.score).toBeCloseTo(Math.log(0.4 * 0.9), 4);
    expect(answers![1]!.text).toMatch(/^ two( three|one)$/);
    expect(answers![1]!.stopped).toBe(false);
  });
});

describe('text', () => {
  it('excludes the stop token, and is present only with a tokenizer', async () => {
    const script = tokenizer.encode('one two');
    const [answer] = await greedy(scripted([script]), { maxNewTokens: 9, stopTokens: [stop], tokenizer });
    expect(answer).toMatchObject({ tokens: [...script, stop], text: 'one two', stopped: true });
    const [bare] = await greedy(scripted([script]), { maxNewTokens: 9, stopTokens: [stop] });
    expect(Object.keys(bare!)).toEqual(['tokens', 'stopped', 'score']);
  });

  it('is streamed in complete characters', async () => {
    const script = tokenizer.encode('a🦩é');
    expect(script).toHaveLength(7);
    const { texts, answers } = await stream([script]);
    expect(texts[0]).toEqual(['a', '', '', '', '🦩', '', 'é', '']);
    expect(answers[0]!.text).toBe('a🦩é');
    const cut = await stream([script], { maxNewTokens: 4 });
    expect(cut.texts[0]).toEqual(['a', '', '', '']);
    expect(cut.answers[0]!.text).toBe('a');
  });

  it('includes the complete part of a token that ends inside a character', async () => {
    // Two bytes per token, numbered from 1: 0 is the stop token.
    const bytes = new TextEncoder().encode('aé🦩b');
    const pairs = {
      decode: (ids: readonly number[]) => {
        const all = ids.flatMap((id) => [...bytes.slice(2 * id - 2, 2 * id)]);
        return new TextDecoder().decode(Uint8Array.from(all));
      },
    };
    const { texts } = await stream([[1, 2, 3, 4]], { tokenizer: pairs });
    expect(texts[0]).toEqual(['a', 'é', '', '🦩b', '']);
  });

  it('holds back what may become a stop string until it no longer can', async () => {
    const script = tokenizer.encode('a ## b ##');
    expect(pieces('a ## b ##')).toEqual(['a', ' ', '#', '#', ' ', 'b', ' ', '#', '#']);
    const { texts } = await stream([script], { stopStrings: ['###', ' #!'] });
    expect(texts[0]).toEqual(['a', '', '', ' ', '##', ' b', '', '', ' ', '##']);
    const ended = await stream([[...script, ...tokenizer.encode('#c')]], { stopStrings: ['###'] });
    expect(ended.texts[0]!.join('')).toBe('a ## b ');
    expect(ended.tokens).toEqual(ended.answers.map(({ tokens }) => tokens));
  });

  /** The expected answer, found by decoding each of its prefixes from scratch. */
  function whole(script: readonly number[], stopStrings: readonly string[], decode = tokenizer.decode) {
    const shown = (tokens: readonly number[]) => decode(tokens).replace(/\uFFFD+$/, '');
    for (let end = 1; end <= script.length; end++) {
      const text = shown(script.slice(0, end));
      const found = stopStrings.map((s) => text.indexOf(s)).filter((at) => at >= 0);
      if (found.length > 0) return { tokens: script.slice(0, end), text: text.slice(0, Math.min(...found)) };
    }
    return { tokens: [...script, stop], text: shown(script) };
  }

  function check({ answers, texts }: { answers: Hypothesis[]; texts: string[][] }, want: { text: string }[]) {
    expect(answers).toMatchObject(want);
    expect(texts.map((list) => list.join(''))).toEqual(want.map(({ text }) => text));
  }

  const options = { maxNewTokens: 100 };
  const few = fc.array(fc.string({ unit: fc.constantFrom('a', 'b', ' ', 'é', '🦩'), minLength: 1, maxLength: 3 }), {
    maxLength: 2,
  });

  it('equals the text of all tokens decoded at once, for any characters, in a batch of different answers', async () => {
    const text = fc.string({ unit: fc.constantFrom('a', 'b', ' ', 'é', '🦩', 'one', ' two', '漢'), maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(fc.array(text, { minLength: 1, maxLength: 3 }), few, async (lines, stopStrings) => {
        const scripts = lines.map((line) => tokenizer.encode(line));
        const want = scripts.map((script) => whole(script, stopStrings));
        check(await stream(scripts, { ...options, stopStrings }), want);
      }),
      { seed: 1, numRuns: 200 },
    );
  });

  it('equals the text of all tokens decoded at once, for bytes that are not characters', async () => {
    const bytes = tokenizer.encode('a🦩é漢 ');
    const script = fc.array(fc.constantFrom(...bytes), { maxLength: 14 });
    await fc.assert(
      fc.asyncProperty(script, few, async (tokens, stopStrings) => {
        check(await stream([tokens], { ...options, stopStrings }), [whole(tokens, stopStrings)]);
      }),
      { seed: 2, numRuns: 300 },
    );
  });

  it('equals the text of all tokens decoded at once, for a decoder that drops the first space and some tokens', async () => {
    const words = [' a', ' ', 'b', ' c', '', '  '];
    const decode = (ids: readonly number[]) =>
      ids
        .map((id) => words[id % words.length])
        .join('')
        .replace(/^ /, '');
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 6, max: 11 }), { maxLength: 10 }),
        few,
        async (tokens, stopStrings) => {
          const got = await stream([tokens], { ...options, stopStrings, tokenizer: { decode } });
          check(got, [whole(tokens, stopStrings, decode)]);
        },
      ),
      { seed: 3, numRuns: 300 },
    );
  });

  it('is the same for beams', async () => {
    const script = tokenizer.encode('one 🦩 two');
    const [answers] = await beamSearch(scripted([script]), {
      maxNewTokens: 20,
      stopTokens: [stop],
      beams: 3,
      tokenizer,
    });
    expect(answers![0]).toMatchObject({ tokens: [...script, stop], text: 'one 🦩 two' });
    for (const { tokens, text } of answers!) {
      const said = tokenizer.decode(tokens.filter((token) => token !== stop));
      expect(text).toBe(said.replace(/\uFFFD+$/, ''));
    }
  });
});

it('rejects empty stop strings, and stop strings without a tokenizer', async () => {
  const options = { maxNewTokens: 3, stopStrings: ['\n'] };
  await expect(greedy(scripted([[]]), options)).rejects.toThrow(/stopStrings \["\\n"\] require a tokenizer, got none/);
  await expect(beamSearch(scripted([[]]), { ...options, beams: 2 })).rejects.toThrow(/require a tokenizer, got none/);
  await expect(greedy(scripted([[]]), { ...options, tokenizer, stopStrings: ['a', ''] })).rejects.toThrow(
    /stopStrings must be strings of at least one character, got ''/,
  );
});
