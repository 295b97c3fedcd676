import type { DocumentSource } from '@flamingo-ts/data-mixtures';
import { Random } from '@flamingo-ts/kernels';
import type { DatasetName } from '../../config/config';
import type { Frames, MediaKey, TrainingData } from '../../data/training-data';
import { emojiDocuments, parseClipKey } from './documents';
import { drawClip, SIDE } from './images';
import { BLANK } from './tasks';
import { altText, altTextVocabulary, pick, textPage } from './texts';
import type { EmojiWorld } from './world';

/** The emoji world as training data. An image's key is its number; a clip's names its drawing and action. */
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

  /** Pages are drawn: there is no end to them. */
  textAt(place: number, seed: number): Promise<string> {
    return Promise.resolve(textPage(this.world, new Random(seed).fork(`text ${place}`)));
  }

  documents(dataset: DatasetName, seed: number, batch: number): DocumentSource {
    return emojiDocuments(this.world, dataset, seed, batch);
  }

  trainingImage(random: Random): number {
    return pick(this.world.images('train'), random);
  }

  frames(keys: readonly MediaKey[]): Promise<Frames[]> {
    return Promise.resolve(keys.map((key) => this.framesOf(key)));
  }

  settled(): Promise<void> {
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
