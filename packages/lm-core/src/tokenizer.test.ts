import { readFileSync } from 'node:fs';
import { loadReference } from '@flamingo-ts/testing';
import { describe, expect, it } from 'vitest';
import {
  checkVocabulary,
  loadTokenizer,
  requireToken,
  sentencePieceTokenizer,
  trainByteLevelBPE,
  withSpecialTokens,
  type TokenizerJson,
} from './index';

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
    const options = { addSpecialTokens: c.add_special_tokens, parseSpecialTokens: true };
    expect(tokenizer.encode(c.text, options)).toEqual(c.ids);
    expect(tokenizer.decode(c.ids)).toBe(c.decoded);
    expect(tokenizer.decode(c.ids, { skipSpecialTokens: true })).toBe(c.decoded_skipping_special);
  });

  it('knows its special tokens', () => {
    const parsed = tokenizer.encode('<image><EOC>', { parseSpecialTokens: true });
    expect(parsed.slice(-1)).toEqual([tokenizer.tokenId('<EOC>')]);
    expect(tokenizer.tokenId('<missing>')).toBeUndefined();
    expect(() => requireToken(tokenizer, '<missing>')).toThrow(
      /expected the special token <missing>.*got \d+ tokens without it.*withSpecialTokens/,
    );
  });
});

describe('text never becomes a special token', () => {
  const trained = loadReference(new URL('../test/reference/byte-level-bpe', import.meta.url)).meta.tokenizer;
  const unigram = loadReference(new URL('../test/reference/unigram', import.meta.url)).meta.tokenizer;
  const sentencePiece = (name: string) =>
    sentencePieceTokenizer(readFileSync(new URL(`../test/reference/sentencepiece-${name}.model`, import.meta.url)));
  const words = { '[UNK]': 0, '<image>': 1, '</s>': 2, '<EOC>': 3, a: 4, cat: 5 };
  const special = ['<image>', '</s>', '<EOC>', '<BOS>'];
  const base = { normalizer: null, pre_tokenizer: { type: 'WhitespaceSplit' }, post_processor: null, decoder: null };
  const files: Record<string, TokenizerJson> = {
    'byte-level BPE': trained,
    'BPE that ignores merges': { ...trained, model: { ...trained.model, ignore_merges: true } },
    unigram,
    'unigram with unknown characters': {
      ...base,
      model: {
        type: 'Unigram',
        unk_id: 0,
        vocab: [
          ['<unk>', 0],
          ['</s>', 0],
          ['<EOC>', 0],
          ['a', -1],
        ],
      },
    },
    'SentencePiece BPE': sentencePiece('bpe'),
    'SentencePiece unigram': sentencePiece('unigram'),
    'SentencePiece with user-defined tokens': sentencePiece('bpe-user-defined'),
    WordPiece: { ...base, model: { type: 'WordPiece', unk_token: '[UNK]', vocab: words } },
    WordLevel: { ...base, model: { type: 'WordLevel', unk_token: '[UNK]', vocab: words } },
  };

  it.each(Object.entries(files))('%s', (_, file) => {
    const tokenizer = loadTokenizer(withSpecialTokens(file, special));
    const ids = special.map((token) => tokenizer.tokenId(token)!);
    for (const token of special) {
      const spelled = [token, `a ${token} cat`, `${token}${token}`, `x${token}y`, ` ${token} `];
      for (const text of spelled) {
        expect(
          ids.filter((id) => tokenizer.encode(text).includes(id)),
          text,
        ).toEqual([]);
        expect(tokenizer.encode(text, { parseSpecialTokens: true }), text).toContain(tokenizer.tokenId(token));
      }
    }
  });

  it('and decodes to the same text', () => {
    const tokenizer = loadTokenizer(trained);
    const text = 'the answer is <image> or <EOC>, not <|endoftext|>';
    expect(tokenizer.decode(tokenizer.encode(text), { skipSpecialTokens: true })).toBe(text);
  });

  it('but added tokens that are not special still match', () => {
    const json = withSpecialTokens(trained, ['<EOC>']);
    const known = { ...json.added_tokens![0]!, id: 1502, content: 'cat', special: false };
    const tokenizer = loadTokenizer({ ...json, added_tokens: [...json.added_tokens!, known] });
    expect(tokenizer.encode('a cat<EOC>')).toContain(1502);
    expect(tokenizer.decode([1502], { skipSpecialTokens: true })).toBe('cat');
  });
});

describe('special tokens and sizes', () => {
  const json = trainByteLevelBPE(['a cat, a dog'], { vocabSize: 260, specialTokens: ['<EOC>'] });

  it('adds tokens after all others and keeps existing ones', () => {
    const before = loadTokenizer(json);
    const after = loadTokenizer(withSpecialTokens(json, ['<image>', '<EOC>']));
    expect(after.vocabSize).toBe(before.vocabSize + 1);
    expect(after.tokenId('<EOC>')).toBe(before.tokenId('<EOC>'));
    const parsed = after.encode('<image>a<EOC>', { parseSpecialTokens: true });
    expect(parsed).toEqual([before.vocabSize, after.tokenId('a'), after.tokenId('<EOC>')]);
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

describe('parts of a tokenizer.json, as the Python library applies them', () => {
  // Recorded by make-tokenizer-parts.py with `tokenizers` 0.23.2.
  const { meta } = loadReference(new URL('../test/reference/tokenizer-parts', import.meta.url));
  const files = meta.files as {
    name: string;
    parts: object;
    cases: { text?: string; ids: number[]; decoded?: string }[];
  }[];
  const model = { type: 'WordPiece', unk_token: '<unk>', continuing_subword_prefix: '##', vocab: meta.vocab };

  it.each(files)('$name', ({ parts, cases }) => {
    const tokenizer = loadTokenizer({ ...parts, model });
    for (const { text, ids, decoded } of cases) {
      if (text === undefined) expect(tokenizer.decode(ids), String(ids)).toBe(decoded);
      else expect(tokenizer.encode(text, { parseSpecialTokens: true }), JSON.stringify(text)).toEqual(ids);
    }
  });
});

it('keeps U+FEFF, at the start and within, and encodes words of any length', () => {
  const modelOf = (name: string) =>
    loadTokenizer(
      sentencePieceTokenizer(readFileSync(new URL(`../test/reference/sentencepiece-${name}.model`, import.meta.url))),
    );
  const bpe = modelOf('bpe');
  for (const text of ['\ufeffa cat', 'a\ufeffcat', 'a cat\ufeff']) expect(bpe.decode(bpe.encode(text))).toBe(text);
  const unigram = modelOf('unigram');
  const text = 'a cat and two dogs '.repeat(8000);
  const ids = unigram.encode(text);
  const [one, two] = [1, 2].map((n) => unigram.encode('a cat and two dogs '.repeat(n)));
  expect(ids).toEqual([...one!, ...Array.from({ length: 7999 }, () => two!.slice(one!.length)).flat()]);
});
