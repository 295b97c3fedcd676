import { Tokenizer as HuggingFaceTokenizer, Unigram } from '@huggingface/tokenizers';
import { addedTokenSplitter, type Spelling } from './added-tokens';
import { repairDecoder, repairNormalizer, repairPreTokenizer, type PartJson } from './library-repairs';
import { unigramEncoder } from './unigram';

/** Converts text to token ids and back. Any object with this shape will do; `loadTokenizer` reads a tokenizer.json. */
export interface Tokenizer {
  /** All ids are below this number. */
  readonly vocabSize: number;
  /**
   * Ids of a text. By default text is only text: a special token that the text spells out (`<image>`, `</s>`) is encoded
   * like any other characters, so that untrusted text cannot forge one. Insert special tokens by their ids.
   */
  encode(text: string, options?: EncodeOptions): number[];
  /** Text of the ids. Special tokens are written out, unless `skipSpecialTokens` is true. */
  decode(ids: readonly number[], options?: { readonly skipSpecialTokens?: boolean }): string;
  /** Id of exactly this token, or undefined. */
  tokenId(token: string): number | undefined;
}

export interface EncodeOptions {
  /**
   * Applies the file's template, such as a beginning-of-text token. Defaults to false, because prompts are assembled from
   * several texts.
   */
  readonly addSpecialTokens?: boolean;
  /**
   * Turns special tokens that the text spells out into their ids, as Hugging Face's tokenizers do. Defaults to false. Use
   * it only for text that you wrote yourself.
   */
  readonly parseSpecialTokens?: boolean;
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
  readonly normalizer?: PartJson | null;
  readonly pre_tokenizer?: PartJson | null;
  readonly decoder?: PartJson | null;
  readonly model: {
    readonly type?: string;
    readonly unk_id?: number | null;
    readonly unk_token?: string | null;
    readonly byte_fallback?: boolean;
    readonly vocab: Readonly<Record<string, number>> | readonly (readonly [string, number])[];
  };
}

/**
 * A tokenizer from the content of a tokenizer.json.
 *
 * @param json the parsed file
 * @param what where it came from, for error messages
 */
