import { escapeRegExp } from './added-tokens';
import { specialToken, type AddedTokenJson, type TokenizerJson } from './tokenizer';

/** SentencePiece writes a space as this character. */
const SPACE = '\u2581';

/** `SentencePiece.Type` of sentencepiece_model.proto. */
const NORMAL = 1;
const UNKNOWN = 2;
const CONTROL = 3;
const USER_DEFINED = 4;
const BYTE = 6;

/** SentencePiece's limit of `max_sentencepiece_length`; it limits the search for merges. */
const MAX_PIECE_LENGTH = 512;

interface Piece {
  readonly text: string;
  readonly score: number;
  readonly type: number;
}

/**
 * The content of a tokenizer.json that splits text like a SentencePiece model (Kudo and Richardson 2018), for
 * `loadTokenizer` and `withSpecialTokens`. Supports BPE models, such as LLaMA's, and unigram models without byte fallback.
 *
 * The unknown piece and control pieces (`<s>`) become special tokens. With `parseSpecialTokens` the text between two special
 * tokens is encoded as a separate text, as Hugging Face's LlamaTokenizer does. An unknown piece is decoded as itself
 * (`<unk>`), not as SentencePiece's `⁇`.
 *
 * User-defined pieces become added tokens. Two edge cases differ from SentencePiece: no space is added before one that is the
 * whole text, and of two that overlap the first wins, in unigram models too (`▁▁` in a run of spaces).
 *
 * @param bytes content of a `tokenizer.model`
 * @param what  where it came from, for error messages
 * @param bos   the piece that `addSpecialTokens` puts before a text (`<s>`); the file does not say whether the language model
 *   needs one. By default nothing is added.
 * @throws Error for other files, and for models that a tokenizer.json cannot express: word and character models, Unicode
 *   normalization (NFKC) by a compiled table, unigram with byte fallback
 */
export function sentencePieceTokenizer(bytes: Uint8Array, what = 'tokenizer.model', bos?: string): TokenizerJson {
  const model = readModel(bytes, what);
  const byType = (type: number) => model.pieces.flatMap((piece, id) => (piece.type === type ? [{ ...piece, id }] : []));
  const userDefined = byType(USER_DEFINED);
  const added_tokens: AddedTokenJson[] = [
    ...[...byType(UNKNOWN), ...byType(CONTROL)].map(({ id, text }) => specialToken(id, text)),
    // Found in the normalized text, so that no space is inserted after one within a sentence.
    ...userDefined.map(({ id, text }) => ({ ...specialToken(id, text), normalized: true, special: false })),
  ];
  const json = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added_tokens.sort((a, b) => a.id - b.id),
    normalizer: normalizerJson(model, userDefined),
    pre_tokenizer: null,
    post_processor: bos === undefined ? null : startingWith(bos, model, what),
    decoder: decoderJson(model),
    model: model.type === 'BPE' ? bpeJson(model) : unigramJson(model),
  };
  return json;
}

