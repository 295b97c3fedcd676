import type { Document, DocumentSource } from '@flamingo-ts/data-mixtures';
import { Random } from '@flamingo-ts/kernels';
import type { DatasetName } from '../../data/training-data';
import { CLIP_ACTIONS, VARIANTS } from './images';
import { describe, nameOf, pick, imagePage } from './texts';
import type { EmojiWorld } from './world';

/** Numbers of images on a page. All pages of a batch have the same number, so that none is padded. */
const PAGE_LENGTHS = [3, 4, 5, 5, 6, 9] as const;

/** A clip: a drawing and what it does. Clips are drawn on demand. */
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
 * One of the four datasets of the mixture. They are endless: document `i` depends on the seed and `i` only.
 *
 * @param batch documents per step; all pages of a batch have the same length
 */
export function emojiDocuments(world: EmojiWorld, dataset: DatasetName, seed: number, batch: number): DocumentSource {
  const make = DOCUMENTS[dataset];
  return { length: Infinity, get: (i) => make(world, new Random(seed).fork(`${dataset} ${i}`), Math.floor(i / batch)) };
}

const DOCUMENTS: Readonly<Record<DatasetName, (world: EmojiWorld, random: Random, batch: number) => Document>> = {
  /** "<image>Output: {answer}<EOC>" for each image. All answers are to one question, which is not stated. */
  pages(world, random, batch) {
    const { images, answers } = imagePage(world, PAGE_LENGTHS[batch % PAGE_LENGTHS.length]!, random);
    const parts = images.flatMap((key, i) => [
      { media: { key } },
      { text: 'Output:', learn: false },
      { text: ` ${answers[i]}` },
    ]);
    return { kind: 'page', parts };
  },
  /** An image and its name, like noisy alt text. */
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
  /** A drawing that does something, and a sentence that describes it. */
  clips(world, random) {
    const image = pick(world.images('train'), random);
    const drawing = Math.floor(image / VARIANTS);
    const action = random.int(CLIP_ACTIONS.length);
    const text = ` The ${nameOf(world.conceptOf(image))} ${CLIP_ACTIONS[action]}.`;
    return { kind: 'clip', parts: [{ media: { key: clipKey({ drawing, action }) } }, { text }] };
  },
};
