import type { Document, Sample, TextTokenizer } from '../src/index';

/** Ids of the marks in the tests' tokenizer. */
export const BOS = 0;
export const EOS = 1;
export const PAD = 2;
export const IMAGE = 3;
export const EOC = 4;

const NAMES = ['<BOS>', '<EOS>', '<PAD>', '<image>', '<EOC>'];

/** One token a word, its leading blank a part of it; the marks are words too, as careless tokenizers have it. */
export function wordTokenizer(withBos = true): TextTokenizer & { words(ids: ArrayLike<number>): string } {
  const known = [...NAMES];
  return {
    special: { image: IMAGE, endOfChunk: EOC, eos: EOS, pad: PAD, ...(withBos && { bos: BOS }) },
    encode: (text) =>
      (text.match(/<[^>]*>|\s*[^\s<]+/g) ?? []).map((word) => {
        if (!known.includes(word)) known.push(word);
        return known.indexOf(word);
      }),
    words: (ids) => Array.from(ids, (id) => known[id]).join(''),
  };
}

/** Text, and images by their number. */
export function page(...parts: (string | number)[]): Document {
  return { kind: 'page', parts: parts.map((p) => (typeof p === 'string' ? { text: p } : { media: { key: p } })) };
}

export function asSample(result: Sample | { rejected: string }): Sample {
  if ('rejected' in result) throw new Error(`rejected: ${result.rejected}`);
  return result;
}
