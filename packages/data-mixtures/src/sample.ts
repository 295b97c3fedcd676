import type { Document, MediaRef } from './document';
import { IGNORED_LABEL, openFlamingoLabels } from './open-flamingo';
import type { RandomStream } from './random';
import { encodeText, type TextTokenizer } from './tokenizer';

/**
 * Which tokens are learned. The paper sums the likelihood over the text (eq. 2) and says nothing about marks, so:
 *
 * - `paper`: text that sees an image, the `<EOC>` and `<EOS>` after such text. Never `<BOS>`, `<image>`, text with
 *   media index 0 (it sees no image, and the frozen language model knows how to write already), nor the `<EOC>` of a
 *   image without text (it would teach to answer an image with nothing).
 * - `open-flamingo-interleaved`, `open-flamingo-pairs`: what OpenFlamingo learns from MMC4 and from LAION.
 */
export type LossRule = 'paper' | 'open-flamingo-interleaved' | 'open-flamingo-pairs';

export interface SampleOptions {
  /** Longest sequence, special tokens included. Paper: 256 for pages, 32 or 64 for pairs and clips. */
  readonly maxTokens: number;
  /** Most images of a page's sample. Paper and default: 5. */
  readonly maxMedia?: number;
  /** Probability that a page's text looks at the next image instead of the previous one. Paper and default: 0.5. */
  readonly pNext?: number;
  /** Probability that the text of a pair or clip starts with an extra space. Paper and default: 0.5. */
  readonly leadingSpace?: number;
  /** Default `paper`. */
  readonly lossRule?: LossRule;
}

/** One training sequence without padding; the four arrays run along the tokens. */
export interface Sample {
  readonly tokens: Int32Array;
  /** Which of `media` a token looks at, counted from 1; 0 for none. */
  readonly mediaIndex: Int32Array;
  /** 1 where the token is to be predicted (from the tokens before it). */
  readonly lossMask: Float32Array;
  /** The images in the order of their `<image>` tokens. */
  readonly media: readonly MediaRef[];
}

/** Why a document gave no sample; the words are what reports count. */
export interface Rejection {
  readonly rejected: 'question for evaluation' | 'no media' | 'not exactly one medium' | 'no text to learn';
}

/** @throws Error naming the option, what it must be and what came */
export function checkSampleOptions(where: string, o: SampleOptions): void {
  const fail = (name: string, expected: string, got: unknown): never => {
    throw new Error(`${where}: ${name} must be ${expected}, got ${String(got)}.`);
  };
  const { maxMedia = 5, pNext = 0.5, leadingSpace = 0.5 } = o;
  // <BOS>, <image>, one token of text and its <EOC> are the shortest sequence that teaches something.
  if (!Number.isInteger(o.maxTokens) || o.maxTokens < 4) fail('maxTokens', 'a whole number from 4', o.maxTokens);
  if (!Number.isInteger(maxMedia) || maxMedia < 1) fail('maxMedia', 'a whole number from 1', maxMedia);
  if (!(pNext >= 0 && pNext <= 1)) fail('pNext', 'a probability', pNext);
  if (!(leadingSpace >= 0 && leadingSpace <= 1)) fail('leadingSpace', 'a probability', leadingSpace);
}

/**
 * Turns a document into one training sequence.
 *
 * Pairs and clips: `<BOS><image>text<EOC><EOS>`. Pages: `<image>` where the image stood, `<EOC>` before every
 * `<image>` that something precedes and at the end, `<BOS>...<EOS>`; of a longer page a random window. A text that is
 * cut short ends without `<EOC>` and `<EOS>`, so that stopping in the middle of a sentence is never learned.
 */
