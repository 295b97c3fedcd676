import { expectOneOf, expectProbability, expectWhole } from './checks';
import type { Document, MediaRef } from './document';
import { IGNORED_LABEL, openFlamingoLabels } from './open-flamingo';
import type { RandomStream } from '@flamingo-ts/random';
import { encodeText, type TextTokenizer } from './tokenizer';

const LOSS_RULES = ['paper', 'open-flamingo-interleaved', 'open-flamingo-pairs'] as const;

/**
 * Which tokens the loss covers. The paper sums the likelihood over the text (eq. 2) and does not mention special tokens:
 *
 * - `paper`: text that attends to an image, and the `<EOC>` and `<EOS>` after such text. Not covered: `<BOS>`, `<image>`,
 *   text with media index 0 (it attends to no image, and the frozen language model has already learned text), and the `<EOC>`
 *   of an image without text (it would teach the model to answer an image with nothing).
 * - `open-flamingo-interleaved`, `open-flamingo-pairs`: the rules of OpenFlamingo for MMC4 and for LAION.
 */
export type LossRule = (typeof LOSS_RULES)[number];

export interface SampleOptions {
  /** Maximum length of a sequence, special tokens included. Paper: 256 for pages, 32 or 64 for pairs and clips. */
  readonly maxTokens: number;
  /** Maximum number of images in the sample of a page. Paper and default: 5. */
  readonly maxMedia?: number;
  /** Probability that the text of a page attends to the next image instead of the previous one. Paper and default: 0.5. */
  readonly pNext?: number;
  /** Probability that the text of a pair or clip starts with an extra space. Paper and default: 0.5. */
  readonly leadingSpace?: number;
  /** Defaults to `paper`. */
  readonly lossRule?: LossRule;
}

/** One training sequence without padding. The three arrays have one entry per token. */
export interface Sample {
  readonly tokens: Int32Array;
  /** The 1-based number of the medium that a token attends to; 0 for none. */
  readonly mediaIndex: Int32Array;
  /** 1 if the loss covers the prediction of this token from the tokens before it. */
  readonly lossMask: Float32Array;
  /** The media in the order of their `<image>` tokens. */
  readonly media: readonly MediaRef[];
}

/** Why a document yields no sample. Reports count equal reasons. */
export interface Rejection {
  readonly rejected: 'question for evaluation' | 'no media' | 'not exactly one medium' | 'no text to learn';
}

/** @throws Error naming the option, the expected range and the value */
export function checkSampleOptions(where: string, options: SampleOptions): void {
  const { maxTokens, maxMedia = 5, pNext = 0.5, leadingSpace = 0.5, lossRule = 'paper' } = options;
  // The shortest useful sequence is <BOS>, <image>, one token of text and its <EOC>.
  expectWhole(`${where}: maxTokens`, maxTokens, 4);
  expectWhole(`${where}: maxMedia`, maxMedia, 1);
  expectProbability(`${where}: pNext`, pNext);
  expectProbability(`${where}: leadingSpace`, leadingSpace);
  expectOneOf(`${where}: lossRule`, lossRule, LOSS_RULES);
}

/**
 * Converts a document to one training sequence.
 *
 * Pairs and clips: `<BOS><image>text<EOC><EOS>`. Pages: `<BOS>...<EOS>` with `<image>` at the position of each image, and
 * `<EOC>` at the end and before every `<image>` that is not the first item. A page longer than `maxTokens` gives a random
 * window. Truncated text ends without `<EOC>` and `<EOS>`, so that the model never learns to stop in mid-sentence.
 *
 * @throws Error if an option is out of range
 */
export function buildSample(
  document: Document,
  tokenizer: TextTokenizer,
  options: SampleOptions,
  random: RandomStream,
): Sample | Rejection {
  checkSampleOptions('buildSample', options);
  const { pNext = 0.5, leadingSpace = 0.5, lossRule = 'paper' } = options;
  const isPage = document.kind === 'page';
  // Draws both even if unused, so that the random stream does not depend on the kind of document.
  const looksAhead = random.uniform() < pNext && isPage;
  const addsSpace = random.uniform() < leadingSpace && !isPage;

  expectOneOf('buildSample: document.kind', document.kind, ['page', 'pair', 'clip', 'question']);
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
  // Without media: all of them were at the end of the window, where no text attends to them.
  if (media.length === 0 || !lossMask.includes(1)) return { rejected: 'no text to learn' };
  return { tokens, mediaIndex, lossMask, media };
}

