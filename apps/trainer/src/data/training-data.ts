import { type DocumentSource } from '@flamingo-ts/data-mixtures';
import { shuffledIndex } from '@flamingo-ts/random';
import type { FewShotTask } from '@flamingo-ts/evaluation';
import type { Random } from '@flamingo-ts/kernels';

/** Names of the datasets that the mixture of the last stage can combine. */
export const datasetNames = ['pages', 'pairs', 'descriptions', 'clips'] as const;
export type DatasetName = (typeof datasetNames)[number];

/** Identifies one image or clip of the data. */
export type MediaKey = string | number;

/** Key of an image with nothing on it, for evaluation without visual information. */
export const BLANK = 'blank';

/** RGB bytes of one image or clip, `[frames, side, side, 3]`. */
export type Frames = Uint8Array;

/** Keys of a random stream that augments an image. Equal keys produce equal pixels. */
export type ViewKeys = readonly (number | string)[];

/** A source of pixels. */
export interface ImageSource {
  /** Side of the square images, in pixels. */
  readonly imageSize: number;
  /**
   * Pixels of images and clips; undefined for those that cannot be read.
   *
   * @param views for training, one for each key: augments them as configured. By default they stay as they are
   */
  frames(keys: readonly MediaKey[], views?: readonly ViewKeys[]): Promise<readonly (Frames | undefined)[]>;
}

/**
 * What happens to the images of a prompt in an evaluation:
 *
 * - `real`: nothing
 * - `blank`: all images become blank
 * - `swapped`: the query shows an image with another answer, and the old answer counts as correct
 *
 * A model that uses the images scores low on the last two.
 */
export const CONDITIONS = ['real', 'blank', 'swapped'] as const;
export type Condition = (typeof CONDITIONS)[number];

/** Which few-shot questions to ask. */
export interface QuestionOptions {
  /** Which split to ask about, if the data has several. Defaults to the first. */
  readonly split?: string | undefined;
  /** Numbers of shots to ask with. */
  readonly shots: readonly number[];
  /** Prompts per task, for data that generates its questions. */
  readonly prompts: number;
  readonly seed: number;
}

/** Few-shot questions about the data, for `flamingo eval`. */
export interface Questions {
  readonly split: string;
  /** Each question under each condition. Tasks of one condition have different names. */
  readonly tasks: readonly { readonly condition: Condition; readonly task: FewShotTask<MediaKey> }[];
  /** Problems that make the scores less meaningful. */
  readonly warnings: readonly string[];
}

/** An image and its caption. */
export interface CaptionedImage {
  readonly key: MediaKey;
  readonly text: string;
  /** Words of the text, as in alt texts. */
  readonly words: readonly string[];
}

/** Pairs that training never sees, and the stages are measured on meanwhile. */
export interface ValidationSplit {
  /** In a fixed random order. */
  readonly pairs: readonly CaptionedImage[];
  /** Texts of the pairs. None if the language model learns from a dataset of its own. */
  readonly texts: readonly string[];
  /** Number of training documents that show an image of the pairs and are skipped. */
  readonly skipped: number;
}

/** What the training stages and the evaluation need from the data. */
export interface TrainingData extends ImageSource {
  /** As configured by `validation`. */
  readonly validation?: ValidationSplit | undefined;
  /** Every word that an alt text can contain, in a fixed order. */
  altTextVocabulary(): readonly string[];
  /** A random image with the words of its alt text, for contrastive training. */
  altTextPair(random: Random): { readonly key: MediaKey; readonly words: readonly string[] };
  /** A random page of text for the language model. */
  textPage(random: Random): string;
  /** The text at a place of an endless order that contains every text once per round; empty for a broken document. */
  textAt(place: number, seed: number): Promise<string>;
  /** Documents of one dataset of the mixture, or undefined if the data has no such dataset. */
  documents(dataset: DatasetName, seed: number, batch: number): DocumentSource | undefined;
  /** A random training image, to measure the statistics of the features. */
  trainingImage(random: Random): MediaKey;
  /**
   * Few-shot questions for evaluation.
   *
   * @throws Error if there are none, or too few for the number of shots
   */
  questions(options: QuestionOptions): Promise<Questions>;
  /** Resolves once all pending requests wait only for worker threads, so that this thread may compute. */
  whenDispatched(): Promise<void>;
  /** Images that could not be read so far, and why. */
  readonly skipped: readonly string[];
  /** Stops the worker threads. */
  close(): Promise<void>;
}

/** Index among `count` texts of the one at a place of the order of `textAt`. */
export function textIndexAt(place: number, count: number, seed: number): number {
  return shuffledIndex(place % count, count, ...roundKeys(place, count, seed));
}

/** Keys that seed the order of one round through `count` texts. */
export function roundKeys(place: number, count: number, seed: number): (number | string)[] {
  return [seed, 'text', Math.floor(place / count)];
}
