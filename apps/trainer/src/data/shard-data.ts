import {
  evenlySpaced,
  ImageDecoder,
  openDataset,
  PendingReads,
  type BrokenDocument,
  type Dataset,
  type Document,
  type DocumentSource,
  type EncodedImage,
} from '@flamingo-ts/data-mixtures';
import type { Random } from '@flamingo-ts/kernels';
import { OWN_PADDING, type ShardsConfig } from './data-kinds';
import {
  datasetNames,
  textInTurn,
  turnKeys,
  type DatasetName,
  type Frames,
  type MediaKey,
  type Questions,
  type TrainingData,
} from './training-data';

/**
 * The two first stages draw from so many documents of each set, whose texts are kept in memory. The mixture goes
 * through all, and so does the language model through `text` where its rows are packed.
 */
const KEPT_TEXTS = 20_000;

/**
 * Data sets on disk, by the names of the mixture. An image's key is the name of its set, the number of its document and
 * its own number there; images are read when they are asked for. What is broken is counted, named and left out.
 */
export class ShardData implements TrainingData {
  private readonly decoder: ImageDecoder;
  private readonly reading = new PendingReads();
  /** Documents on their way from the disk, and those that have just come: their images are asked for at once. */
  private readonly recent = new Map<string, Promise<Document | BrokenDocument>>();

  private constructor(
    private readonly sets: Readonly<Partial<Record<DatasetName, Dataset>>>,
    readonly imageSize: number,
    private readonly framesPerClip: number,
    private readonly images: readonly { readonly key: string; readonly words: readonly string[] }[],
    private readonly texts: readonly string[],
    /** What the language model learns from, where that is named apart from the sets of the mixture. */
    private readonly text: Dataset | undefined,
  ) {
    this.decoder = new ImageDecoder({ size: imageSize, fit: 'pad', mean: OWN_PADDING, std: [1, 1, 1] });
  }

  /**
   * @param config        paths of the sets
   * @param imageSize     side of the square that images are fitted into
   * @param framesPerClip frames that every clip has afterwards
   * @param seed          which documents the first stages draw from
   */
  static async open(config: ShardsConfig, imageSize: number, framesPerClip: number, seed: number): Promise<ShardData> {
    const sets: Partial<Record<DatasetName, Dataset>> = {};
    const images: { key: string; words: string[] }[] = [];
    const texts: string[] = [];
    let textSet: Dataset | undefined;
    for (const name of ['text', ...datasetNames] as const) {
      const path = config[name];
      if (!path) continue;
      const set = await openDataset(path);
      if (name === 'text') textSet = set;
      else sets[name] = set;
      for (let place = 0; place < Math.min(set.length, KEPT_TEXTS); place++) {
        const index = set.shuffled?.(place, seed, name, 'texts') ?? place;
        const document = await set.get(index);
        if ('rejected' in document) continue;
        const text = textOf(document);
        if (text !== '' && (name === 'text' || !textSet)) texts.push(text);
        const isPair = document.kind === 'pair' && document.parts.some((part) => 'media' in part);
        if (isPair && name !== 'text') images.push({ key: keyOf(name, index, 0), words: wordsOf(text) });
      }
    }
    const paths = [config.pairs, config.descriptions].filter(Boolean).join(' and ');
    if (paths !== '' && images.length === 0) {
      throw new Error(`Data: ${paths} gave no pair of image and text. Look with: flamingo data check PATH.`);
    }
    if (texts.length === 0) {
      throw new Error(
        `Config: data of kind shards gave no text (text: ${config.text ?? 'not named'}), expected at least one document. ` +
          'Name a set, for example text: my-data/text, and look with: flamingo data check PATH.',
      );
    }
    return new ShardData(sets, imageSize, framesPerClip, images, texts, textSet);
  }

  get skipped(): readonly string[] {
    const sets = [...Object.values(this.sets), ...(this.text ? [this.text] : [])];
    const broken = sets.flatMap((set) => set.faults.examples);
    const unreadable = this.decoder.report().failures;
    return [
      ...new Set(broken.map((fault) => `${fault.where}: ${fault.reason}`)),
      ...new Set(unreadable.map((failure) => `${failure.name}: ${failure.reason}`)),
    ];
  }

