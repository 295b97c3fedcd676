import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { asSample, EOC, EOS, IMAGE, page, wordTokenizer } from '../test/words';
import { closeGaps, type Document } from './document';
import { seededStream } from '@flamingo-ts/random';
import { buildSample, checkSampleOptions, mediaIndexOf, nextMediaIndexOf, type SampleOptions } from './sample';

const tokenizer = wordTokenizer();
const random = () => seededStream(7);
const previous = { maxTokens: 64, pNext: 0 };

function build(document: Document, options: Partial<SampleOptions> = previous, seed = 7) {
  return asSample(buildSample(document, tokenizer, { maxTokens: 64, ...options }, seededStream(seed)));
}

const written = (s: { tokens: Int32Array }) => tokenizer.words(s.tokens);
const masked = (s: { tokens: Int32Array; lossMask: Float32Array }) =>
  tokenizer.words(s.tokens.filter((_, i) => s.lossMask[i] === 1));

describe('special tokens of a page', () => {
  it('include <EOC> at the end and before every <image> except a leading one', () => {
    expect(written(build(page('intro', 1, 'one', 2, 'two')))).toBe(
      '<BOS>intro<EOC><image>one<EOC><image>two<EOC><EOS>',
    );
    expect(written(build(page(1, 'one')))).toBe('<BOS><image>one<EOC><EOS>');
  });

  it('include no <BOS> if the language model has none', () => {
    const plain = wordTokenizer(false);
    const s = asSample(buildSample(page(1, 'one'), plain, previous, random()));
    expect(plain.words(s.tokens)).toBe('<image>one<EOC><EOS>');
  });

  it('do not split adjacent texts: they are joined before tokenizing', () => {
    const seen: string[] = [];
    const spy = { ...tokenizer, encode: (text: string) => (seen.push(text), tokenizer.encode(text)) };
    buildSample(page('a', 'b', 1, ' c', ' d', ''), spy, previous, random());
    expect(seen).toEqual(['ab', ' c d']);
  });

  it('never come from text, even if the tokenizer breaks its contract', () => {
    const s = build(page('see <image> and <EOC> <EOS>', 1, 'one'));
    expect(Array.from(s.tokens).filter((id) => id === IMAGE)).toHaveLength(1);
    expect(s.media).toEqual([{ key: 1 }]);
  });

  it('exclude the <EOC> of an image without text from the loss', () => {
    const s = build(page(1, 2, 'two', 3));
    expect(written(s)).toBe('<BOS><image><EOC><image>two<EOC><image><EOC><EOS>');
    expect(masked(s)).toBe('two<EOC>');
  });
});

describe('the image that a token attends to', () => {
  it('is the previous image, or its own for <image>', () => {
    const s = build(page('intro', 1, 'one', 2, 'two'));
    //           BOS intro EOC image one EOC image two EOC EOS
    expect(Array.from(s.mediaIndex)).toEqual([0, 0, 0, 1, 1, 1, 2, 2, 2, 2]);
    expect(masked(s)).toBe('one<EOC>two<EOC><EOS>');
  });

  it('is the next image with pNext, or the last one at the end', () => {
    const s = build(page('intro', 1, 'one', 2, 'two'), { pNext: 1 });
    expect(Array.from(s.mediaIndex)).toEqual([1, 1, 1, 1, 2, 2, 2, 2, 2, 2]);
    expect(masked(s)).toBe('intro<EOC>one<EOC>two<EOC><EOS>');
  });

  it('is drawn once per page with the given probability', () => {
    let ahead = 0;
    for (let seed = 0; seed < 2000; seed++) {
      const s = build(page('intro', 1, 'one'), { pNext: 0.5 }, seed);
      ahead += s.mediaIndex[0]!;
    }
    // Four standard deviations of a fair coin.
    expect(Math.abs(ahead - 1000)).toBeLessThan(4 * Math.sqrt(500));
  });

  it('never drops the text of a pair, whatever pNext', () => {
    const pair: Document = { kind: 'pair', parts: [{ media: { key: 1 } }, { text: 'cat' }] };
    expect(Array.from(build(pair, { pNext: 1, leadingSpace: 0 }).mediaIndex)).toEqual([0, 1, 1, 1, 1]);
  });
});

