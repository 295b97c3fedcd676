import { loadReference } from '@flamingo-ts/testing';
import { describe, expect, it } from 'vitest';
import { checkVocabulary, loadTokenizer, requireToken, trainByteLevelBPE, withSpecialTokens } from './index';

interface TokenizerCase {
  text: string;
  add_special_tokens: boolean;
  ids: number[];
  decoded: string;
  decoded_skipping_special: string;
}

// Trained and recorded with the Python library `tokenizers` 0.23.2.
describe.each(['byte-level-bpe', 'bpe-byte-fallback', 'unigram'])('%s', (name) => {
  const { meta } = loadReference(new URL(`../test/reference/${name}`, import.meta.url));
  const tokenizer = loadTokenizer(meta.tokenizer);

  it.each(meta.cases as TokenizerCase[])('$text (special tokens: $add_special_tokens)', (c) => {
    expect(tokenizer.encode(c.text, { addSpecialTokens: c.add_special_tokens })).toEqual(c.ids);
    expect(tokenizer.decode(c.ids)).toBe(c.decoded);
    expect(tokenizer.decode(c.ids, { skipSpecialTokens: true })).toBe(c.decoded_skipping_special);
  });

  it('knows its special tokens', () => {
    expect(tokenizer.encode('<image><EOC>').slice(-1)).toEqual([tokenizer.tokenId('<EOC>')]);
    expect(tokenizer.tokenId('<missing>')).toBeUndefined();
    expect(() => requireToken(tokenizer, '<missing>')).toThrow(
      /expected the special token <missing>.*got \d+ tokens without it.*withSpecialTokens/,
    );
  });
});

describe('special tokens and sizes', () => {
  const json = trainByteLevelBPE(['a cat, a dog'], { vocabSize: 260, specialTokens: ['<EOC>'] });

  it('adds tokens after all others and keeps those that are there', () => {
    const before = loadTokenizer(json);
    const after = loadTokenizer(withSpecialTokens(json, ['<image>', '<EOC>']));
    expect(after.vocabSize).toBe(before.vocabSize + 1);
    expect(after.tokenId('<EOC>')).toBe(before.tokenId('<EOC>'));
    expect(after.encode('<image>a<EOC>')).toEqual([before.vocabSize, after.tokenId('a'), after.tokenId('<EOC>')]);
  });

  it('compares the vocabulary with the model', () => {
    const tokenizer = loadTokenizer(json);
    checkVocabulary(tokenizer, { vocabSize: 300 });
    expect(() => checkVocabulary(tokenizer, { vocabSize: 259 })).toThrow(
      /each of the tokenizer's 260 tokens, got vocabSize 259.*set the model's vocabSize to 260/,
    );
  });

  it('refuses a file of another kind', () => {
    expect(() => loadTokenizer({ do_lower_case: true }, 'lm/tokenizer_config.json')).toThrow(
      /lm\/tokenizer_config.json: expected a tokenizer.json with model.vocab, got the keys do_lower_case/,
    );
  });
});
