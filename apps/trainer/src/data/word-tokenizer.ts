import { wordCounter, type TextTokenizer } from '@flamingo-ts/data-mixtures';
import { loadTokenizer, withSpecialTokens, type TokenizerJson } from '@flamingo-ts/lm-core';
import { readJson } from '../stages/files';
import { END_OF_CHUNK, END_OF_TEXT, IMAGE, specialIds } from '../stages/lm';

/** A tokenizer whose tokens can be shown to people. */
export interface ReadableTokenizer {
  readonly name: string;
  readonly tokenizer: TextTokenizer;
  /** The text of one token. */
  textOf(id: number): string;
}

const SPECIAL_TOKENS = ['<BOS>', '<EOS>', '<pad>', IMAGE, END_OF_CHUNK];

/** A tokenizer to use when there is no language model. A token is a word or punctuation mark with the whitespace around it. */
export function wordTokenizer(): ReadableTokenizer {
  const words = [...SPECIAL_TOKENS];
  const ids = new Map<string, number>();
  const idOf = (word: string) => {
    let id = ids.get(word);
    if (id === undefined) ids.set(word, (id = words.push(word) - 1));
    return id;
  };
  return {
    name: wordCounter.name,
    tokenizer: {
      encode: (text) => (text.match(/\s*(?:[\p{L}\p{M}\p{N}]+|[^\s\p{L}\p{M}\p{N}])(?:\s+$)?/gu) ?? []).map(idOf),
      special: { bos: 0, eos: 1, pad: 2, image: 3, endOfChunk: 4 },
    },
    textOf: (id) => words[id] ?? '',
  };
}

/** Reads the `tokenizer.json` of a language model, named by `--tokenizer`. */
export function readTokenizerJson(file: string): TokenizerJson {
  return readJson(file, 'the tokenizer.json of a language model', 'Correct --tokenizer.') as TokenizerJson;
}

/** The tokenizer of a language model, from its `tokenizer.json`. Adds the special tokens that it lacks. */
export function readableTokenizer(file: string): ReadableTokenizer {
  const tokenizer = loadTokenizer(withSpecialTokens(readTokenizerJson(file), [IMAGE, END_OF_CHUNK, END_OF_TEXT]));
  return {
    name: file,
    tokenizer: { encode: (text) => tokenizer.encode(text), special: specialIds(tokenizer) },
    textOf: (id) => tokenizer.decode([id]),
  };
}
