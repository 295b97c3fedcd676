import { readFileSync } from 'node:fs';
import { loadReference } from '@flamingo-ts/testing';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loadTokenizer, sentencePieceTokenizer, withSpecialTokens, type TokenizerJson } from './index';

const reference = (file: string) => new URL(`../test/reference/sentencepiece-${file}`, import.meta.url);
const modelOf = (name: string) => new Uint8Array(readFileSync(reference(`${name}.model`)));

interface SentencePieceCase {
  text: string;
  ids: number[];
  decoded: string;
}

// `bpe` is like LLaMA's; make-sentencepiece.py, which recorded the others, lists their options.
describe.each(['bpe', 'bpe-user-defined', 'bpe-bare', 'unigram', 'unigram-blanks'])(
  'sentencePieceTokenizer: %s',
  (name) => {
    const { meta } = loadReference(reference(name));
    const json = sentencePieceTokenizer(modelOf(name));
    const tokenizer = loadTokenizer(json);

    it.each(meta.cases as SentencePieceCase[])('$text', ({ text, ids, decoded }) => {
      expect(tokenizer.encode(text)).toEqual(ids);
      // The file has no template.
      expect(tokenizer.encode(text, { addSpecialTokens: true })).toEqual(ids);
      if (!ids.includes(meta.unknown)) expect(tokenizer.decode(ids)).toBe(decoded);
    });

    it('accepts more special tokens, and encodes the texts between them separately', () => {
      const size = tokenizer.vocabSize;
      const larger = loadTokenizer(withSpecialTokens(json, ['<new>', '</s>']));
      expect([larger.vocabSize, larger.tokenId('<new>')]).toEqual([size + 1, size]);
      const end = tokenizer.tokenId('</s>')!;
      expect(larger.encode('a cat<new>a dog</s>', { parseSpecialTokens: true })).toEqual([
        ...tokenizer.encode('a cat'),
        size,
        ...tokenizer.encode('a dog'),
        end,
      ]);
      expect(larger.decode([size, end])).toBe('<new></s>');
      expect(larger.decode([size, end], { skipSpecialTokens: true })).toBe('');
    });
  },
);

