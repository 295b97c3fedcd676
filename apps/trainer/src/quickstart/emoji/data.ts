import type { DocumentSource } from '@flamingo-ts/data-mixtures';
import { Random } from '@flamingo-ts/kernels';
import {
  BLANK,
  CONDITIONS,
  type DatasetName,
  type Frames,
  type MediaKey,
  type QuestionOptions,
  type Questions,
  type TrainingData,
} from '../../data/training-data';
import { SIDE } from './concepts';
import { emojiDocuments, parseClipKey } from './documents';
import { drawClip } from './images';
import { askable, attributeTask, type TaskOptions } from './tasks';
import { altText, altTextVocabulary, pick, textPage } from './texts';
import type { EmojiWorld } from './world';

/** Splits for evaluation: which concepts the questions are about, and in which styles. */
const SPLITS: Readonly<Record<string, Pick<TaskOptions, 'split' | 'style'>>> = {
  choosing: { split: 'choosing', style: 'seen' },
  heldOut: { split: 'heldOut', style: 'seen' },
  train: { split: 'train', style: 'seen' },
  unseenStyle: { split: 'heldOut', style: 'unseen' },
};

/** The emoji world as training data. The key of an image is its number; that of a clip names its drawing and action. */
export class EmojiData implements TrainingData {
  readonly imageSize = SIDE;
  readonly skipped: readonly string[] = [];

  constructor(
    readonly world: EmojiWorld,
    readonly framesPerClip: number,
  ) {}

  altTextVocabulary(): readonly string[] {
    return altTextVocabulary(this.world);
  }

  altTextPair(random: Random) {
    const key = this.trainingImage(random);
    return { key, words: altText(this.world, key, random) };
  }

  textPage(random: Random): string {
    return textPage(this.world, random);
  }

  /** Pages are generated, so the order never ends and never repeats. */
  textAt(place: number, seed: number): Promise<string> {
    return Promise.resolve(textPage(this.world, new Random(seed).fork(`text ${place}`)));
  }

  documents(dataset: DatasetName, seed: number, batch: number): DocumentSource {
    return emojiDocuments(this.world, dataset, seed, batch);
  }

  trainingImage(random: Random): number {
    return pick(this.world.images('train'), random);
  }

  questions({ split = 'choosing', prompts, seed }: QuestionOptions): Promise<Questions> {
    const where = Object.hasOwn(SPLITS, split) ? SPLITS[split] : undefined;
    if (!where || (where.style === 'unseen' && this.world.unseenStyle === undefined)) {
      const known = Object.keys(SPLITS).join(', ');
      return Promise.reject(
        new Error(
          `eval: the emoji questions have no split ${split}. Use one of ${known} (the last requires data.unseenStyle).`,
        ),
      );
    }
    const options = { ...where, prompts, seed };
    const tasks = CONDITIONS.flatMap((condition) =>
      askable(options).map((attribute) => ({
        condition,
        task: attributeTask(this.world, attribute, condition, options),
      })),
    );
    return Promise.resolve({ split, tasks, warnings: [] });
  }

  frames(keys: readonly MediaKey[]): Promise<Frames[]> {
    return Promise.resolve(keys.map((key) => this.framesOf(key)));
  }

  whenDispatched(): Promise<void> {
    return Promise.resolve();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  private framesOf(key: MediaKey): Frames {
    if (typeof key === 'number') return this.world.image(key);
    if (key === BLANK) return new Uint8Array(SIDE * SIDE * 3).fill(255);
    const { drawing, action } = parseClipKey(key);
    const frames = new Uint8Array(this.framesPerClip * SIDE * SIDE * 3);
    drawClip(this.world.drawing(drawing), action, new Random(0).fork(key), frames);
    return frames;
  }
}
