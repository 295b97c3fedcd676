import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers';

/** Text to token ids and back. Anything of this shape serves; `loadTokenizer` reads the ecosystem's file format. */
export interface Tokenizer {
  /** Every id is below it. */
  readonly vocabSize: number;
  /**
   * Ids of a text. Special tokens written in the text (`<image>`) become their ids; with `addSpecialTokens` the file's
   * own template is applied too, such as a beginning-of-text token. Default: without, because prompts are put together
   * from pieces.
   */
  encode(text: string, options?: { readonly addSpecialTokens?: boolean }): number[];
  /** Text of the ids; with `skipSpecialTokens` special ones are left out. Default: everything is written. */
  decode(ids: readonly number[], options?: { readonly skipSpecialTokens?: boolean }): string;
  /** Id of exactly this token, or undefined. */
  tokenId(token: string): number | undefined;
}

/** An entry of `added_tokens` in a tokenizer.json. */
export interface AddedTokenJson {
  readonly id: number;
  readonly content: string;
  readonly special?: boolean;
  readonly single_word?: boolean;
  readonly lstrip?: boolean;
  readonly rstrip?: boolean;
  readonly normalized?: boolean;
}

/** The parts of a tokenizer.json (the format of the `tokenizers` library) that this package reads or writes. */
export interface TokenizerJson {
  readonly added_tokens?: readonly AddedTokenJson[] | null;
  readonly model: {
    readonly type?: string;
    readonly vocab: Readonly<Record<string, number>> | readonly (readonly [string, number])[];
  };
}

/**
 * A tokenizer from the content of a tokenizer.json.
 *
 * @param json the parsed file
 * @param what named in errors: where it came from
 */
export function loadTokenizer(json: object, what = 'tokenizer.json'): Tokenizer {
  const file = checkTokenizerJson(json, what);
  const tokenizer = new HuggingFaceTokenizer(file, {});
  const ids = vocabulary(file);
  return {
    vocabSize: highestId(file) + 1,
    encode: (text, { addSpecialTokens = false } = {}) =>
      tokenizer.encode(text, { add_special_tokens: addSpecialTokens }).ids,
    decode: (tokens, { skipSpecialTokens = false } = {}) => {
      // The library throws on an empty list; the text of no tokens is no text.
      if (tokens.length === 0) return '';
      return tokenizer.decode([...tokens], {
        skip_special_tokens: skipSpecialTokens,
        clean_up_tokenization_spaces: false,
      });
    },
    tokenId: (token) => ids.get(token),
  };
}

/**
 * Id of a token that must be there.
 *
 * @throws Error naming the token and how to add it
 */
export function requireToken(tokenizer: Tokenizer, token: string): number {
  const id = tokenizer.tokenId(token);
  if (id === undefined) {
    throw new Error(
      `tokenizer: expected the special token ${token} in the vocabulary, got ${tokenizer.vocabSize} tokens without it. ` +
        `Add it with withSpecialTokens(json, ['${token}']) before loadTokenizer, or name it in specialTokens when training.`,
    );
  }
  return id;
}

/** A tokenizer.json with more special tokens, numbered after all that is there; those it knows keep their ids. */
export function withSpecialTokens<T extends TokenizerJson>(json: T, tokens: readonly string[]): T {
  const known = vocabulary(json);
  let id = highestId(json) + 1;
  const added = [...(json.added_tokens ?? [])];
  for (const content of tokens) {
    if (added.some((token) => token.content === content)) continue;
    added.push(specialToken(known.get(content) ?? id++, content));
  }
  return { ...json, added_tokens: added };
}

/** A complete entry for a token that is never split and never normalised. */
export function specialToken(id: number, content: string): AddedTokenJson {
  return { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
}

/**
 * Makes sure that the model has an embedding for every id of the tokenizer. A model may have more: published ones round
 * their vocabulary up.
 *
 * @throws Error saying both sizes
 */
export function checkVocabulary(tokenizer: Tokenizer, lm: { readonly vocabSize: number }): void {
  if (tokenizer.vocabSize <= lm.vocabSize) return;
  throw new Error(
    `checkVocabulary: the language model must have a row for each of the tokenizer's ${tokenizer.vocabSize} tokens, ` +
      `got vocabSize ${lm.vocabSize}. Use the tokenizer that the model was trained with, or set the model's vocabSize ` +
      `to ${tokenizer.vocabSize} and train it.`,
  );
}

function checkTokenizerJson(json: object, what: string): TokenizerJson {
  const { model } = json as Partial<TokenizerJson>;
  if (!model?.vocab) {
    throw new Error(
      `${what}: expected a tokenizer.json with model.vocab, got the keys ${Object.keys(json).join(', ') || '(none)'}. ` +
        'Pass the parsed tokenizer.json itself, not tokenizer_config.json or the path.',
    );
  }
  return json as TokenizerJson;
}

/** All tokens by name; a unigram vocabulary is a list whose positions are the ids. */
function vocabulary({ model, added_tokens }: TokenizerJson): Map<string, number> {
  const { vocab } = model;
  const ids = new Map(
    Array.isArray(vocab) ? vocab.map(([token], id): [string, number] => [token, id]) : Object.entries(vocab),
  );
  for (const { content, id } of added_tokens ?? []) ids.set(content, id);
  return ids;
}

function highestId(json: TokenizerJson): number {
  let highest = -1;
  for (const id of vocabulary(json).values()) highest = Math.max(highest, id);
  return highest;
}
