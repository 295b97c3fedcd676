import { wordsOf } from '../pages/text';

/** Returns the reason to drop a text; undefined to keep it. */
export type TextFilter = (text: string) => string | undefined;

const GOPHER_STOP_WORDS = ['the', 'be', 'to', 'of', 'and', 'that', 'have', 'with'];

/** Rejects text that is not prose. Gopher (Rae et al., 2021), appendix A.1.1: MassiveText's quality filters. */
export const gopherQuality: TextFilter = (text) => {
  const words = wordsOf(text);
  if (words.length < 50) return 'fewer than 50 words';
  if (words.length > 100_000) return 'more than 100000 words';
  const letters = words.reduce((sum, word) => sum + word.length, 0);
  const mean = letters / words.length;
  if (mean < 3 || mean > 10) return 'mean word length not 3 to 10';
  const symbols = text.match(/#|\.\.\.|…/g)?.length ?? 0;
  if (symbols > 0.1 * words.length) return 'too many symbols';
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  if (lines.filter((line) => /^\s*[-*•‣·]/.test(line)).length > 0.9 * lines.length) return 'mostly bullet points';
  if (lines.filter((line) => /(?:\.\.\.|…)\s*$/.test(line)).length > 0.3 * lines.length) return 'truncated lines';
  if (words.filter((word) => /[a-z]/i.test(word) || /\p{L}/u.test(word)).length < 0.8 * words.length)
    return 'words without letters';
  const present = new Set(words.map((word) => word.toLowerCase()));
  if (GOPHER_STOP_WORDS.filter((word) => present.has(word)).length < 2) return 'too few stop words';
  return undefined;
};

/** Maximum share of characters in the most frequent n-gram. */
const TOP_NGRAMS: readonly (readonly [n: number, share: number])[] = [
  [2, 0.2],
  [3, 0.18],
  [4, 0.16],
];
/** Maximum share of characters in repeated n-grams. */
const REPEATED_NGRAMS: readonly (readonly [n: number, share: number])[] = [
  [5, 0.15],
  [6, 0.14],
  [7, 0.13],
  [8, 0.12],
  [9, 0.11],
  [10, 0.1],
];

/** Rejects text that repeats itself. Gopher, appendix A.1.1, table A1. */
export const gopherRepetition: TextFilter = (text) => {
  for (const [name, pieces] of [
    ['lines', text.split(/\n+/)],
    ['paragraphs', text.split(/\n{2,}/)],
  ] as const) {
    const { count, characters } = repeated(pieces.map((piece) => piece.trim()).filter((piece) => piece !== ''));
    if (count > 0.3 || characters > 0.2) return `repeated ${name}`;
  }
  const words = wordsOf(text.toLowerCase());
  const total = words.reduce((sum, word) => sum + word.length, 0);
  const ngrams = new RepeatedNgrams(words);
  for (const [n, share] of TOP_NGRAMS) if (ngrams.top(n) > share * total) return `one ${n}-gram too frequent`;
  for (const [n, share] of REPEATED_NGRAMS) if (ngrams.covered(n) > share * total) return `repeated ${n}-grams`;
  return undefined;
};

/** Shares of pieces, and of their characters, that repeat an earlier one. */
function repeated(pieces: readonly string[]): { count: number; characters: number } {
  const seen = new Set<string>();
  let [count, characters, total] = [0, 0, 0];
  for (const piece of pieces) {
    total += piece.length;
    if (seen.has(piece)) {
      count++;
      characters += piece.length;
    } else seen.add(piece);
  }
  return { count: count / Math.max(1, pieces.length), characters: characters / Math.max(1, total) };
}

/** N-grams that occur more than once. An n-gram can only repeat where its first n - 1 words do, so few positions remain. */
class RepeatedNgrams {
  private readonly word: Int32Array;
  private readonly different: number;
  /** Number of characters in the words before each word. */
  private readonly before: Int32Array;
  private n = 1;
  /** Positions of repeated n-grams in ascending order, and the number of each n-gram. */
  private places: Int32Array;
  private ngram: Int32Array;

  constructor(words: readonly string[]) {
    const numbers = new Map<string, number>();
    this.word = new Int32Array(words.length);
    this.before = new Int32Array(words.length + 1);
    this.places = new Int32Array(words.length);
    for (let i = 0; i < words.length; i++) {
      const word = words[i]!;
      let number = numbers.get(word);
      if (number === undefined) numbers.set(word, (number = numbers.size));
      this.word[i] = number;
      this.before[i + 1] = this.before[i]! + word.length;
      this.places[i] = i;
    }
    this.different = numbers.size;
    this.ngram = this.word;
  }

  /** Characters covered by all occurrences of the n-gram that covers the most; 0 if none repeats. */
  top(n: number): number {
    this.grow(n);
    const sums = new Map<number, number>();
    let most = 0;
    for (let k = 0; k < this.places.length; k++) {
      const i = this.places[k]!;
      const sum = (sums.get(this.ngram[k]!) ?? 0) + this.before[i + n]! - this.before[i]!;
      sums.set(this.ngram[k]!, sum);
      if (sum > most) most = sum;
    }
    return most;
  }

  /** Characters of words in n-grams that occurred before. A word in several of them counts once. */
  covered(n: number): number {
    this.grow(n);
    const seen = new Set<number>();
    let characters = 0;
    let countedTo = 0;
    for (let k = 0; k < this.places.length; k++) {
      const i = this.places[k]!;
      if (!seen.has(this.ngram[k]!)) {
        seen.add(this.ngram[k]!);
        continue;
      }
      characters += this.before[i + n]! - this.before[Math.max(i, countedTo)]!;
      countedTo = i + n;
    }
    return characters;
  }

  /** Extends the n-grams to `n` words, one word at a time. */
  private grow(n: number): void {
    for (; this.n < n; this.n++) {
      const count = this.places.length;
      const first = new Map<number, number>();
      const ngram = new Int32Array(count);
      const times = new Int32Array(count);
      let end = 0;
      for (; end < count && this.places[end]! + this.n < this.word.length; end++) {
        const key = this.ngram[end]! * this.different + this.word[this.places[end]! + this.n]!;
        let number = first.get(key);
        if (number === undefined) first.set(key, (number = first.size));
        ngram[end] = number;
        times[number]!++;
      }
      let kept = 0;
      for (let k = 0; k < end; k++) {
        if (times[ngram[k]!]! === 1) continue;
        this.places[kept] = this.places[k]!;
        ngram[kept++] = ngram[k]!;
      }
      this.places = this.places.subarray(0, kept);
      this.ngram = ngram.subarray(0, kept);
    }
  }
}

// Our own list of function words. OBELICS' list is longer, but we may not copy it.
const STOP_WORDS = new Set(
  `a about above according across after again against ago all almost along already also although always am amid among an
   and another any anybody anyone anything anywhere are around as aside at away back be became because become becomes
   been before behind being below beneath beside besides between beyond both but by can cannot could despite did do does
   doing done down during each either else enough etc even ever every everybody everyone everything everywhere except few
   first for former from further get gets getting given go goes going got had half has have having he hence her here hers
   herself him himself his how however i if in indeed inside instead into is it its itself just last later least less
   let like likely many may maybe me meanwhile might mine more moreover most much must my myself near nearly neither
   never nevertheless next no nobody none nor not nothing now nowhere of off often on once one only onto or other others
   otherwise our ours ourselves out outside over own past per perhaps please quite rather really regarding same second
   seem seems several shall she should since so some somebody someone something sometimes somewhere soon still such than
   that the their theirs them themselves then there therefore these they this those though three through throughout thus
   till to today together too toward toward two under unless unlike until up upon us use used using usually various
   very via was way we well were what whatever when whenever where whereas wherever whether which whichever while who
   whoever whole whom whose why will with within without would yet you your yours yourself yourselves
   i'm i've i'll i'd you're you've you'll he's she's it's we're we've we'll they're they've that's there's here's what's
   let's don't doesn't didn't isn't aren't wasn't weren't won't wouldn't can't couldn't shouldn't haven't hasn't hadn't`
    .split(/\s+/)
    .filter((word) => word !== ''),
);
/** The punctuation that OBELICS counts. */
const PUNCTUATION = /^[,;:?!.]$/;

/** Limits of `obelicsText`. A text with fewer words or a larger ratio than allowed is dropped. */
export interface ObelicsLimits {
  readonly minWords: number;
  readonly maxWords: number;
  readonly characterRepetition: number;
  readonly wordRepetition: number;
  readonly specialCharacters: number;
  readonly stopWords: number;
  readonly punctuation: number;
  /** Punctuation is not checked below this number of words and punctuation marks. */
  readonly minWordsForPunctuation: number;
}

/** OBELICS (Laurençon et al., 2023), appendix A.2.3: applied to each paragraph and to the document. */
export function obelicsText(limits: ObelicsLimits): TextFilter {
  return (text) => {
    const words = wordsOf(text.toLowerCase()).flatMap((word) => stripped(word.replace(/’/g, "'")) || []);
    if (words.length < limits.minWords) return `fewer than ${limits.minWords} words`;
    if (words.length > limits.maxWords) return `more than ${limits.maxWords} words`;
    if (characterRepetition(text) > limits.characterRepetition) return 'character repetition';
    if (wordRepetition(words) > limits.wordRepetition) return 'word repetition';
    const special = text.match(/[\p{P}\p{S}\d\s]/gu)?.length ?? 0;
    if (special > limits.specialCharacters * text.length) return 'too many special characters';
    if (words.filter((word) => STOP_WORDS.has(word)).length < limits.stopWords * words.length)
      return 'too few stop words';
    const tokens = text.match(/[\p{L}\p{N}_']+|[,;:?!.]/gu) ?? [];
    const marks = tokens.filter((token) => PUNCTUATION.test(token)).length;
    if (tokens.length >= limits.minWordsForPunctuation && marks < limits.punctuation * tokens.length) {
      return 'too little punctuation';
    }
    return undefined;
  };
}

/** Strips punctuation, symbols and digits from both ends. A pattern that strips only the end takes quadratic time. */
function stripped(word: string): string {
  const [letters] = /[^\p{P}\p{S}\d](?:.*[^\p{P}\p{S}\d])?/su.exec(word) ?? [''];
  return letters;
}

/** Share of the sqrt(n) most frequent of n distinct 10-character sequences among all of them. */
function characterRepetition(text: string): number {
  const counts = new Map<string, number>();
  for (let i = 0; i + 10 <= text.length; i++) {
    const sequence = text.slice(i, i + 10);
    counts.set(sequence, (counts.get(sequence) ?? 0) + 1);
  }
  if (counts.size === 0) return 0;
  const frequencies = [...counts.values()].sort((a, b) => b - a);
  const repeatedOnes = frequencies.filter((count) => count > 1).length;
  const top = frequencies.slice(0, Math.min(Math.floor(Math.sqrt(counts.size)), repeatedOnes));
  return top.reduce((a, b) => a + b, 0) / (text.length - 9);
}

/** Share of sequences of five words that occur more than once. */
function wordRepetition(words: readonly string[]): number {
  if (words.length < 5) return 0;
  const counts = new Map<string, number>();
  for (let i = 0; i + 5 <= words.length; i++) {
    const sequence = words.slice(i, i + 5).join(' ');
    counts.set(sequence, (counts.get(sequence) ?? 0) + 1);
  }
  let again = 0;
  for (const count of counts.values()) if (count > 1) again += count;
  return again / (words.length - 4);
}

/**
 * C4's rules for lines: the end of a sentence, at least five words, no mention of JavaScript. T5 (Raffel et al., 2020),
 * 2.2.
 */
export const c4Line: TextFilter = (line) => {
  if (!/[.!?"”]$/.test(line.trim())) return 'not a sentence';
  if (wordsOf(line).length < 5) return 'fewer than 5 words';
  if (/javascript/i.test(line)) return 'javascript';
  return undefined;
};

/** C4's rules for pages, applied to the lines that remain. */
export const c4Page: TextFilter = (text) => {
  if (/lorem ipsum/i.test(text)) return 'lorem ipsum';
  if (text.includes('{')) return 'curly brace';
  if ((text.match(/[.!?]["”]?(?:\s|$)/g)?.length ?? 0) < 3) return 'fewer than 3 sentences';
  return undefined;
};
