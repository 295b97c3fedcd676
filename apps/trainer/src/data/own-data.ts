import { existsSync } from 'node:fs';
import { join } from 'node:path';
import {
  openDataset,
  QUESTIONS,
  type AugmentationConfig,
  type Dataset,
  type Document,
  type DocumentSource,
} from '@flamingo-ts/data-mixtures';
import type { Random } from '@flamingo-ts/kernels';
import { seededStream } from '@flamingo-ts/random';
import type { ShardsConfig } from './data-kinds';
import { imagesOf } from './data-check';
import { HeldOutImages } from './held-out';
import { MediaReader } from './media-reader';
import { ownQuestions, type Question } from './questions';
import {
  datasetNames,
  roundKeys,
  textIndexAt,
  type CaptionedImage,
  type DatasetName,
  type Frames,
  type MediaKey,
  type QuestionOptions,
  type Questions,
  type TrainingData,
  type ValidationSplit,
  type ViewKeys,
} from './training-data';

/**
 * The first two stages draw from this many documents of each dataset, and keep their texts in memory. The mixture uses
 * all documents, and so does the language model with `lm.packed` and a dataset `text`.
 */
const KEPT_TEXTS = 20_000;

/** Paths of a user's data, and error messages for missing parts. */
interface Sources {
  readonly datasets: Readonly<Partial<Record<DatasetName, string>>>;
  /** Dataset that the language model learns from, instead of the texts of the others. */
  readonly text?: string | undefined;
  /** Questions for few-shot evaluation. */
  readonly eval?: string | undefined;
  /** Whether a bad line is an error. Otherwise it is counted and skipped. */
  readonly isStrict: boolean;
  readonly missing: Readonly<Record<'pairs' | 'text' | 'questions', string>>;
}

export interface OwnDataOptions {
  /** Side of the square that images are fitted into. */
  readonly imageSize: number;
  /** Frames of every clip: a longer one is sampled evenly, a shorter one repeats its last frame. */
  readonly framesPerClip: number;
  /** Random changes of images that are requested as views. */
  readonly augmentation?: AugmentationConfig | undefined;
  /** Pairs to hold out: a random share of the data, or those of a dataset. */
  readonly validation?: { readonly share?: number | undefined; readonly path?: string | undefined } | undefined;
  /** Seed for selecting the documents of the first two stages, and those to hold out. */
  readonly seed: number;
}

/** A user's own data on disk: JSONL files, shards, or any other format that `openDataset` reads. */
export class OwnData implements TrainingData {
  private readonly reader: MediaReader;

  private constructor(
    private readonly sources: Sources,
    private readonly datasets: Readonly<Partial<Record<DatasetName, Dataset>>>,
    private readonly text: Dataset | undefined,
    /** Of the kept documents. */
    private readonly texts: readonly string[],
    private readonly pairs: readonly { readonly key: MediaKey; readonly words: readonly string[] }[],
    /** Media of the kept documents. */
    private readonly keys: ReadonlySet<MediaKey>,
    reader: MediaReader,
    readonly validation: ValidationSplit | undefined,
  ) {
    this.reader = reader;
  }

  /** A folder with any of `pages.jsonl`, `pairs.jsonl`, `descriptions.jsonl`, `clips.jsonl` and `eval.jsonl`. */
  static async openFolder(folder: string, options: OwnDataOptions): Promise<OwnData> {
    if (!existsSync(folder)) {
      throw new Error(`Data folder ${folder}: there is no such folder. Correct data.path in the configuration.`);
    }
    const fileOf = (name: string) => {
      const file = join(folder, name);
      return existsSync(file) ? file : undefined;
    };
    const files = datasetNames.map((name) => [name, fileOf(`${name}.jsonl`)] as const);
    const expected = (what: string) => `Data folder ${folder}: expected ${what}, got`;
    return OwnData.open(
      {
        datasets: Object.fromEntries(files.filter(([, file]) => file)) as Partial<Record<DatasetName, string>>,
        eval: fileOf(QUESTIONS),
        isStrict: true,
        missing: {
          text:
            `${expected(`text in ${datasetNames.map((name) => `${name}.jsonl`).join(', ')}`)} none. ` +
            'Write one line for each document, for example in pages.jsonl: {"parts": [{"text": "Some text."}]}.',
          pairs:
            `${expected('pairs.jsonl or descriptions.jsonl (the vision encoder learns from pairs)')} neither. ` +
            'Write one line for each image: {"image": "images/1.jpg", "text": "a red car"}.',
          questions:
            `${expected(`few-shot questions in ${QUESTIONS}`)} none. ` +
            'Write one line for each: {"image": "images/1.jpg", "answer": "red"}.',
        },
      },
      options,
    );
  }

