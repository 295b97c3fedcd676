import {
  drawAugmentation,
  evenlySpaced,
  ImageDecoder,
  mediaName,
  PendingReads,
  type AugmentationConfig,
  type BrokenDocument,
  type Dataset,
  type Document,
  type EncodedImage,
  type Augmentation,
  type MediaRef,
} from '@flamingo-ts/data-mixtures';
import { seededStream } from '@flamingo-ts/random';
import { GRAY_PADDING } from './data-kinds';
import type { HeldOutImages } from './held-out';
import { BLANK, type DatasetName, type Frames, type ImageSource, type MediaKey, type ViewKeys } from './training-data';

const FILE = 'file:';

/** A dataset that images can come from. */
type SourceName = DatasetName | 'validation';

export interface MediaReaderOptions {
  /** Side of the square that images are fitted into. */
  readonly imageSize: number;
  /** Frames of every clip. */
  readonly framesPerClip: number;
  /** Random changes of images that are requested as views. */
  readonly augmentation?: AugmentationConfig | undefined;
}

/**
 * Reads documents of datasets on disk and decodes their images on demand. The key of an image file is its path, so that
 * documents share it. The key of any other image or clip names its document and its position there.
 * Unreadable images are recorded and not decoded again.
 */
export class MediaReader implements ImageSource {
  readonly imageSize: number;
  private readonly decoder: ImageDecoder;
  private readonly reads = new PendingReads();
  /** Documents being read or just read, because their images are requested next. */
  private readonly recent = new Map<string, Promise<Document | BrokenDocument>>();
  /** Names of image files in the data, by path. */
  private readonly fileNames = new Map<string, string>();
  /** Why each unreadable image failed, by image name. */
  private readonly unreadable = new Map<string, string>();

  constructor(
    private readonly datasets: Readonly<Partial<Record<SourceName, Dataset>>>,
    private readonly options: MediaReaderOptions,
    private readonly heldOut?: HeldOutImages,
  ) {
    this.imageSize = options.imageSize;
    this.decoder = new ImageDecoder({ size: this.imageSize, fit: 'pad', mean: GRAY_PADDING, std: [1, 1, 1] });
  }

  /** Images that could not be read so far, and why. */
  get skipped(): readonly string[] {
    return Array.from(this.unreadable, ([name, reason]) => `${name}: ${reason}`);
  }

  /** Reads a document for training and replaces its media with keys. */
  async document(dataset: DatasetName, index: number): Promise<Document | BrokenDocument> {
    const document = await this.read(dataset, index);
    if ('rejected' in document) return document;
    const isHeldOut = this.heldOut && (await this.reads.add(this.heldOut.areIn(document)));
    return isHeldOut ? { rejected: 'held out for validation' } : this.withKeys(document, dataset, index);
  }

  /** A copy of the document whose media are replaced with keys. `dataset` and `index` are not used if all images are files. */
  withKeys({ kind, parts }: Document, dataset: SourceName | 'eval', index: number): Document {
    let number = 0;
    return {
      kind,
      parts: parts.map((part) =>
        'media' in part ? { media: { key: this.keyOf(part.media, dataset, index, number++) } } : part,
      ),
    };
  }

  frames(keys: readonly MediaKey[], views?: readonly ViewKeys[]): Promise<(Frames | undefined)[]> {
    const { augmentation } = this.options;
    const augmentationOf = (i: number) =>
      augmentation && views && drawAugmentation(augmentation, seededStream(...views[i]!));
    return Promise.all(keys.map((key, i) => this.framesOf(String(key), augmentationOf(i))));
  }

  whenDispatched(): Promise<void> {
    return this.reads.whenDone();
  }

  close(): Promise<void> {
    return this.decoder.close();
  }

  private keyOf(media: MediaRef, dataset: string, index: number, number: number): string {
    if (!('image' in media) || typeof media.image !== 'string') return `${dataset} ${index} ${number}`;
    this.fileNames.set(media.image, mediaName(media));
    return `${FILE}${media.image}`;
  }

  private read(dataset: SourceName, index: number): Promise<Document | BrokenDocument> {
    const name = `${dataset} ${index}`;
    const known = this.recent.get(name);
    if (known) return known;
    const document = this.reads.add(this.datasets[dataset]!.get(index));
    this.recent.set(name, document);
    const forget = () => void setImmediate(() => this.recent.delete(name));
    document.then(forget, forget);
    return document;
  }

  private async framesOf(key: string, augmentation?: Augmentation): Promise<Frames | undefined> {
    if (key === BLANK) return new Uint8Array(this.imageSize ** 2 * 3).fill(Math.round(255 * GRAY_PADDING[0]));
    if (key.startsWith(FILE)) {
      const path = key.slice(FILE.length);
      return this.decode(path, this.fileNames.get(path) ?? path, augmentation);
    }
    const [name, index, number] = key.split(' ') as [SourceName, string, string];
    const document = await this.read(name, Number(index));
    const media = 'rejected' in document ? [] : document.parts.flatMap((part) => ('media' in part ? [part.media] : []));
    const images = imagesOf(media[Number(number)]);
    if (images.length === 0) return undefined;
    const count = name === 'clips' ? this.options.framesPerClip : 1;
    const where = `${this.datasets[name]!.where(Number(index))}, image ${number}`;
    const chosen = evenlySpaced(images.length, count);
    const decoded = await Promise.all(
      // All frames of a clip are augmented alike.
      chosen.map((i) => this.decode(images[i]!, images.length > 1 ? `${where}, frame ${i}` : where, augmentation)),
    );
    if (decoded.includes(undefined)) return undefined;
    // A clip with fewer frames repeats the last.
    const frames = Array.from({ length: count }, (_, i) => decoded[Math.min(i, decoded.length - 1)]!);
    return count === 1 ? frames[0] : Buffer.concat(frames);
  }

  private async decode(
    image: EncodedImage,
    name: string,
    augmentation?: Augmentation,
  ): Promise<Uint8Array | undefined> {
    if (this.unreadable.has(name)) return undefined;
    const pixels = await this.decoder.decodeBytes(image, name, augmentation);
    if (!pixels) {
      const failure = this.decoder.report().failures.find((failed) => failed.name === name);
      this.unreadable.set(name, failure?.reason ?? 'cannot be decoded');
    }
    return pixels;
  }
}

/** The frames of a clip, or a single image. */
function imagesOf(media: MediaRef | undefined): readonly EncodedImage[] {
  if (!media || 'key' in media) return [];
  return 'image' in media ? [media.image] : media.frames;
}