export function buildSample(
  document: Document,
  tokenizer: TextTokenizer,
  options: SampleOptions,
  random: RandomStream,
): Sample | Rejection {
  const { pNext = 0.5, leadingSpace = 0.5, lossRule = 'paper' } = options;
  const isPage = document.kind === 'page';
  // Both are drawn whether they are used or not: the stream of a document does not depend on its kind.
  const looksAhead = random.uniform() < pNext && isPage;
  const addsSpace = random.uniform() < leadingSpace && !isPage;

  if (document.kind === 'question') return { rejected: 'question for evaluation' };
  const count = document.parts.filter((part) => 'media' in part).length;
  if (count === 0) return { rejected: 'no media' };
  if (!isPage && count > 1) return { rejected: 'not exactly one medium' };

  const sequence = isPage
    ? pageWindow(pageSequence(document, tokenizer), tokenizer, options, looksAhead, random)
    : pairSequence(document, tokenizer, options.maxTokens, addsSpace ? ' ' : '');
  const tokens = Int32Array.from(sequence, (item) => item.id);
  const media = sequence.flatMap((item) => item.media ?? []);
  const mediaIndex = looksAhead
    ? nextMediaIndexOf(tokens, tokenizer.special.image)
    : mediaIndexOf(tokens, tokenizer.special.image);
  const lossMask = lossMaskOf(sequence, tokens, mediaIndex, tokenizer, lossRule);
  // Without media: all stood at the window's end, where no text looks at them.
  if (media.length === 0 || !lossMask.includes(1)) return { rejected: 'no text to learn' };
  return { tokens, mediaIndex, lossMask, media };
}

/**
 * The paper's phi: for each token the number of `<image>` tokens up to and including it, 0 before the first
 * (section 2.3; that a mark belongs to its own image is OpenFlamingo's reading).
 */
export function mediaIndexOf(tokens: ArrayLike<number>, image: number): Int32Array {
  const index = new Int32Array(tokens.length);
  let seen = 0;
  for (let i = 0; i < tokens.length; i++) index[i] = tokens[i] === image ? ++seen : seen;
  return index;
}

/**
 * The index of pages whose text stands before its image (appendix A.3.2): the first image at or after the token.
 * Text after the last image keeps that one. It has no next image; 0 would show the model text that comes after a
 * image and sees none, which never happens when it is prompted, and would lose the text of every page that opens
 * with its only image.
 */
export function nextMediaIndexOf(tokens: ArrayLike<number>, image: number): Int32Array {
  const previous = mediaIndexOf(tokens, image);
  const count = previous[previous.length - 1] ?? 0;
  return previous.map((index, i) => (tokens[i] === image ? index : Math.min(index + 1, count)));
}

/** A token with what is known of it. */
interface Item {
  readonly id: number;
  /** True: the text is given, not learned. */
  readonly given?: boolean;
  readonly media?: MediaRef;
}

/** The whole page without `<BOS>`, with `<EOS>`. */
function pageSequence(document: Document, tokenizer: TextTokenizer): Item[] {
  const { image, endOfChunk, eos } = tokenizer.special;
  const items: Item[] = [];
  for (const run of textRuns(document.parts)) {
    if ('media' in run) {
      if (items.length > 0) items.push({ id: endOfChunk });
      items.push({ id: image, media: run.media });
    } else {
      for (const id of encodeText(tokenizer, run.text)) items.push({ id, given: run.given });
    }
  }
  items.push({ id: endOfChunk }, { id: eos });
  return items;
}

/** The image first, wherever the document had it, then the text. */
function pairSequence(document: Document, tokenizer: TextTokenizer, maxTokens: number, lead: string): Item[] {
  const { bos, image, endOfChunk, eos } = tokenizer.special;
  const front: Item[] = bos === undefined ? [] : [{ id: bos }];
  const marks: Item[] = [];
  const text: Item[] = [];
  for (const run of textRuns(document.parts)) {
    if ('media' in run) marks.push({ id: image, media: run.media });
    else {
      const spaced = text.length === 0 ? lead + run.text : run.text;
      for (const id of encodeText(tokenizer, spaced)) text.push({ id, given: run.given });
    }
  }
  return [...front, ...marks, ...text, { id: endOfChunk }, { id: eos }].slice(0, maxTokens);
}

