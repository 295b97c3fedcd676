/**
 * How OpenFlamingo (2.0.1) builds and masks its training text, defects included, to reproduce its runs. `buildSample` uses
 * only the loss rules of this file. `openFlamingoPage` and `openFlamingoPair` spell special tokens out in the text, so a
 * caption that contains `<image>` adds an image, as in the original. Use `buildSample` for text that you do not control.
 */
import { assignMaximum } from './assignment';
import type { SpecialTokens } from './tokenizer';

const IMAGE = '<image>';
const END_OF_CHUNK = '<|endofchunk|>';

/** A page of MMC4: sentences, images, and the similarity of each image to each sentence. */
export interface ScoredPage {
  readonly sentences: readonly string[];
  /** Size of each image's stored data in bytes; null without data. */
  readonly imageBytes: readonly (number | null)[];
  /** `similarity[image][sentence]`. */
  readonly similarity: readonly (readonly number[])[];
}

export interface OpenFlamingoPageOptions {
  /** Drops pairs of image and sentence with a lower similarity. The published command uses 0.24. */
  readonly threshold: number;
  readonly minImages: number;
  readonly maxImages: number;
  readonly maxTokens: number;
  /** The tokenizer's end-of-text token as text. */
  readonly endOfText: string;
  /** Splits text into tokens. `<image>` is one token. */
  tokenize(text: string): readonly string[];
  /** Random number in [0, 1). Pages with one image are kept if it is above 0.5. */
  readonly coin: number;
}

export type OpenFlamingoPage =
  | { readonly text: string; /** Image of each of the `maxImages` slots. */ readonly imageSlots: (number | null)[] }
  | { readonly rejected: string };

/** Text and image slots of an MMC4 page. Known defect: slots are in page order, `<image>` tokens in sentence order. */
export function openFlamingoPage(page: ScoredPage, options: OpenFlamingoPageOptions): OpenFlamingoPage {
  const { threshold, minImages, maxImages, maxTokens, endOfText, tokenize, coin } = options;
  const valid = page.imageBytes.flatMap((bytes, i) => (Math.floor((bytes ?? 0) / 1000) > 10 ? [i] : []));
  if (valid.length === 0) return { rejected: 'No images in sample' };

  const pairs = assignMaximum(valid.map((i) => page.similarity[i]!))
    .map(([row, sentence]) => ({ image: valid[row]!, sentence }))
    .filter(({ image, sentence }) => !(page.similarity[image]![sentence]! < threshold))
    .slice(0, maxImages);
  if (pairs.length === 0) return { rejected: 'No images in sample' };

  const tagged = new Set(pairs.map((pair) => pair.sentence));
  const text = page.sentences
    .map((sentence, i) => (tagged.has(i) ? END_OF_CHUNK + IMAGE + sentence : sentence))
    .join(' ')
    .replace(END_OF_CHUNK, '')
    .replaceAll(' ' + END_OF_CHUNK, END_OF_CHUNK)
    .replaceAll(IMAGE + ' ', IMAGE)
    .replaceAll(' ' + IMAGE, IMAGE)
    .concat(END_OF_CHUNK, endOfText);

  const kept = tokenize(text).slice(0, maxTokens);
  const count = kept.filter((token) => token === IMAGE).length;
  if (count < minImages) return { rejected: `Fewer than ${minImages} images in sample` };
  if (count === 1 && coin <= 0.5) return { rejected: 'Only one image in sample' };
  if (count === 1 && kept.length === maxTokens && kept[maxTokens - 1] === IMAGE) {
    return { rejected: 'Only one image at the end of sample, so labels will all be -100' };
  }
  return { text, imageSlots: Array.from({ length: maxImages }, (_, slot) => pairs[slot]?.image ?? null) };
}

/** Text of a LAION pair. */
export function openFlamingoPair(caption: string, endOfText: string): string {
  return IMAGE + pythonStrip(caption) + END_OF_CHUNK + endOfText;
}

/** The label of a masked position. */
export const IGNORED_LABEL = -100;

/**
 * Labels aligned with the token ids; `IGNORED_LABEL` where the loss does not apply.
 *
 * For pairs the loss covers everything except padding and `<image>`. For interleaved pages it also excludes the tokens
 * before the first `<image>` and between an `<EOC>` and the next `<image>`, so never the final `<EOS>`. Every token with
 * the id of padding counts as padding: if `pad` equals `eos`, the loss covers no `<EOS>`.
 */
export function openFlamingoLabels(
  tokens: ArrayLike<number>,
  special: Pick<SpecialTokens, 'image' | 'endOfChunk' | 'pad'>,
  rule: 'open-flamingo-interleaved' | 'open-flamingo-pairs',
): Int32Array {
  const labels = new Int32Array(tokens.length).fill(IGNORED_LABEL);
  let inChunk = rule === 'open-flamingo-pairs';
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i]!;
    if (token === special.image) inChunk = true;
    else if (inChunk && token !== special.pad) labels[i] = token;
    if (token === special.endOfChunk && rule === 'open-flamingo-interleaved') inChunk = false;
  }
  return labels;
}

/** Python's str.strip(). Unlike JavaScript's trim() it removes four separators and NEL, but not U+FEFF. */
function pythonStrip(text: string): string {
  const space = '[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]+';
  return text.replace(new RegExp(`^${space}|${space}$`, 'g'), '');
}
