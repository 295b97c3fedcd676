import type { Decoder, Normalizer, PreTokenizer } from '@huggingface/tokenizers';
import { GPT2_WORDS, splitWords, type SplitBehavior } from './split-words';

/*
 * Makes the JavaScript library behave like the original `tokenizers` library where the two differ: JavaScript's \w and \d
 * match only ASCII, \s and trim() include U+FEFF but not U+0085, TextDecoder drops U+FEFF, and replaceAll() gives $ a
 * special meaning.
 */

/** A part of a tokenizer.json: its type and options. */
export type PartJson = Readonly<Record<string, unknown>> & { readonly type?: string };

const WORD = '\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}';
const PUNCTUATION = /[\p{P}!-/:-@[-`{-~]/gu;
const SPACES = /\p{White_Space}+/gu;

/** Repairs a pre-tokenizer in place; for a sequence, each of its parts. */
export function repairPreTokenizer(object: PreTokenizer | null, json: PartJson | null | undefined): void {
  if (!object || !json) return;
  const {
    type,
    behavior = 'Isolated',
    invert = false,
  } = json as { behavior?: SplitBehavior; invert?: boolean } & PartJson;
  const splitting = (pattern: RegExp, how: SplitBehavior, inverted = false) => {
    object.pre_tokenize_text = (text) => splitWords(text, pattern, how, inverted);
  };
  if (type === 'Sequence') repairParts(object, 'tokenizers', json['pretokenizers'], repairPreTokenizer);
  else if (type === 'Whitespace')
    splitting(new RegExp(`[${WORD}]+|[^${WORD}\\p{White_Space}]+`, 'gu'), 'Removed', true);
  else if (type === 'WhitespaceSplit') splitting(SPACES, 'Removed');
  else if (type === 'Punctuation') splitting(PUNCTUATION, behavior);
  else if (type === 'Digits') splitting(/\p{N}/gu, json['individual_digits'] ? 'Isolated' : 'Contiguous');
  else if (type === 'Split') splitting((object as unknown as { pattern: RegExp }).pattern, behavior, invert);
  else if (type === 'BertPreTokenizer') {
    object.pre_tokenize_text = (text) =>
      splitWords(text, SPACES, 'Removed').flatMap((word) => splitWords(word, PUNCTUATION, 'Isolated'));
  } else if (type === 'FixedLength') {
    const length = json['length'] as number;
    object.pre_tokenize_text = (text) => {
      const chars = Array.from(text);
      return Array.from({ length: Math.ceil(chars.length / length) }, (_, i) =>
        chars.slice(i * length, (i + 1) * length).join(''),
      );
    };
  } else if (type === 'ByteLevel') {
    (object as unknown as { pattern: RegExp }).pattern = GPT2_WORDS;
  } else if (type === 'Metaspace' && json['split'] !== false) {
    const whole = object.pre_tokenize_text.bind(object);
    const space = new RegExp((json['replacement'] as string | undefined) ?? '\u2581', 'gu');
    object.pre_tokenize_text = (text, options) =>
      whole(text, options).flatMap((section) => splitWords(section, space, 'MergedWithNext'));
  }
}

/** Repairs a normalizer in place; for a sequence, each of its parts. */
export function repairNormalizer(object: Normalizer | null, json: PartJson | null | undefined): void {
  if (!object || !json) return;
  const { type } = json;
  if (type === 'Sequence') repairParts(object, 'normalizers', json['normalizers'], repairNormalizer);
  else if (type === 'Lowercase') object.normalize = lowercase;
  else if (type === 'Strip') {
    const ends = [json['strip_left'] && '^\\p{White_Space}+', json['strip_right'] && '\\p{White_Space}+$'].filter(
      Boolean,
    );
    const pattern = new RegExp(ends.join('|') || '(?!)', 'gu');
    object.normalize = (text) => text.replace(pattern, '');
  } else if (type === 'Replace') {
    const { pattern } = object as unknown as { pattern: RegExp };
    const content = (json['content'] as string | undefined) ?? '';
    object.normalize = (text) => text.replace(pattern, () => content);
  } else if (type === 'BertNormalizer') {
    const lower = json['lowercase'] ?? true;
    object.normalize = (text) => {
      if (json['clean_text'] ?? true) {
        text = text.replace(/[\0\ufffd]|(?![\t\n\r])\p{C}/gu, '').replace(/\p{White_Space}/gu, ' ');
      }
      if (json['handle_chinese_chars'] ?? true) text = text.replace(CHINESE, ' $& ');
      if (json['strip_accents'] ?? lower) text = text.normalize('NFD').replace(/\p{Mn}/gu, '');
      return lower ? lowercase(text) : text;
    };
  }
}

/** Repairs a decoder in place; for a sequence, each of its parts. @param added the added tokens, which are plain text */
export function repairDecoder(
  object: Decoder | null,
  json: PartJson | null | undefined,
  added: ReadonlySet<string>,
): void {
  if (!object || !json) return;
  const { type } = json;
  if (type === 'Sequence')
    repairParts(object, 'decoders', json['decoders'], (part: Decoder, of) => repairDecoder(part, of, added));
  else if (type === 'ByteFallback') object.decode_chain = joinBytes;
  else if (type === 'ByteLevel') {
    const { byte_decoder } = object as unknown as { byte_decoder: Readonly<Record<string, string>> };
    object.decode_chain = (tokens) => [joinByteLevel(tokens, byte_decoder, added)];
  } else if (type === 'Replace') {
    const { pattern } = object as unknown as { pattern: RegExp };
    const content = (json['content'] as string | undefined) ?? '';
    object.decode_chain = (tokens) => tokens.map((token) => token.replace(pattern, () => content));
  } else if (type === 'Metaspace') {
    const space = (json['replacement'] as string | undefined) ?? '\u2581';
    const isPrepended = json['prepend_scheme'] !== 'never';
    object.decode_chain = (tokens) =>
      tokens.map((token, i) => token.replaceAll(space, i === 0 && isPrepended ? '' : ' '));
  }
}

const CHINESE =
  /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b820}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/gu;

/** Lowercases each character on its own: in a whole string, JavaScript treats a Σ at the end of a word differently. */
function lowercase(text: string): string {
  return Array.from(text, (char) => char.toLowerCase()).join('');
}

/** Each character of a token represents a byte; added tokens, and tokens with any other character, are text. */
function joinByteLevel(
  tokens: readonly string[],
  byteOf: Readonly<Record<string, string>>,
  added: ReadonlySet<string>,
): string {
  const utf8 = new TextEncoder();
  const bytes = tokens.flatMap((token) => {
    const chars = Array.from(token);
    const isText = added.has(token) || chars.some((char) => byteOf[char] === undefined);
    return isText ? [...utf8.encode(token)] : chars.map((char) => Number(byteOf[char]));
  });
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(Uint8Array.from(bytes));
}

/** Runs of byte tokens become text; a run that is not UTF-8 becomes one U+FFFD per byte. */
function joinBytes(tokens: readonly string[]): string[] {
  const texts: string[] = [];
  let bytes: number[] = [];
  const flush = () => {
    if (bytes.length === 0) return;
    try {
      texts.push(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes)));
    } catch {
      texts.push(...bytes.map(() => '\ufffd'));
    }
    bytes = [];
  };
  for (const token of tokens) {
    const byte = /^<0x([0-9A-Fa-f]{2})>$/.exec(token);
    if (byte) bytes.push(parseInt(byte[1]!, 16));
    else {
      flush();
      texts.push(token);
    }
  }
  flush();
  return texts;
}

function repairParts<T>(
  sequence: object,
  key: string,
  jsons: unknown,
  repair: (part: T, json: PartJson) => void,
): void {
  const parts = (sequence as Readonly<Record<string, readonly T[]>>)[key] ?? [];
  parts.forEach((part, i) => repair(part, (jsons as readonly PartJson[])[i]!));
}