describe('pairs and clips', () => {
  const pair = (text: string, kind: 'pair' | 'clip' = 'pair'): Document => ({
    kind,
    parts: [{ media: { key: 1 } }, { text }],
  });

  it('are <BOS><image>text<EOC><EOS>, the image first wherever it was', () => {
    expect(written(build(pair('a cat'), { leadingSpace: 0 }))).toBe('<BOS><image>a cat<EOC><EOS>');
    const turned: Document = { kind: 'clip', parts: [{ text: 'a cat' }, { media: { frames: ['a.png'] } }] };
    expect(written(build(turned, { leadingSpace: 0 }))).toBe('<BOS><image>a cat<EOC><EOS>');
  });

  it('start with an extra space with the given probability', () => {
    expect(written(build(pair('cat'), { leadingSpace: 1 }))).toBe('<BOS><image> cat<EOC><EOS>');
    const spaced = Array.from({ length: 400 }, (_, seed) => written(build(pair('cat'), {}, seed)).includes(' cat'));
    expect(Math.abs(spaced.filter(Boolean).length - 200)).toBeLessThan(40);
  });

  it('lose <EOC> and <EOS> when truncated, so that the model does not learn to stop in mid-sentence', () => {
    const s = build(pair('one two three four five six'), { maxTokens: 6, leadingSpace: 0 });
    expect(written(s)).toBe('<BOS><image>one two three four');
    expect(masked(s)).toBe('one two three four');
  });

  it('exclude given text from the loss', () => {
    const document: Document = {
      kind: 'pair',
      parts: [{ media: { key: 1 } }, { text: 'Output:', learn: false }, { text: ' cat' }],
    };
    expect(masked(build(document, { leadingSpace: 0 }))).toBe(' cat<EOC><EOS>');
  });

  it('exclude the <EOC> after given text from the loss', () => {
    const parts = [{ media: { key: 1 } }, { text: 'given', learn: false }, { media: { key: 2 } }, { text: 'two' }];
    expect(masked(build({ kind: 'page', parts }))).toBe('two<EOC><EOS>');
  });

  it('are rejected with reasons', () => {
    const options = { maxTokens: 16 };
    const refuse = (document: Document) => buildSample(document, tokenizer, options, random());
    expect(refuse({ kind: 'pair', parts: [{ text: 'cat' }] })).toEqual({ rejected: 'no media' });
    expect(refuse({ kind: 'pair', parts: [{ media: { key: 1 } }, { media: { key: 2 } }] })).toEqual({
      rejected: 'not exactly one medium',
    });
    expect(refuse({ kind: 'pair', parts: [{ media: { key: 1 } }] })).toEqual({ rejected: 'no text to learn' });
  });
});

describe('windows of long pages', () => {
  const long = page(
    ...Array.from({ length: 12 }, (_, i) => [Array.from({ length: 9 }, (_, j) => ` w${i}-${j}`).join(''), i]).flat(),
    ' the end',
  );

  it('have at most maxTokens and maxMedia, and end before the next image', () => {
    const s = build(long, { maxTokens: 60, maxMedia: 2, pNext: 0 });
    expect(s.tokens.length).toBeLessThanOrEqual(60);
    expect(s.media).toHaveLength(2);
    expect(s.tokens[s.tokens.length - 1]).toBe(EOC);
  });

  it('end with the last allowed image when text looks ahead', () => {
    const s = build(long, { maxTokens: 60, maxMedia: 2, pNext: 1 });
    expect(s.media).toHaveLength(2);
    expect(s.tokens[s.tokens.length - 1]).toBe(IMAGE);
  });

  it('come from the whole page', () => {
    const seeds = Array.from({ length: 300 }, (_, seed) => seed);
    const seen = seeds.flatMap((seed) => build(long, { maxTokens: 20 }, seed).media.map((m) => 'key' in m && m.key));
    expect(new Set(seen).size).toBe(12);
  });

  it('are the same for the same stream', () => {
    expect(build(long, { maxTokens: 30 }, 5)).toEqual(build(long, { maxTokens: 30 }, 5));
  });
});

describe('loss rules', () => {
  const document = page('intro', 1, 'one', 2, 'two');

  it('open-flamingo-interleaved skips the text before the first image and the final <EOS>', () => {
    const s = build(document, { pNext: 1, lossRule: 'open-flamingo-interleaved' });
    expect(masked(s)).toBe('one<EOC>two<EOC>');
  });

  it('open-flamingo-pairs covers all but <image>, padding and the first token', () => {
    expect(masked(build(document, { pNext: 0, lossRule: 'open-flamingo-pairs' }))).toBe(
      'intro<EOC>one<EOC>two<EOC><EOS>',
    );
  });
});