  /** Datasets by path, and a file of questions. */
  static openShards(config: ShardsConfig, options: OwnDataOptions): Promise<OwnData> {
    const paths = datasetNames.map((name) => [name, config[name]] as const);
    return OwnData.open(
      {
        datasets: Object.fromEntries(paths.filter(([, path]) => path)) as Partial<Record<DatasetName, string>>,
        text: config.text,
        eval: config.eval,
        isStrict: false,
        missing: {
          text:
            `Config: data of kind shards has no text (text: ${config.text ?? 'not set'}), expected at least one document. ` +
            'Set a dataset, for example text: my-data/text, and check it with: flamingo data check PATH.',
          pairs:
            'Config: data must name pairs or descriptions with at least one pair (the vision encoder learns from pairs), got none. ' +
            'Add for example pairs: my-data/pairs.',
          questions:
            'Config: data.eval must name few-shot questions, got none. ' +
            'Add for example eval: my-data/eval.jsonl, with a line for each question: {"image": "images/1.jpg", "answer": "red"}.',
        },
      },
      options,
    );
  }

  private static async open(sources: Sources, options: OwnDataOptions): Promise<OwnData> {
    const { seed } = options;
    const datasets: Partial<Record<DatasetName, Dataset>> = {};
    for (const name of datasetNames) {
      const path = sources.datasets[name];
      if (path) datasets[name] = await openDataset(path);
    }
    const text = sources.text === undefined ? undefined : await openDataset(sources.text);
    const named = options.validation?.path;
    const validation = named === undefined ? undefined : await openDataset(named);
    const heldOut = options.validation && new HeldOutImages();
    const reader = new MediaReader({ ...datasets, ...(validation && { validation }) }, options, heldOut);
    const held = heldOut
      ? await holdOut(heldOut, reader, validation ? { validation } : datasets, sources, options)
      : [];
    let skipped = 0;
    const pairs: { key: MediaKey; words: string[] }[] = [];
    const texts: string[] = [];
    const keys = new Set<MediaKey>();
    for (const [name, dataset] of Object.entries({ ...datasets, ...(text && { text }) })) {
      for await (const { index, document } of someDocuments(dataset, name, sources.isStrict, seed)) {
        if (name !== 'text' && (await heldOut?.areIn(document))) {
          skipped++;
          continue;
        }
        const words = textOf(document);
        if (words !== '' && (name === 'text' || !text)) texts.push(words);
        if (name === 'text') continue;
        const media = keysOf(reader.withKeys(document, name as DatasetName, index));
        for (const key of media) keys.add(key);
        if (document.kind === 'pair' && media.length > 0) pairs.push({ key: media[0]!, words: wordsOf(words) });
      }
    }
    if (texts.length === 0) throw new Error(sources.missing.text);
    const split = { pairs: held, texts: text ? [] : held.map((pair) => pair.text), skipped };
    return new OwnData(sources, datasets, text, texts, pairs, keys, reader, heldOut && split);
  }

  get imageSize(): number {
    return this.reader.imageSize;
  }

  get skipped(): readonly string[] {
    const datasets = [...Object.values(this.datasets), ...(this.text ? [this.text] : [])];
    const broken = datasets.flatMap(({ faults }) => faults.examples);
    return [...new Set(broken.map(({ where, reason }) => `${where}: ${reason}`)), ...this.reader.skipped];
  }

  altTextVocabulary(): readonly string[] {
    if (this.pairs.length === 0) throw new Error(this.sources.missing.pairs);
    return [...new Set(this.pairs.flatMap(({ words }) => words))].sort();
  }

  altTextPair(random: Random) {
    return this.pairs[random.int(this.pairs.length)]!;
  }

  textPage(random: Random): string {
    return this.texts[random.int(this.texts.length)]!;
  }

  async textAt(place: number, seed: number): Promise<string> {
    const { text } = this;
    if (!text) return this.texts[textIndexAt(place, this.texts.length, seed)]!;
    const { length } = text;
    const index =
      text.shuffled?.(place % length, ...roundKeys(place, length, seed)) ?? textIndexAt(place, length, seed);
    const document = await text.get(index);
    return 'rejected' in document ? '' : textOf(document);
  }

  documents(dataset: DatasetName): DocumentSource | undefined {
    const source = this.datasets[dataset];
    if (!source) return undefined;
    return {
      length: source.length,
      get: (index) => this.reader.document(dataset, index),
      ...(source.shuffled && { shuffled: (place, ...keys) => source.shuffled!(place, ...keys) }),
    };
  }

  trainingImage(random: Random): MediaKey {
    return this.altTextPair(random).key;
  }

