import type { Document, Sample, TextTokenizer } from '../src/index';

/** Ids of the special tokens in the tests' tokenizer. */
export const BOS = 0;
export const EOS = 1;
export const PAD = 2;
export const IMAGE = 3;
export const EOC = 4;

const NAMES = ['<BOS>', '<EOS>', '<PAD>', '<image>', '<EOC>'];

/** One token per word, with its leading whitespace. Parses special tokens in text, against the contract. */
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

/** A page of texts and images, which are given by number. */
export function page(...parts: (string | number)[]): Document {
  return { kind: 'page', parts: parts.map((p) => (typeof p === 'string' ? { text: p } : { media: { key: p } })) };
}

export function asSample(result: Sample | { rejected: string }): Sample {
  if ('rejected' in result) throw new Error(`rejected: ${result.rejected}`);
  return result;
}