/** A template that puts a piece before a text. */
function startingWith(bos: string, { pieces }: Model, what: string) {
  const id = pieces.findIndex(({ text }) => text === bos);
  if (id < 0) {
    throw new Error(
      `${what}: expected the piece ${bos}, which starts every text, got ${pieces.length} pieces without it. ` +
        'Pass another bos (in a Hugging Face folder: bos_token of tokenizer_config.json).',
    );
  }
  const [first, text] = [{ SpecialToken: { id: bos, type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }];
  return {
    type: 'TemplateProcessing',
    single: [first, text],
    pair: [first, text, { Sequence: { id: 'B', type_id: 0 } }],
    special_tokens: { [bos]: { id: bos, ids: [id], tokens: [bos] } },
  };
}

function bpeJson({ pieces, unknown, byteFallback }: Model) {
  return {
    type: 'BPE',
    dropout: null,
    unk_token: pieces[unknown]!.text,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: true,
    byte_fallback: byteFallback,
    ignore_merges: false,
    vocab: Object.fromEntries(pieces.map(({ text }, id) => [text, id])),
    merges: recoverMerges(pieces),
  };
}

function unigramJson({ pieces, unknown }: Model) {
  const vocab = pieces.map(({ text, score }): [string, number] => [text, score]);
  return { type: 'Unigram', unk_id: unknown, byte_fallback: false, vocab };
}

/**
 * SentencePiece stores no merges: it joins the neighbors that make the piece with the best score. The equivalent list has
 * every way to split a piece in two, best piece first.
 */
function recoverMerges(pieces: readonly Piece[]): [string, string][] {
  const normal = pieces.filter(({ type }) => type === NORMAL);
  const known = new Set(normal.map(({ text }) => text));
  // Single characters can be joined even if they are not pieces themselves.
  const isSymbol = (text: string) =>
    known.has(text) || text.length === String.fromCodePoint(text.codePointAt(0)!).length;
  const merges: [string, string][] = [];
  for (const { text } of normal.sort((a, b) => b.score - a.score)) {
    let cut = 0;
    for (const char of text) {
      cut += char.length;
      const [left, right] = [text.slice(0, cut), text.slice(cut)];
      if (right && isSymbol(left) && isSymbol(right)) merges.push([left, right]);
    }
  }
  return merges;
}

// Not ^ and $: other readers of a tokenizer.json match them at the ends of lines.
const START = '(?<![\\s\\S])';
const END = '(?![\\s\\S])';

function normalizerJson({ addDummyPrefix, removeExtraWhitespaces }: Model, userDefined: readonly Piece[]) {
  const replace = (pattern: { Regex: string } | { String: string }, content: string) => ({
    type: 'Replace',
    pattern,
    content,
  });
  const normalizers = [];
  if (removeExtraWhitespaces) normalizers.push(replace({ Regex: ` +${END}|${START} +|(?<= ) +` }, ''));
  if (addDummyPrefix) {
    // No prefix before an empty text, nor before a user-defined token alone: added tokens are normalized too before they
    // are searched for, and must not change.
    const tokens = userDefined.map(({ text }) => escapeRegExp(text));
    normalizers.push(replace({ Regex: `${START}(?!(?:${[...tokens, ''].join('|')})${END})` }, SPACE));
  }
  normalizers.push(replace({ String: ' ' }, SPACE));
  return { type: 'Sequence', normalizers };
}

function decoderJson({ addDummyPrefix, removeExtraWhitespaces, byteFallback }: Model) {
  const decoders: object[] = [{ type: 'Replace', pattern: { String: SPACE }, content: ' ' }];
  if (byteFallback) decoders.push({ type: 'ByteFallback' });
  decoders.push({ type: 'Fuse' });
  // With extra spaces removed, no text starts with a space; otherwise remove the one of the dummy prefix.
  if (removeExtraWhitespaces) decoders.push({ type: 'Strip', content: ' ', start: 1_000_000, stop: 0 });
  else if (addDummyPrefix) decoders.push({ type: 'Strip', content: ' ', start: 1, stop: 0 });
  return { type: 'Sequence', decoders };
}

interface Model {
  readonly type: 'BPE' | 'Unigram';
  readonly pieces: readonly Piece[];
  /** Id of the unknown piece. */
  readonly unknown: number;
  readonly byteFallback: boolean;
  readonly addDummyPrefix: boolean;
  readonly removeExtraWhitespaces: boolean;
}

/** Reads and checks a ModelProto. Field numbers and defaults are those of sentencepiece_model.proto. */
function readModel(bytes: Uint8Array, what: string): Model {
  if (new TextDecoder().decode(bytes.subarray(0, 23)) === 'version https://git-lfs') {
    throw new Error(
      `${what} is a Git LFS pointer, not the file itself. Run "git lfs pull" in the repository it came from, or download ` +
        'the file.',
    );
  }
  const broken = (got: string): never => {
    throw new Error(
      `${what}: expected a SentencePiece model (tokenizer.model, a protobuf), got ${got}. ` +
        'Fetch the file again: it may be truncated or have another format (as for Llama 3). Or use a tokenizer.json.',
    );
  };
  const number = (value: Value = 0) => (typeof value === 'number' ? value : broken('bytes where a number belongs'));
  const bytesOf = (value: Value = NOTHING) =>
    typeof value === 'number' ? broken('a number where bytes belong') : value;
  const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  const text = (value?: Value) => {
    const encoded = bytesOf(value);
    try {
      return utf8.decode(encoded);
    } catch {
      return broken('text that is not UTF-8');
    }
  };

  const pieces: Piece[] = [];
  const specs = new Map<number, Map<number, Value>>();
  for (const [field, value] of fieldsOf(bytes, broken)) {
    const message = () => fieldsOf(bytesOf(value), broken);
    if (field === 1) {
      const piece = new Map(message());
      pieces.push({ text: text(piece.get(1)), score: number(piece.get(2)), type: number(piece.get(3) ?? NORMAL) });
    } else if (field === 2 || field === 3 || field === 5) {
      const spec = specs.get(field) ?? new Map<number, Value>();
      for (const [option, of] of message()) spec.set(option, of);
      specs.set(field, spec);
    }
  }
  if (pieces.length === 0) broken(`${bytes.length} bytes without a piece`);
  const option = (spec: number, field: number, otherwise: number) => number(specs.get(spec)?.get(field) ?? otherwise);
  const [trainer, normalizer, denormalizer] = [2, 3, 5];
  const modelType = option(trainer, 3, 1);
  const byteFallback = option(trainer, 35, 0) !== 0;

  checkPieces(pieces, byteFallback, broken);
  const refuse = (expected: string, got: string, fix: string) => {
    throw new Error(`${what}: expected ${expected}, got ${got}. ${fix}`);
  };
  const convert =
    'Use the tokenizer.json of the same language model, or write one with transformers (save_pretrained).';
  if (modelType !== 1 && modelType !== 2) {
    const name = { 3: 'word', 4: 'char' }[modelType] ?? 'unknown';
    refuse('model type unigram (1) or BPE (2)', `${name} (${modelType})`, 'Train with --model_type=bpe or unigram.');
  }
  if (modelType === 1 && byteFallback) {
    refuse('a unigram model without byte fallback', 'byte_fallback: true', 'Train with --byte_fallback=false, or BPE.');
  }
  for (const spec of [normalizer, denormalizer]) {
    const { length } = bytesOf(specs.get(spec)?.get(2));
    if (length > 0) {
      const name = text(specs.get(spec)?.get(1)) || 'unnamed';
      const got = `a compiled table of ${length} bytes (${name})`;
      refuse(
        'no Unicode normalization (identity)',
        got,
        `${convert} Or train with --normalization_rule_name=identity.`,
      );
    }
  }
  if (option(normalizer, 5, 1) === 0 || option(trainer, 24, 0) !== 0) {
    refuse(`spaces written as ${SPACE} before words`, 'another form (escape_whitespaces, suffix)', convert);
  }
  return {
    type: modelType === 2 ? 'BPE' : 'Unigram',
    pieces,
    unknown: pieces.findIndex(({ type }) => type === UNKNOWN),
    byteFallback,
    addDummyPrefix: option(normalizer, 3, 1) !== 0,
    removeExtraWhitespaces: option(normalizer, 4, 1) !== 0,
  };
}

/** Checks SentencePiece's own requirements for pieces, and that a tokenizer.json can express each piece. */
function checkPieces(pieces: readonly Piece[], byteFallback: boolean, broken: (got: string) => never): void {
  const seen = new Set<string>();
  for (const [id, { text, score, type }] of pieces.entries()) {
    const piece = `piece ${id} (${JSON.stringify(text.slice(0, 40))})`;
    if (text === '') broken(`${piece}, which is empty`);
    if (seen.has(text)) broken(`${piece} twice`);
    seen.add(text);
    if (!Number.isFinite(score)) broken(`${piece} with the score ${score}`);
    if (![NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE].includes(type))
      broken(`${piece} of type ${type}, not 1 to 4 or 6`);
    if (type === NORMAL && text.length > MAX_PIECE_LENGTH) {
      broken(`${piece} of ${text.length} characters, more than ${MAX_PIECE_LENGTH}`);
    }
    if (type === BYTE && !/^<0x[0-9A-F]{2}>$/.test(text)) broken(`${piece} as a byte, not <0x00> to <0xFF>`);
  }
  const count = (type: number) => pieces.filter((piece) => piece.type === type).length;
  if (count(UNKNOWN) !== 1) broken(`${count(UNKNOWN)} unknown pieces, not 1`);
  const bytes = byteFallback ? 256 : 0;
  if (count(BYTE) !== bytes) broken(`${count(BYTE)} byte pieces, not ${bytes}`);
}

/** The value of a protobuf field: varints and 32-bit floats as numbers, everything else as bytes. */
type Value = number | Uint8Array;

const NOTHING = new Uint8Array(0);

/** The fields of a protobuf message with their numbers, in the order of the file. */
function* fieldsOf(bytes: Uint8Array, broken: (got: string) => never): Generator<[number, Value]> {
  let at = 0;
  const take = (length: number): Uint8Array => {
    const left = bytes.length - at;
    if (length > left) broken(`a field of ${length} bytes where ${left} are left`);
    at += length;
    return bytes.subarray(at - length, at);
  };
  const varint = (): number => {
    let value = 0;
    for (let i = 0; i < 10; i++) {
      const byte = bytes[at++] ?? broken('the end of the data within a number');
      value += (byte & 127) * 2 ** (7 * i);
      if (byte < 128) return value;
    }
    return broken('a number of more than 10 bytes');
  };
  const float = ({ buffer, byteOffset }: Uint8Array) => new DataView(buffer, byteOffset, 4).getFloat32(0, true);
  while (at < bytes.length) {
    const tag = varint();
    const field = Math.floor(tag / 8);
    if (field === 0) broken('a field without a number');
    switch (tag % 8) {
      case 0:
        yield [field, varint()];
        break;
      case 1:
        yield [field, take(8)];
        break;
      case 2:
        yield [field, take(varint())];
        break;
      case 5:
        yield [field, float(take(4))];
        break;
      default:
        broken(`the wire type ${tag % 8}`);
    }
  }
}