type Run = { readonly media: MediaRef } | { text: string; readonly given: boolean };

/** Neighbouring texts of the same use are one text: a tokenizer may join words across the seam. */
function textRuns(parts: Document['parts']): Run[] {
  const runs: Run[] = [];
  for (const part of parts) {
    if ('media' in part) {
      runs.push(part);
      continue;
    }
    const given = part.learn === false;
    const last = runs[runs.length - 1];
    if (last && 'text' in last && last.given === given) last.text += part.text;
    else runs.push({ text: part.text, given });
  }
  return runs;
}

/**
 * A window of a page, `<BOS>` in front: drawn among those that hold an `<image>` with something after it, cut where the
 * images exceed `maxMedia`. Marks are one token each, so none is ever halved; one left without its partner is dropped.
 */
function pageWindow(
  items: readonly Item[],
  tokenizer: TextTokenizer,
  { maxTokens, maxMedia = 5 }: SampleOptions,
  looksAhead: boolean,
  random: RandomStream,
): Item[] {
  const { bos, endOfChunk } = tokenizer.special;
  const front: Item[] = bos === undefined ? [] : [{ id: bos }];
  const length = maxTokens - front.length;
  let start = 0;
  if (items.length > length) {
    const starts = windowStarts(items, length);
    start = starts[random.int(starts.length)]!;
  }
  const window = items.slice(start, start + length);
  // An <EOC> in front closes a chunk that is not in the window.
  if (start > 0 && window[0]!.id === endOfChunk) window.shift();
  return [...front, ...limitMedia(window, maxMedia, looksAhead, endOfChunk)];
}

/** Where windows of this length may start: an `<image>` lies in them and is not their last token. */
function windowStarts(items: readonly Item[], length: number): number[] {
  const starts: number[] = [];
  let next = 0;
  for (let start = 0; start <= items.length - length; start++) {
    next = Math.max(next, start);
    while (next < items.length && !items[next]!.media) next++;
    if (next < start + length - 1) starts.push(start);
  }
  return starts;
}

/** Ends a window before the first image too many, and before images at its end that no text looks at. */
function limitMedia(
  window: readonly Item[],
  maxMedia: number,
  looksAhead: boolean,
  endOfChunk: number,
): readonly Item[] {
  const places = window.flatMap((item, i) => (item.media ? [i] : []));
  // Looking ahead, the text after the last image allowed belongs to the one that is dropped.
  if (looksAhead) return places.length > maxMedia ? window.slice(0, places[maxMedia - 1]! + 1) : window;
  let end = places[maxMedia] ?? window.length;
  // Images in a row are `<image><EOC><image>`: an <EOC> right after an <image> closes a text that is not there.
  const bare = () => window[end - 1]?.media ?? (window[end - 1]?.id === endOfChunk && window[end - 2]?.media);
  while (bare()) end--;
  return window.slice(0, end);
}

function lossMaskOf(
  sequence: readonly Item[],
  tokens: Int32Array,
  mediaIndex: Int32Array,
  { special }: TextTokenizer,
  rule: LossRule,
): Float32Array {
  const mask = new Float32Array(tokens.length);
  const labels = rule === 'paper' ? undefined : openFlamingoLabels(tokens, special, rule);
  // Nothing stands before the first token that it could be predicted from.
  for (let i = 1; i < tokens.length; i++) {
    const closes = tokens[i] === special.endOfChunk || tokens[i] === special.eos;
    const learned = labels
      ? labels[i] !== IGNORED_LABEL
      : tokens[i] !== special.image && mediaIndex[i]! > 0 && (!closes || mask[i - 1] === 1);
    mask[i] = learned && !sequence[i]!.given ? 1 : 0;
  }
  return mask;
}