describe('any document', () => {
  const part = fc.oneof(
    fc.record({ text: fc.stringMatching(/^( [a-e]{1,2}|<image>|<EOC>){0,12}$/), learn: fc.boolean() }),
    fc.record({ media: fc.record({ key: fc.nat(99) }) }),
  );
  const document = fc.record({
    kind: fc.constantFrom('page' as const, 'pair' as const, 'clip' as const),
    parts: fc.array(part, { maxLength: 12 }),
  });
  const options = fc.record({
    maxTokens: fc.integer({ min: 4, max: 40 }),
    maxMedia: fc.integer({ min: 1, max: 4 }),
    pNext: fc.constantFrom(0, 0.5, 1),
    lossRule: fc.constantFrom('paper' as const, 'open-flamingo-interleaved' as const, 'open-flamingo-pairs' as const),
  });

  it('gives a valid sample or a reason', () => {
    fc.assert(
      fc.property(document, options, fc.nat(), (d, o, seed) => {
        const s = buildSample(d, tokenizer, o, seededStream(seed));
        if ('rejected' in s) return;
        const images = Array.from(s.tokens).filter((id) => id === IMAGE).length;
        expect(s.tokens.length).toBeLessThanOrEqual(o.maxTokens);
        expect(images).toBe(s.media.length);
        expect(images).toBeGreaterThan(0);
        if (d.kind === 'page') expect(images).toBeLessThanOrEqual(o.maxMedia);
        for (let i = 0; i < s.tokens.length; i++) {
          if (i > 0) expect(s.mediaIndex[i]!).toBeGreaterThanOrEqual(s.mediaIndex[i - 1]!);
          expect(s.mediaIndex[i]!).toBeLessThanOrEqual(images);
          if (s.tokens[i] === IMAGE) expect(s.lossMask[i]).toBe(0);
          if (s.tokens[i] === EOS) expect(i).toBe(s.tokens.length - 1);
          // After <BOS> every <image> but a window's first follows an <EOC>.
          if (s.tokens[i] === IMAGE && i > 1) expect(s.tokens[i - 1]).toBe(EOC);
        }
        expect(s.lossMask[0]).toBe(0);
        expect(s.lossMask).toContain(1);
      }),
      { numRuns: 500 },
    );
  });
});

describe('media index of bare tokens', () => {
  it('counts up to and including <image>; looking ahead, it is the first <image> at or after the token', () => {
    const tokens = [9, IMAGE, 9, 9, IMAGE, 9];
    expect(Array.from(mediaIndexOf(tokens, IMAGE))).toEqual([0, 1, 1, 1, 2, 2]);
    expect(Array.from(nextMediaIndexOf(Int32Array.from(tokens), IMAGE))).toEqual([1, 1, 2, 2, 2, 2]);
    expect(Array.from(nextMediaIndexOf([9, 9], IMAGE))).toEqual([0, 0]);
  });
});

it('names a wrong option or kind', () => {
  const odd = { kind: 'photo' as never, parts: [] };
  expect(() => buildSample(odd, tokenizer, { maxTokens: 8 }, random())).toThrow(
    'document.kind must be one of page, pair, clip, question, got photo',
  );
  expect(() => buildSample(page(1, 'one'), tokenizer, { maxTokens: NaN }, random())).toThrow(
    'buildSample: maxTokens must be a whole number of at least 4, got NaN',
  );
  const question: Document = { kind: 'question', parts: [{ media: { key: 1 } }, { text: 'red' }] };
  expect(buildSample(question, tokenizer, { maxTokens: 8 }, random())).toEqual({ rejected: 'question for evaluation' });
  expect(() => checkSampleOptions('Mixture: dataset "x"', { maxTokens: 2 })).toThrow(
    'Mixture: dataset "x": maxTokens must be a whole number of at least 4, got 2.',
  );
  expect(() => checkSampleOptions('here', { maxTokens: 8, pNext: 1.5 })).toThrow(
    'pNext must be a number from 0 to 1, got 1.5',
  );
});

describe('closeGaps', () => {
  it('puts a space where two words would merge, and changes nothing else', () => {
    const media = { media: { key: 1 } };
    const text = (text: string) => ({ text });
    expect(closeGaps([undefined, text('a'), undefined, undefined, text('b'), text('c')])).toEqual([
      text('a'),
      text(' b'),
      text('c'),
    ]);
    const asked = [text('a '), undefined, { text: 'b', learn: false }, undefined, text('\nc'), media, undefined];
    expect(closeGaps(asked)).toEqual([text('a '), { text: 'b', learn: false }, text('\nc'), media]);
    expect(closeGaps([media, undefined, text('a')])).toEqual([media, text('a')]);
    expect(closeGaps([text('a'), undefined, { text: 'b', learn: false }])).toEqual([
      text('a'),
      { text: ' b', learn: false },
    ]);
  });
});
