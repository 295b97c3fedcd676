import type { Document, DocumentSource } from '@flamingo-ts/data-mixtures';
import { Random } from '@flamingo-ts/kernels';
import type { DatasetName } from '../../data/training-data';
import { CLIP_ACTIONS, VARIANTS } from './images';
import { describe, nameOf, pick, imagePage } from './texts';
import type { EmojiWorld } from './world';

/** Images on a page; all pages of one batch have the same number, so that none is padded. */
const PAGE_LENGTHS = [3, 4, 5, 5, 6, 9] as const;

/** Clips are named by their drawing and what happens in them, and drawn when they are asked for. */
export interface ClipKey {
  readonly drawing: number;
  readonly action: number;
}

export function clipKey({ drawing, action }: ClipKey): string {
  return `clip ${drawing} ${action}`;
}

export function parseClipKey(key: string): ClipKey {
  const [, drawing, action] = key.split(' ').map(Number);
  return { drawing: drawing!, action: action! };
}

/**
 * The four data sets of the mixture, endless: document `i` is made from the seed and `i` alone.
 *
 * @param batch documents per step of the data set, so that a batch of pages has one length
 */
export function emojiDocuments(world: EmojiWorld, dataset: DatasetName, seed: number, batch: number): DocumentSource {
  const make = DOCUMENTS[dataset];
  return { length: Infinity, get: (i) => make(world, new Random(seed).fork(`${dataset} ${i}`), Math.floor(i / batch)) };
}

const DOCUMENTS: Readonly<Record<DatasetName, (world: EmojiWorld, random: Random, batch: number) => Document>> = {
  /** "<image>Output: {answer}<EOC>" for each image; one question throughout, told by the answers alone. */
  pages(world, random, batch) {
    const { images, answers } = imagePage(world, PAGE_LENGTHS[batch % PAGE_LENGTHS.length]!, random);
    const parts = images.flatMap((key, i) => [
      { media: { key } },
      { text: 'Output:', learn: false },
      { text: ` ${answers[i]}` },
    ]);
    return { kind: 'page', parts };
  },
  /** An image and its name alone, as noisy alt text has it. */
  pairs(world, random) {
    const key = pick(world.images('train'), random);
    return {
      kind: 'pair',
      parts: [{ media: { key } }, { text: 'Output:', learn: false }, { text: ` ${nameOf(world.conceptOf(key))}` }],
    };
  },
  descriptions(world, random) {
    const key = pick(world.images('train'), random);
    return { kind: 'pair', parts: [{ media: { key } }, { text: ` ${describe(world, key, random)}` }] };
  },
  /** A drawing that does something, and a sentence that says what. */
  clips(world, random) {
    const image = pick(world.images('train'), random);
    const drawing = Math.floor(image / VARIANTS);
    const action = random.int(CLIP_ACTIONS.length);
    const text = ` The ${nameOf(world.conceptOf(image))} ${CLIP_ACTIONS[action]}.`;
    return { kind: 'clip', parts: [{ media: { key: clipKey({ drawing, action }) } }, { text }] };
  },
};
