import { checkConfig, rule } from '@flamingo-ts/kernels';
import { escapeRegExp } from './added-tokens';
import { GPT2_WORDS } from './split-words';
import { specialToken, type TokenizerJson } from './tokenizer';

/** Options of `trainByteLevelBPE`. */
export interface BPEOptions {
  /** Size of the vocabulary: special tokens, 256 bytes, and as many merges as fit. */
  readonly vocabSize: number;
  /** Tokens that are never split; they get the first ids, in this order. */
  readonly specialTokens?: readonly string[];
}

/**
 * Trains a byte-level BPE tokenizer (Radford et al. 2019) and returns the content of its tokenizer.json. The most frequent
 * pair is merged first; of equally frequent pairs, the one with the older tokens. The same texts give the same file.
 *
 * @param texts documents; special tokens that they spell out are excluded from training
 */
export function trainByteLevelBPE(texts: Iterable<string>, options: BPEOptions): TokenizerJson {
  checkConfig('trainByteLevelBPE', options, {
    vocabSize: rule.size,
    specialTokens: rule.optional(rule.list<readonly string[]>(rule.string)),
  });
  const { vocabSize, specialTokens = [] } = options;
  const alphabet = [...BYTE_CHARS].sort();
  const room = vocabSize - specialTokens.length - alphabet.length;
  if (room < 0) {
    throw new Error(
      `trainByteLevelBPE: vocabSize must be at least ${specialTokens.length + alphabet.length} ` +
        `(256 bytes and ${specialTokens.length} special tokens), got ${vocabSize}. Raise vocabSize.`,
    );
  }
  const tokens = [...specialTokens, ...alphabet];
  const idOfByte = BYTE_CHARS.map((char) => specialTokens.length + alphabet.indexOf(char));
  const merges = learnMerges(countWords(texts, specialTokens), idOfByte, tokens, room);
  return tokenizerJson(tokens, specialTokens, merges);
}

/** The words of the texts and their frequencies. */
function countWords(texts: Iterable<string>, specialTokens: readonly string[]): WordCounts {
  const utf8 = new TextEncoder();
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  const places = new Map<string, number>();
  const frequency: number[] = [];
  const special = specialTokens.length ? new RegExp(specialTokens.map(escapeRegExp).join('|'), 'g') : undefined;
  for (const text of texts) {
    for (const part of special ? text.split(special) : [text]) {
      for (const word of part.match(GPT2_WORDS) ?? []) {
        let place = places.get(word);
        if (place === undefined) {
          // In V8 a word cut out of a text keeps the whole text in memory; a copy does not. Lone surrogates become the same
          // word here: their bytes are the same.
          const copy = decoder.decode(utf8.encode(word));
          place = places.get(copy) ?? places.size;
          places.set(copy, place);
        }
        frequency[place] = (frequency[place] ?? 0) + 1;
      }
    }
  }
  return { words: places.keys(), frequency };
}

interface WordCounts {
  readonly words: Iterable<string>;
  readonly frequency: readonly number[];
}

/** A pair of ids as one key; ids stay far below 2^26. */
const pairKey = (left: number, right: number) => left * 2 ** 26 + right;

interface PairStats {
  readonly left: number;
  readonly right: number;
  /** Occurrences over all words, each word by its frequency. */
  count: number;
  /** Words that contain it now or did before. A word may be listed twice; the second visit finds nothing to merge. */
  words: number[];
}

/**
 * Merges pairs until the vocabulary is full or no pair is left, appending to `tokens`. Counts are updated word by word, so
 * that the time of a merge depends on what changes, not on the size of the corpus.
 */