/**
 * Phi in the paper: for each token the number of `<image>` tokens up to and including it, 0 before the first
 * (section 2.3). An `<image>` token belongs to its own image, as in OpenFlamingo.
 */
export function mediaIndexOf(tokens: ArrayLike<number>, image: number): Int32Array {
  const index = new Int32Array(tokens.length);
  let seen = 0;
  for (let i = 0; i < tokens.length; i++) index[i] = tokens[i] === image ? ++seen : seen;
  return index;
}

/**
 * The index of pages whose text precedes its image (appendix A.3.2): the first image at or after the token. Text after
 * the last image attends to that one. With 0, the model would see text after an image that attends to no image, which
 * never occurs in prompts, and a page that starts with its only image would lose all its text.
 */
export function nextMediaIndexOf(tokens: ArrayLike<number>, image: number): Int32Array {
  const previous = mediaIndexOf(tokens, image);
  const count = previous[previous.length - 1] ?? 0;
  return previous.map((index, i) => (tokens[i] === image ? index : Math.min(index + 1, count)));
}

/** A token of a sequence under construction. */
interface Item {
  readonly id: number;
  /** Whether the text is given, so that the loss does not cover it. */
  readonly given?: boolean;
  readonly media?: MediaRef;
}

/** The whole page with `<EOS>` but without `<BOS>`. */
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

/** The image first, wherever it is in the document, then the text. */
function pairSequence(document: Document, tokenizer: TextTokenizer, maxTokens: number, lead: string): Item[] {
  const { bos, image, endOfChunk, eos } = tokenizer.special;
  const front: Item[] = bos === undefined ? [] : [{ id: bos }];
  const images: Item[] = [];
  const text: Item[] = [];
  for (const run of textRuns(document.parts)) {
    if ('media' in run) images.push({ id: image, media: run.media });
    else {
      const spaced = text.length === 0 ? lead + run.text : run.text;
      for (const id of encodeText(tokenizer, spaced)) text.push({ id, given: run.given });
    }
  }
  return [...front, ...images, ...text, { id: endOfChunk }, { id: eos }].slice(0, maxTokens);
}

type Run = { readonly media: MediaRef } | { text: string; readonly given: boolean };

/** Joins adjacent texts, because a tokenizer may merge characters across the boundary. */
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
 * Draws a window of a page from those that contain an `<image>` with something after it, and puts `<BOS>` first. Ends it
 * before the images exceed `maxMedia`. Drops special tokens whose counterpart is outside the window.
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
  // A leading <EOC> closes a chunk that is not in the window.
  if (start > 0 && window[0]!.id === endOfChunk) window.shift();
  return [...front, ...limitMedia(window, maxMedia, looksAhead, endOfChunk)];
}

/** Starts of the windows of this length that contain an `<image>` before their last token. */
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

/** Ends a window before the first image beyond the limit, and before images at its end that no text attends to. */
function limitMedia(
  window: readonly Item[],
  maxMedia: number,
  looksAhead: boolean,
  endOfChunk: number,
): readonly Item[] {
  const positions = window.flatMap((item, i) => (item.media ? [i] : []));
  // When looking ahead, the text after the last allowed image attends to a dropped one.
  if (looksAhead) return positions.length > maxMedia ? window.slice(0, positions[maxMedia - 1]! + 1) : window;
  let end = positions[maxMedia] ?? window.length;
  // Adjacent images are `<image><EOC><image>`. An <EOC> right after an <image> closes an empty text.
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
  // The first token has no predecessor to predict it from.
  for (let i = 1; i < tokens.length; i++) {
    const closes = tokens[i] === special.endOfChunk || tokens[i] === special.eos;
    const learned = labels
      ? labels[i] !== IGNORED_LABEL
      : tokens[i] !== special.image && mediaIndex[i]! > 0 && (!closes || mask[i - 1] === 1);
    mask[i] = learned && !sequence[i]!.given ? 1 : 0;
  }
  return mask;
}