  altTextVocabulary(): readonly string[] {
    if (this.images.length === 0) {
      throw new Error(
        'Config: data must name pairs or descriptions (the vision encoder learns from pairs), got neither. ' +
          'Add for example pairs: my-data/pairs.',
      );
    }
    return [...new Set(this.images.flatMap((image) => image.words))].sort();
  }

  altTextPair(random: Random) {
    return this.images[random.int(this.images.length)]!;
  }

  textPage(random: Random): string {
    return this.texts[random.int(this.texts.length)]!;
  }

  async textAt(place: number, seed: number): Promise<string> {
    const { text } = this;
    if (!text) return this.texts[textInTurn(place, this.texts.length, seed)]!;
    const { length } = text;
    const index = text.shuffled?.(place % length, ...turnKeys(place, length, seed)) ?? textInTurn(place, length, seed);
    const document = await text.get(index);
    return 'rejected' in document ? '' : textOf(document);
  }

  documents(dataset: DatasetName): DocumentSource | undefined {
    const set = this.sets[dataset];
    if (!set) return undefined;
    return {
      length: set.length,
      get: async (index) => {
        const document = await this.read(dataset, index);
        return 'rejected' in document ? document : withKeys(document, dataset, index);
      },
      ...(set.shuffled && { shuffled: (place, ...keys) => set.shuffled!(place, ...keys) }),
    };
  }

  trainingImage(random: Random): MediaKey {
    return this.altTextPair(random).key;
  }

  frames(keys: readonly MediaKey[]): Promise<(Frames | undefined)[]> {
    return Promise.all(keys.map((key) => this.framesOf(String(key))));
  }

  questions(): Promise<Questions> {
    return Promise.reject(new Error('eval: data of kind shards has no questions.'));
  }

  settled(): Promise<void> {
    return this.reading.settled();
  }

  close(): Promise<void> {
    return this.decoder.close();
  }

  private read(dataset: DatasetName, index: number): Promise<Document | BrokenDocument> {
    const name = `${dataset} ${index}`;
    const known = this.recent.get(name);
    if (known) return known;
    const document = this.reading.add(this.sets[dataset]!.get(index));
    this.recent.set(name, document);
    const forget = () => void setImmediate(() => this.recent.delete(name));
    document.then(forget, forget);
    return document;
  }

  private async framesOf(key: string): Promise<Frames | undefined> {
    const [name, index, number] = key.split(' ') as [DatasetName, string, string];
    const document = await this.read(name, Number(index));
    const images = 'rejected' in document ? [] : imagesOf(document, Number(number));
    if (images.length === 0) return undefined;
    const count = name === 'clips' ? this.framesPerClip : 1;
    const chosen = evenlySpaced(images.length, count);
    const where = `${this.sets[name]!.where(Number(index))}, image ${number}`;
    const decoded = await Promise.all(chosen.map((i) => this.decoder.decodeBytes(images[i]!, where)));
    if (decoded.includes(undefined)) return undefined;
    if (count === 1) return decoded[0];
    return Buffer.concat(Array.from({ length: count }, (_, i) => decoded[Math.min(i, decoded.length - 1)]!));
  }
}

const keyOf = (dataset: DatasetName, index: number, number: number) => `${dataset} ${index} ${number}`;

/** The document with the keys of its images in their place. */
function withKeys(document: Document, dataset: DatasetName, index: number): Document {
  let number = 0;
  const parts = document.parts.map((part) =>
    'media' in part ? { media: { key: keyOf(dataset, index, number++) } } : part,
  );
  return { kind: document.kind, parts };
}

/** The frames of a document's image or clip of this number. */
function imagesOf(document: Document, number: number): readonly EncodedImage[] {
  const media = document.parts.flatMap((part) => ('media' in part ? [part.media] : []))[number];
  if (!media || 'key' in media) return [];
  return 'image' in media ? [media.image] : media.frames;
}

function textOf({ parts }: Document): string {
  const texts = parts.map((part) => ('text' in part ? part.text : '\n'));
  return texts.join('').trim();
}

const wordsOf = (text: string) => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