function learnMerges(
  { words, frequency }: WordCounts,
  idOfByte: readonly number[],
  tokens: string[],
  room: number,
): [string, string][] {
  const { symbols, starts, ends } = layOut(words, frequency.length, idOfByte);
  // By left, then by right: lookups by small integers are several times faster than by one number for both.
  const pairs: Map<number, PairStats>[] = [];
  const queue = new PairQueue();
  const touched = new Set<PairStats>();
  const count = (left: number, right: number, by: number, word: number) => {
    const row = (pairs[left] ??= new Map());
    let pair = row.get(right);
    if (!pair) row.set(right, (pair = { left, right, count: 0, words: [] }));
    pair.count += by;
    if (by > 0) {
      if (pair.words[pair.words.length - 1] !== word) pair.words.push(word);
      touched.add(pair);
    }
  };
  const enqueueTouched = () => {
    for (const pair of touched) queue.push(pair);
    touched.clear();
  };

  for (const [w, by] of frequency.entries()) {
    for (let i = starts[w]! + 1; i < ends[w]!; i++) count(symbols[i - 1]!, symbols[i]!, by, w);
  }
  enqueueTouched();
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const merges: [string, string][] = [];
  while (merges.length < room) {
    const best = queue.pop();
    if (!best) break;
    const { left, right } = best;
    const merged = tokens[left]! + tokens[right]!;
    merges.push([tokens[left]!, tokens[right]!]);
    // Different merges that produce the same text share one token.
    let id = ids.get(merged);
    if (id === undefined) {
      ids.set(merged, (id = tokens.length));
      tokens.push(merged);
    }
    for (const w of best.words) {
      const [start, end, by] = [starts[w]!, ends[w]!, frequency[w]!];
      let to = start;
      for (let from = start; from < end; from++) {
        const symbol = symbols[from]!;
        if (symbol !== left || from + 1 === end || symbols[from + 1] !== right) {
          symbols[to++] = symbol;
          continue;
        }
        if (to > start) {
          count(symbols[to - 1]!, left, -by, w);
          count(symbols[to - 1]!, id, by, w);
        }
        if (from + 2 < end) {
          count(right, symbols[from + 2]!, -by, w);
          count(id, symbols[from + 2]!, by, w);
        }
        symbols[to++] = id;
        from++;
      }
      ends[w] = to;
    }
    // It may be in the queue more than once.
    best.count = 0;
    best.words = [];
    pairs[left]!.delete(right);
    enqueueTouched();
  }
  return merges;
}

/** The ids of all words in one array, word `w` from `starts[w]` to before `ends[w]`: far smaller than an array per word. */
function layOut(words: Iterable<string>, count: number, idOfByte: readonly number[]) {
  const utf8 = new TextEncoder();
  const [starts, ends] = [new Uint32Array(count), new Uint32Array(count)];
  let symbols = new Uint32Array(8 * count);
  let [w, at] = [0, 0];
  for (const word of words) {
    const bytes = utf8.encode(word);
    if (at + bytes.length > symbols.length) {
      const larger = new Uint32Array(2 * (at + bytes.length));
      larger.set(symbols);
      symbols = larger;
    }
    starts[w] = at;
    for (const byte of bytes) symbols[at++] = idOfByte[byte]!;
    ends[w++] = at;
  }
  return { symbols, starts, ends };
}

/** A heap of pairs, most frequent first. Counts change after `push`: `pop` moves entries whose count has fallen. */
class PairQueue {
  private readonly heap: { readonly pair: PairStats; readonly count: number }[] = [];

  push(pair: PairStats): void {
    if (pair.count <= 0) return;
    const { heap } = this;
    heap.push({ pair, count: pair.count });
    let i = heap.length - 1;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!this.before(i, parent)) break;
      this.swap(i, parent);
      i = parent;
    }
  }

  /** The most frequent pair, or undefined if none is left. */
  pop(): PairStats | undefined {
    for (;;) {
      const top = this.removeTop();
      if (!top) return undefined;
      if (top.count === top.pair.count) return top.pair;
      this.push(top.pair);
    }
  }

  private removeTop() {
    const { heap } = this;
    const top = heap[0];
    const last = heap.pop();
    if (heap.length === 0 || !last) return top;
    heap[0] = last;
    for (let i = 0; ;) {
      let first = i;
      for (const child of [2 * i + 1, 2 * i + 2]) if (child < heap.length && this.before(child, first)) first = child;
      if (first === i) return top;
      this.swap(i, first);
      i = first;
    }
  }

  private before(i: number, j: number): boolean {
    const [a, b] = [this.heap[i]!, this.heap[j]!];
    if (a.count !== b.count) return a.count > b.count;
    return pairKey(a.pair.left, a.pair.right) < pairKey(b.pair.left, b.pair.right);
  }

  private swap(i: number, j: number): void {
    [this.heap[i], this.heap[j]] = [this.heap[j]!, this.heap[i]!];
  }
}

/**
 * A printable character for each byte, as in GPT-2: bytes that are printable in Latin-1 map to themselves, the others to
 * U+0100 and up.
 */
const BYTE_CHARS: readonly string[] = (() => {
  const prints = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte !== 173);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(prints(byte) ? byte : next++));
})();

function tokenizerJson(
  tokens: readonly string[],
  specialTokens: readonly string[],
  merges: readonly (readonly [string, string])[],
): TokenizerJson {
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
  const json = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: specialTokens.map((content, id) => specialToken(id, content)),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: byteLevel,
    decoder: byteLevel,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
    },
  };
  return json;
}