  async questions(options: QuestionOptions): Promise<Questions> {
    if (options.split !== undefined) {
      throw new Error(`eval: this data has no split ${options.split}. Remove --split.`);
    }
    const path = this.sources.eval;
    if (path === undefined) throw new Error(this.sources.missing.questions);
    const asked = await this.readQuestions(path);
    const frames = await this.frames(asked.map(({ image }) => image));
    const readable = asked.filter((_, i) => frames[i]);
    const { warnings, ...questions } = ownQuestions(path, readable, options);
    const seen = new Set(readable.map(({ image }) => image).filter((image) => this.keys.has(image))).size;
    const leak =
      `${seen} of the images in ${path} are also in the training data, so the scores say little about new images. ` +
      'Ask about images that no training file names.';
    return { ...questions, warnings: seen > 0 ? [...warnings, leak] : warnings };
  }

  frames(keys: readonly MediaKey[], views?: readonly ViewKeys[]): Promise<(Frames | undefined)[]> {
    return this.reader.frames(keys, views);
  }

  whenDispatched(): Promise<void> {
    return this.reader.whenDispatched();
  }

  close(): Promise<void> {
    return this.reader.close();
  }

  private async readQuestions(path: string): Promise<Question[]> {
    const dataset = await openDataset(path);
    const questions: Question[] = [];
    for (let index = 0; index < dataset.length; index++) {
      const document = await dataset.get(index);
      if ('rejected' in document || document.kind !== 'question') {
        const problem = 'rejected' in document ? `${document.rejected} (${document.detail})` : `a ${document.kind}`;
        throw new Error(
          `${dataset.where(index)}: expected a question, {"image": "images/1.jpg", "answer": "red"}, got ${problem}. Correct the line.`,
        );
      }
      const [image, answer] = this.reader.withKeys(document, 'eval', index).parts;
      if (image && 'media' in image && 'key' in image.media && answer && 'text' in answer) {
        questions.push({ image: image.media.key, answer: answer.text });
      }
    }
    return questions;
  }
}

/**
 * Chooses the pairs to hold out and adds their images to `heldOut`. The seed and the bytes of its image decide about a pair,
 * so it stays on its side of the split if others are added, or files renamed or packed.
 *
 * @param datasets with the pairs to choose from; all pairs of a dataset `validation`
 * @returns        the pairs in an order that the seed decides
 * @throws Error if there are fewer than two
 */
async function holdOut(
  heldOut: HeldOutImages,
  reader: MediaReader,
  datasets: Readonly<Partial<Record<DatasetName | 'validation', Dataset>>>,
  { isStrict }: Sources,
  { validation: { share = 1, path } = {}, seed }: OwnDataOptions,
): Promise<CaptionedImage[]> {
  const found: (CaptionedImage & { readonly place: number })[] = [];
  let all = 0;
  for (const [name, dataset] of Object.entries(datasets) as [DatasetName | 'validation', Dataset][]) {
    for await (const { index, document } of someDocuments(dataset, name, isStrict, seed)) {
      if (document.kind !== 'pair') continue;
      all++;
      const hash = await heldOut.hashOf(imagesOf(document)[0]!.image);
      const place = seededStream(seed, 'validation', hash).uniform();
      if (place >= share) continue;
      heldOut.add(hash);
      const text = textOf(document);
      found.push({ key: keysOf(reader.withKeys(document, name, index))[0]!, text, words: wordsOf(text), place });
    }
  }
  if (found.length < 2) {
    const where = path === undefined ? `share: ${share} must hold out` : `path: ${path} must contain`;
    throw new Error(
      `Config: validation.${where} at least 2 pairs, got ${found.length} of ${all}. ` +
        (path === undefined
          ? 'Raise it, or add pairs to the data.'
          : 'Add lines: {"image": "images/1.jpg", "text": "a red car"}.'),
    );
  }
  return found
    .sort((a, b) => a.place - b.place || (a.text < b.text ? -1 : 1))
    .map(({ key, text, words }) => ({ key, text, words }));
}

/** Up to `KEPT_TEXTS` documents of a dataset that can be read. */
async function* someDocuments(
  dataset: Dataset,
  name: string,
  isStrict: boolean,
  seed: number,
): AsyncGenerator<{ index: number; document: Document }> {
  for (let place = 0; place < Math.min(dataset.length, KEPT_TEXTS); place++) {
    const index = dataset.shuffled?.(place, seed, name, 'texts') ?? place;
    const document = await dataset.get(index);
    if (!('rejected' in document)) yield { index, document };
    else if (isStrict) {
      const detail = document.detail ? ` (${document.detail})` : '';
      throw new Error(`${dataset.where(index)}: ${document.rejected}${detail}. Correct the line.`);
    }
  }
}

/** Keys of the media of a document. */
function keysOf({ parts }: Document): MediaKey[] {
  return parts.flatMap((part) => ('media' in part && 'key' in part.media ? [part.media.key] : []));
}

function textOf({ parts }: Document): string {
  const texts = parts.map((part) => ('text' in part ? part.text : '\n'));
  return texts.join('').trim();
}

const wordsOf = (text: string) => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
