import { expectMediaIndex } from '@flamingo-ts/gated-xattn';
import { expectVisual, type Visual } from './vision';

/** Training data of one step; `Batch` of data-mixtures has this form. Rows are padded on the right. */
export interface FlamingoBatch {
  /** Number of rows. */
  readonly size: number;
  /** Tokens per row. */
  readonly text: number;
  /** Token ids, row-major `[size, text]`. */
  readonly tokens: Int32Array;
  /** Weight of each token in the loss, as the token to predict, row-major `[size, text]`; 0: not counted. */
  readonly lossMask: ArrayLike<number>;
  /** Number of each token's image in its row, from 1, row-major `[size, text]`; 0: none. */
  readonly mediaIndex: ArrayLike<number>;
  /** Images, filled up with zeros in rows that have fewer than others. Absent for text alone. */
  readonly visual?: Visual;
}

/** Text and images to continue. */
export interface FlamingoPrompt {
  readonly tokens: readonly number[];
  /** One image for each `<image>` token, in order: a `Visual` without its batch axis. Absent for text alone. */
  readonly visual?: Visual;
  /** Each token's image, from 1; 0: none. Defaults to the image of the last `<image>` up to and including the token. */
  readonly mediaIndex?: ArrayLike<number>;
}

/** The parts of a batch that `encodeMedia` reads. */
export type MediaBatch = Pick<FlamingoBatch, 'text' | 'mediaIndex' | 'visual'>;

/** @throws Error if the arrays do not have the size of the batch, or a row has more `<image>` tokens than images */
export function expectBatch(what: string, batch: FlamingoBatch, image: number): void {
  const { size, text, tokens, visual } = batch;
  for (const name of ['tokens', 'lossMask', 'mediaIndex'] as const) {
    if (batch[name].length !== size * text) {
      throw new Error(
        `${what}: ${name} must hold ${size} rows x ${text} tokens = ${size * text} entries, got ${batch[name].length}. ` +
          'Pad all rows to one length.',
      );
    }
  }
  expectMediaBatch(what, batch);
  if (visual && visual.shape[0] !== size) {
    throw new Error(`${what}: visual must hold the images of ${size} rows, got ${visual.shape[0]}. Pad with zeros.`);
  }
  const media = visual?.shape[1] ?? 0;
  const counts = new Int32Array(size);
  tokens.forEach((token, i) => (counts[Math.floor(i / text)]! += token === image ? 1 : 0));
  const row = counts.findIndex((count) => count > media);
  if (row >= 0) {
    throw new Error(
      `${what}: row ${row} has ${counts[row]} <image> tokens, but visual holds ${media} images per row. ` +
        'Pass one image for each <image> token.',
    );
  }
}

/** @throws Error if the images or the media index are malformed */
export function expectMediaBatch(what: string, { mediaIndex, visual }: MediaBatch): void {
  if (visual) expectVisual(what, visual, ['batch']);
  expectMediaIndex(what, mediaIndex, visual?.shape[1] ?? 0);
}

/**
 * The image of each token of a prompt.
 *
 * @param image id of the `<image>` token
 * @throws Error if the images do not fit the prompt's `<image>` tokens, or are malformed
 */
export function promptMediaIndex({ tokens, mediaIndex, visual }: FlamingoPrompt, at: number, image: number): number[] {
  const what = `Flamingo: prompt ${at}`;
  if (visual) expectVisual(what, visual, []);
  const media = visual?.shape[0] ?? 0;
  let count = 0;
  const counted = tokens.map((token) => (token === image ? ++count : count));
  if (count !== media) {
    throw new Error(`${what} has ${count} <image> tokens but ${media} images. Pass one image for each <image> token.`);
  }
  if (!mediaIndex) return counted;
  if (mediaIndex.length !== tokens.length) {
    throw new Error(`${what} has ${tokens.length} tokens but ${mediaIndex.length} entries in mediaIndex.`);
  }
  expectMediaIndex(what, mediaIndex, media);
  return Array.from(mediaIndex);
}

/** Images of all prompts as one batch, padded with zeros; undefined if there are none. */
export function stackVisuals(prompts: readonly FlamingoPrompt[]): Visual | undefined {
  const visuals = prompts.map(({ visual }) => (visual?.shape[0] ? visual : undefined));
  const first = visuals.find((visual) => visual);
  if (!first) return undefined;
  const each = first.shape.slice(1);
  const size = each.reduce((a, b) => a * b, 1);
  const media = Math.max(...visuals.map((visual) => visual?.shape[0] ?? 0));
  const data = new Float32Array(prompts.length * media * size);
  visuals.forEach((visual, i) => {
    if (!visual) return;
    if (visual.kind !== first.kind || visual.shape.slice(1).join() !== each.join()) {
      throw new Error(
        `Flamingo: the images of prompts in one call must have one kind and size, got ${first.kind} [media, ${each.join(', ')}] ` +
          `and ${visual.kind} [${visual.shape.join(', ')}] (prompt ${i}). Make one call for each.`,
      );
    }
    data.set(visual.data, i * media * size);
  });
  return { kind: first.kind, shape: [prompts.length, media, ...each], data };
}

/** For each position, the token to predict there (the next one) and its weight. */
export function nextTokens({ tokens, lossMask, text }: FlamingoBatch): {
  targets: Int32Array;
  weights: Float32Array;
} {
  const targets = new Int32Array(tokens.length);
  const weights = new Float32Array(tokens.length);
  for (let i = 1; i < tokens.length; i++) {
    if (i % text === 0) continue; // The first token of a row is not predicted.
    targets[i - 1] = tokens[i]!;
    weights[i - 1] = lossMask[i]!;
  }
  return { targets, weights };
}
