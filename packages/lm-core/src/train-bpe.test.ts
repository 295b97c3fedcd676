import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { loadTokenizer, trainByteLevelBPE } from './index';

const texts = [
  'the cat sat on the mat, the other cat sat on the hat',
  'aaaa aaa aa a aaaaaa banana bananas ananas',
  'Output: red\nOutput: green\nOutput: red\n',
  'naïve café 猫が二匹 😀😀',
];

describe('trainByteLevelBPE', () => {
  it('makes the same merges as counting all pairs again each time', () => {
    const { merges } = trainByteLevelBPE(texts, { vocabSize: 320 }).model as unknown as { merges: string[][] };
    expect(merges).toEqual(mergesByRecounting(texts.join('|'), merges.length));
    expect(merges.length).toBeGreaterThan(50);
  });

  it('restores any text exactly, and shortens it', () => {
    const tokenizer = loadTokenizer(trainByteLevelBPE(texts, { vocabSize: 300, specialTokens: ['<EOC>'] }));
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (text) => {
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
      }),
      { numRuns: 100, seed: 1 },
    );
    expect(tokenizer.encode(texts[0]!).length).toBeLessThan(texts[0]!.length / 2);
  });

  it('gives special tokens the first ids and learns nothing from them', () => {
    const options = { vocabSize: 262, specialTokens: ['<image>', '<EOC>'] };
    const json = trainByteLevelBPE(['<image>ab<EOC>', '<image>ab<EOC>'], options);
    const tokenizer = loadTokenizer(json);
    expect([tokenizer.tokenId('<image>'), tokenizer.tokenId('<EOC>')]).toEqual([0, 1]);
    expect(tokenizer.encode('<image>ab<EOC>', { parseSpecialTokens: true })).toEqual([0, tokenizer.tokenId('ab'), 1]);
    expect(tokenizer.tokenId('im')).toBeUndefined();
  });

  it('counts a word by its bytes, even with a lone surrogate or a byte order mark', () => {
    const same = (texts: string[]) => trainByteLevelBPE(texts, { vocabSize: 300 }).model;
    expect(same(['cat\ud83d', 'dog', 'cat\ude00', '\ud83d\ude00'])).toEqual(
      same(['cat\ufffd', 'dog', 'cat\ufffd', '😀']),
    );
    const { vocab } = same(['\ufeffab']);
    expect(Object.keys(vocab).map((token) => token.length)).toContain(3);
  });

  it('stops when nothing is left to merge and refuses a vocabulary without room for bytes', () => {
    expect(loadTokenizer(trainByteLevelBPE(['ab'], { vocabSize: 1000 })).vocabSize).toBe(257);
    expect(() => trainByteLevelBPE([], { vocabSize: 256, specialTokens: ['x'] })).toThrow(/at least 257 .*got 256/);
  });
});

/** The definition, taken literally: count all pairs, merge the most frequent one, and repeat. */
function mergesByRecounting(text: string, count: number): string[][] {
  // Byte level, checked through a tokenizer without merges: one character for each byte.
  const bytes = trainByteLevelBPE([], { vocabSize: 256 });
  const { vocab } = bytes.model as unknown as { vocab: Record<string, number> };
  const order = Object.keys(vocab);
  const chars = loadTokenizer(bytes);
  const pieces = text.split('|').flatMap((t) => t.match(/ ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu) ?? []);
  const words = pieces.map((piece) => chars.encode(piece).map((id) => order[id]!));
  const merges: string[][] = [];
  while (merges.length < count) {
    const counts = new Map<string, { pair: [string, string]; n: number }>();
    for (const word of words) {
      for (let i = 0; i + 1 < word.length; i++) {
        const pair: [string, string] = [word[i]!, word[i + 1]!];
        const key = pair.join('\u0000');
        counts.set(key, { pair, n: (counts.get(key)?.n ?? 0) + 1 });
      }
    }
    const id = (token: string) => order.indexOf(token);
    const best = [...counts.values()].sort(
      (a, b) => b.n - a.n || id(a.pair[0]) - id(b.pair[0]) || id(a.pair[1]) - id(b.pair[1]),
    )[0]!.pair;
    merges.push(best);
    if (!order.includes(best.join(''))) order.push(best.join(''));
    for (const word of words) {
      for (let i = 0; i + 1 < word.length; i++) {
        if (word[i] === best[0] && word[i + 1] === best[1]) word.splice(i, 2, best.join(''));
      }
    }
  }
  return merges;
}
