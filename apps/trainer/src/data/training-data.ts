import { shuffledIndex, type DocumentSource } from '@flamingo-ts/data-mixtures';
import type { Random } from '@flamingo-ts/kernels';
import type { DatasetName } from '../config/config';

/** Names one image or clip of a data set. */
export type MediaKey = string | number;

/** RGB bytes of one image or clip, `[frames, side, side, 3]`. */
export type Frames = Uint8Array;

/** Where pixels come from. */
export interface ImageSource {
  /** Side of the square images. */
  readonly imageSize: number;
  /** Pixels of images and clips; undefined where one cannot be read. */
  frames(keys: readonly MediaKey[]): Promise<readonly (Frames | undefined)[]>;
}

/** What the stages of the training need of a data set; the emoji world and a folder of one's own both offer it. */
export interface TrainingData extends ImageSource {
  /** Every word an alt text can hold, in a fixed order. */
  altTextVocabulary(): readonly string[];
  /** An image for the contrastive stage with the words of its alt text. */
  altTextPair(random: Random): { readonly key: MediaKey; readonly words: readonly string[] };
  /** One page of text for the language stage. */
  textPage(random: Random): string;
  /** The text at a place of an endless order, in which every text comes once before any comes again; empty where there is none. */
  textAt(place: number, seed: number): Promise<string>;
  /** The documents of one data set of the mixture, or undefined where there is none of that name. */
  documents(dataset: DatasetName, seed: number, batch: number): DocumentSource | undefined;
  /** A training image, for the statistics of the features. */
  trainingImage(random: Random): MediaKey;
  /** Resolves once everything asked for so far waits for workers alone, and this thread may compute. */
  settled(): Promise<void>;
  /** Images that could not be read so far, and why. */
  readonly skipped: readonly string[];
  /** Ends workers. */
  close(): Promise<void>;
}

/** Which of so many texts stands at a place of the endless order of `textAt`. */
export function textInTurn(place: number, count: number, seed: number): number {
  return shuffledIndex(place % count, count, ...turnKeys(place, count, seed));
}

/** What seeds the order of a turn through so many texts. */
export function turnKeys(place: number, count: number, seed: number): (number | string)[] {
  return [seed, 'text', Math.floor(place / count)];
}