describe('sentencePieceTokenizer', () => {
  it('finds the segmentation with the best score', () => {
    const scores = { '▁': -3, a: -2.5, b: -3.25, ab: -4, '▁a': -4.5, ba: -5, bab: -6.5, '▁ab': -7 };
    const pieces = Object.entries(scores).map(([text, score]) => piece(text, score));
    const tokenizer = loadTokenizer(sentencePieceTokenizer(message(piece('<unk>', 0, 2), ...pieces, identity)));
    const names = ['<unk>', ...Object.keys(scores)];
    const text = fc
      .array(fc.constantFrom('a', 'b', ' '), { minLength: 1, maxLength: 9 })
      .map((chars) => chars.join(''));
    fc.assert(
      fc.property(text, (text) => {
        const normal = text.trim().replace(/ +/g, ' ');
        const ids = tokenizer.encode(text);
        const whole = normal && `▁${normal}`.replaceAll(' ', '▁');
        expect(ids.map((id) => names[id]).join('')).toBe(whole);
        const score = ids.reduce((sum, id) => sum + scores[names[id] as keyof typeof scores], 0);
        expect(score).toBeCloseTo(bestScore(whole, scores), 9);
      }),
      { numRuns: 300, seed: 1 },
    );
    expect(tokenizer.encode('a?!')).toEqual([5, 0]);
  });

  it('merges the pair with the best score, the first of equal ones, even of characters that are not pieces', () => {
    const pieces = [piece('ab', -1), piece('bc', 0), piece('aa', -2), piece('▁a', -3), piece('a', -4)];
    const bytes = message(piece('<unk>', 0, 2), ...pieces, bpe, identity);
    const tokenizer = loadTokenizer(sentencePieceTokenizer(bytes));
    expect(tokenizer.encode('abc')).toEqual([4, 2]);
    expect(tokenizer.encode('ab')).toEqual([0, 1]);
    expect(tokenizer.encode('caaa')).toEqual([0, 3, 5]);
  });

  it('makes control pieces special and user-defined ones added', () => {
    const { added_tokens } = sentencePieceTokenizer(modelOf('bpe-user-defined'));
    expect(added_tokens!.map(({ id, content, special }) => [id, content, special])).toEqual([
      [0, '<unk>', true],
      [1, '<s>', true],
      [2, '</s>', true],
      [3, '<sep>', true],
      [4, '<image>', false],
      [5, 'a+b', false],
      [6, '\n', false],
    ]);
  });

  it('rejects models that a tokenizer.json cannot express', () => {
    // In a protobuf message, appended fields override earlier ones.
    const refused =
      (name: string, ...more: number[]) =>
      () =>
        sentencePieceTokenizer(Uint8Array.of(...modelOf(name), ...more), 'lm/tokenizer.model');
    expect(refused('bpe', 0x12, 2, 0x18, 4)).toThrow(
      /^lm\/tokenizer.model: expected model type unigram \(1\) or BPE \(2\), got char \(4\). Train with/,
    );
    expect(refused('bpe', 0x12, 2, 0x18, 3)).toThrow(/got word \(3\)/);
    expect(refused('bpe', 0x12, 2, 0x18, 1)).toThrow(/expected a unigram model without byte fallback.*Train with/);
    expect(refused('bpe', 0x1a, 9, 0x12, 3, 1, 2, 3, 0x0a, 2, 0x6e, 0x66)).toThrow(
      /expected no Unicode normalization \(identity\), got a compiled table of 3 bytes \(nf\). Use the tokenizer.json/,
    );
    expect(refused('bpe', 0x2a, 3, 0x12, 1, 1)).toThrow(/got a compiled table of 1 bytes/);
    expect(refused('bpe', 0x1a, 2, 0x28, 0)).toThrow(/expected spaces written as ▁ before words/);
  });

  it('rejects invalid models and says why', () => {
    const reading = (bytes: Uint8Array) => () => sentencePieceTokenizer(bytes, 'x.model');
    const plain = (text: string) => new TextEncoder().encode(text);
    expect(reading(plain('version https://git-lfs.github.com/spec/v1'))).toThrow(
      /^x.model is a Git LFS pointer, not the/,
    );
    expect(reading(plain('version 1'))).toThrow(/^x.model: expected a SentencePiece.*wire type 6. Fetch/);
    expect(reading(plain('{"model": {}}'))).toThrow(/^x.model: expected a SentencePiece model/);
    expect(reading(new Uint8Array(0))).toThrow(/got 0 bytes without a piece/);
    expect(reading(modelOf('bpe').subarray(0, 9000))).toThrow(/a field of \d+ bytes where \d+ are left/);
    expect(reading(new Uint8Array(20).fill(255))).toThrow(/a number of more than 10 bytes/);
    expect(reading(new Uint8Array(9).fill(255))).toThrow(/the end of the data within a number/);
    expect(reading(new Uint8Array(20))).toThrow(/a field without a number/);
    const unknown = piece('<unk>', 0, 2);
    expect(reading(message(piece('a', 0)))).toThrow(/got 0 unknown pieces, not 1/);
    expect(reading(message(unknown, piece('', 0)))).toThrow(/piece 1 \(""\), which is empty/);
    expect(reading(message(unknown, piece('a', 0), piece('a', -1)))).toThrow(/piece 2 \("a"\) twice/);
    expect(reading(message(unknown, piece('a', NaN)))).toThrow(/piece 1 \("a"\) with the score NaN/);
    expect(reading(message(unknown, piece('a', 0, 5)))).toThrow(/piece 1 \("a"\) of type 5/);
    expect(reading(message(unknown, piece('a'.repeat(513), 0)))).toThrow(/of 513 characters, more than 512/);
    expect(reading(message(unknown, piece('<0x0A>', 0, 6)))).toThrow(/got 1 byte pieces, not 0/);
    expect(reading(message([0x0a, 2, 0x08, 1]))).toThrow(/a number where bytes belong/);
    expect(reading(message([0x0a, 3, 0x0a, 1, 0x80]))).toThrow(/text that is not UTF-8/);
  });

  it('reads any bytes or says what is wrong with them', () => {
    const readsOrRefuses = (bytes: Uint8Array) => {
      let json: TokenizerJson;
      try {
        json = sentencePieceTokenizer(bytes, 'x.model');
      } catch (error) {
        expect((error as Error).message).toMatch(/^x.model: expected .*, got .*\. [A-Z].*\.$/s);
        return;
      }
      const tokenizer = loadTokenizer(json);
      expect(Math.max(-1, ...tokenizer.encode('An image of two cats.'))).toBeLessThan(tokenizer.vocabSize);
    };
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), readsOrRefuses), { numRuns: 500, seed: 1 });
    const models = [modelOf('bpe'), modelOf('unigram-blanks')];
    const change = fc.record({
      model: fc.constantFrom(...models),
      end: fc.option(fc.nat({ max: 14_000 }), { freq: 3 }),
      bytes: fc.array(fc.tuple(fc.nat({ max: 9999 }), fc.nat({ max: 255 })), { maxLength: 4 }),
    });
    fc.assert(
      fc.property(change, ({ model, end, bytes }) => {
        const changed = model.slice(0, end ?? model.length);
        for (const [at, value] of bytes) if (at < changed.length) changed[at] = value;
        readsOrRefuses(changed);
      }),
      { numRuns: 200, seed: 1 },
    );
  });
});

/** Score of the best way to split a text into pieces, by trying them all. */
function bestScore(text: string, scores: Readonly<Record<string, number>>): number {
  if (text === '') return 0;
  const first = Object.keys(scores).filter((name) => text.startsWith(name));
  return Math.max(...first.map((name) => scores[name]! + bestScore(text.slice(name.length), scores)));
}

/** The field of a ModelProto that holds a piece. */
function piece(text: string, score: number, type = 1): number[] {
  const name = new TextEncoder().encode(text);
  const body = [0x0a, ...varint(name.length), ...name, 0x15, ...float(score), 0x18, type];
  return [0x0a, ...varint(body.length), ...body];
}

const varint = (n: number): number[] => (n < 128 ? [n] : [(n & 127) | 128, ...varint(n >> 7)]);
const float = (x: number) => new Uint8Array(Float32Array.of(x).buffer);
const message = (...fields: number[][]) => Uint8Array.from(fields.flat());
/** Model type BPE. */
const bpe = [0x12, 2, 0x18, 2];
/** The normalizer's name, without a table. */
const identity = [0x1a, 10, 0x0a, 8, ...new TextEncoder().encode('identity')];