export function loadTokenizer(json: object, what = 'tokenizer.json'): Tokenizer {
  const file = checkTokenizerJson(json, what);
  const { normalizer, pre_tokenizer, model, post_processor, decoder } = new HuggingFaceTokenizer(
    { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, ...file, added_tokens: added(file) },
    {},
  );
  repairNormalizer(normalizer, file.normalizer);
  repairPreTokenizer(pre_tokenizer, file.pre_tokenizer);
  const ids = vocabulary(file);
  const names = new Map(Array.from(ids, ([token, id]) => [id, token]));
  const special = new Set(added(file).flatMap((token) => (token.special ? [token.id] : [])));

  // The model must not find special tokens in words, except those that unknown characters become.
  const textIds = model!.tokens_to_ids;
  const known = vocabulary({ model: file.model });
  const unknown = file.model.unk_id ?? ids.get(file.model.unk_token ?? '');
  for (const [token, id] of textIds) {
    const isForUnknown = id === unknown || (file.model.byte_fallback && /^<0x[0-9A-F]{2}>$/.test(token));
    if (!known.has(token) || (special.has(id) && !isForUnknown)) textIds.delete(token);
  }
  const encodeUnigram =
    model instanceof Unigram && unigramEncoder(model, textIds, unknown, file.model.byte_fallback ?? false);
  const encodeWord = (word: string): number[] =>
    encodeUnigram ? encodeUnigram(word) : model!([word]).flatMap((token) => textIds.get(token) ?? unknown ?? []);

  const spellings = added(file).map((token) => {
    const isNormalized = token.normalized ?? !token.special;
    return { token, isNormalized, spelling: isNormalized && normalizer ? normalizer(token.content) : token.content };
  });
  // Tokens that are found in normalized text are decoded to their normalized spelling.
  for (const { token, spelling } of spellings) names.set(token.id, spelling);
  repairDecoder(decoder, file.decoder, new Set(spellings.map(({ spelling }) => spelling)));
  const splitters = (kept: (spelling: Spelling) => boolean) =>
    [false, true].map((normalized) =>
      addedTokenSplitter(spellings.filter((s) => s.isNormalized === normalized && kept(s))),
    ) as [ReturnType<typeof addedTokenSplitter>, ReturnType<typeof addedTokenSplitter>];
  const [allTokens, ordinaryTokens] = [splitters(() => true), splitters(({ token }) => !token.special)];

  // Tokens with `normalized: false` are found in the original text, the others in the normalized text between them.
  const encodeText = (text: string, [split, splitNormalized]: typeof allTokens): number[] =>
    split(text).flatMap((section, i) => {
      if (typeof section === 'number') return [section];
      return splitNormalized(normalizer ? normalizer(section) : section).flatMap((part, j) => {
        if (typeof part === 'number') return [part];
        const words = pre_tokenizer ? pre_tokenizer(part, { section_index: i + j }) : [part];
        return words.flatMap(encodeWord);
      });
    });

  const TEXT = '\0text';
  const template = (post_processor?.([TEXT], null, true).tokens ?? [TEXT]).map((token) => {
    if (token === TEXT) return undefined;
    return ids.get(token) ?? missingInTemplate(token, what);
  });

  return {
    vocabSize: highestId(file) + 1,
    encode(text, { addSpecialTokens = false, parseSpecialTokens = false } = {}) {
      const tokens = encodeText(text, parseSpecialTokens ? allTokens : ordinaryTokens);
      return addSpecialTokens ? template.flatMap((id) => id ?? tokens) : tokens;
    },
    decode(tokens, { skipSpecialTokens = false } = {}) {
      // Models may have more rows than the tokenizer has tokens: such ids have no text.
      const texts = tokens.flatMap((id) => (skipSpecialTokens && special.has(id) ? [] : (names.get(id) ?? [])));
      return decoder ? decoder.decode(texts) : texts.join(' ');
    },
    tokenId: (token) => ids.get(token),
  };
}

/**
 * Id of a token that the vocabulary must have.
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

/**
 * A tokenizer.json with more special tokens, whose ids follow those of all other tokens. A token that the file already
 * has keeps its id, and becomes special.
 */
export function withSpecialTokens<T extends TokenizerJson>(json: T, tokens: readonly string[]): T {
  const known = vocabulary(json);
  const existing = added(json);
  const existingNames = new Set(existing.map(({ content }) => content));
  const missing = [...new Set(tokens)].filter((token) => !existingNames.has(token));
  let id = highestId(json) + 1;
  return {
    ...json,
    added_tokens: [
      ...existing.map((token) => (tokens.includes(token.content) ? { ...token, special: true } : token)),
      ...missing.map((content) => specialToken(known.get(content) ?? id++, content)),
    ],
  };
}

/** A complete entry for a special token: never split, never normalized. */
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

function missingInTemplate(token: string, what: string): never {
  throw new Error(
    `${what}: the post-processor adds ${token}, which the vocabulary does not have. ` +
      'Use a tokenizer.json as the tokenizers library writes it.',
  );
}

function added({ added_tokens }: TokenizerJson): readonly AddedTokenJson[] {
  return added_tokens ?? [];
}

/** All tokens by name; a unigram vocabulary is a list whose positions are the ids. */
function vocabulary(json: TokenizerJson): Map<string, number> {
  const { vocab } = json.model;
  const ids = new Map(
    Array.isArray(vocab) ? vocab.map(([token], id): [string, number] => [token, id]) : Object.entries(vocab),
  );
  for (const { content, id } of added(json)) ids.set(content, id);
  return ids;
}

function highestId(json: TokenizerJson): number {
  let highest = -1;
  for (const id of vocabulary(json).values()) highest = Math.max(highest, id);
  return highest;
}
