import { readFileSync } from 'node:fs';
import type { TextTokenizer } from '@flamingo-ts/data-mixtures';
import { loadTokenizer, withSpecialTokens, type TokenizerJson } from '@flamingo-ts/lm-core';
import { END_OF_CHUNK, END_OF_TEXT, IMAGE, specialIds } from '../stages/lm';

/** A tokenizer whose tokens a person can look at. */
export interface ReadableTokenizer {
  readonly name: string;
  readonly tokenizer: TextTokenizer;
  /** The text of one token. */
  textOf(id: number): string;
}

const MARKS = ['<BOS>', '<EOS>', '<pad>', '<image>', '<EOC>'];

/** For looking at data before there is a tokenizer: every word, with the blanks around it, is a token. */
export function wordTokenizer(): ReadableTokenizer {
  const words = [...MARKS];
  const ids = new Map<string, number>();
  const idOf = (word: string) => {
    let id = ids.get(word);
    if (id === undefined) ids.set(word, (id = words.push(word) - 1));
    return id;
  };
  return {
    name: 'words and punctuation marks',
    tokenizer: {
      encode: (text) => (text.match(/\s*(?:[\p{L}\p{M}\p{N}]+|[^\s\p{L}\p{M}\p{N}])(?:\s+$)?/gu) ?? []).map(idOf),
      special: { bos: 0, eos: 1, pad: 2, image: 3, endOfChunk: 4 },
    },
    textOf: (id) => words[id] ?? '',
  };
}

/** The tokenizer of a language model, from its tokenizer.json; marks that it lacks are added. */
export function readableTokenizer(file: string): ReadableTokenizer {
  const json = JSON.parse(readFileSync(file, 'utf8')) as TokenizerJson;
  const tokenizer = loadTokenizer(withSpecialTokens(json, [IMAGE, END_OF_CHUNK, END_OF_TEXT]));
  return {
    name: file,
    tokenizer: { encode: (text) => tokenizer.encode(text), special: specialIds(tokenizer) },
    textOf: (id) => tokenizer.decode([id]),
  };
}
