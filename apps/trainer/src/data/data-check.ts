import { existsSync } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import {
  closeGaps,
  Faults,
  ImageDecoder,
  mediaName,
  openDataset,
  QUESTIONS,
  readManifest,
  verifyShards,
  type BrokenDocument,
  type Dataset,
  type Document,
  type EncodedImage,
  type Fault,
  type OpenDatasetOptions,
} from '@flamingo-ts/data-mixtures';
import { z } from 'zod';
import { reasonList } from '../cli/command-text';

/** Number of documents whose images are decoded at the same time, and a limit of their bytes in memory. */
const AT_ONCE = 16;
const BYTES_AT_ONCE = 2 ** 27;
/** Size that images are decoded to. Decoding reads the whole image at any size. */
const SIDE = 16;
const SHOWN = 10;
/** Problems of a dataset that remove an image from a document. */
const LOST_IMAGES = ['missing image', 'images too large', 'wrong image checksum'];

/**
 * Counts of a dataset. `data check`, `data stats` and `data pack` count the same things: documents that training can use
 * and their readable images, frames of clips included.
 */
export interface DataCounts {
  readonly documents: number;
  /** Documents by kind: page, pair, clip. */
  readonly kinds: Readonly<Record<string, number>>;
  /** Pages without images. The language model learns from them; the mixture skips them. */
  readonly textOnly: number;
  readonly images: number;
}

/** Result of `flamingo data check`. */
export interface DataCheck extends DataCounts {
  readonly path: string;
  readonly format: string;
  /** Questions for few-shot evaluation. */
  readonly questions: number;
  /** Number of problems by reason. */
  readonly counts: Readonly<Record<string, number>>;
  /** The first hundred problems in the order of the files. */
  readonly problems: readonly Fault[];
  /** Observations that are not errors. */
  readonly warnings: readonly string[];
}

/** Reads all documents of a dataset, and the `eval.jsonl` of its folder, and decodes all images. */
export async function checkData(path: string, options: OpenDatasetOptions = {}): Promise<DataCheck> {
  const dataset = await openDataset(path, options);
  const evalFile = join(path, QUESTIONS);
  const questions = existsSync(evalFile) ? await openDataset(evalFile, options) : undefined;
  const datasets = questions ? [dataset, questions] : [dataset];
  const problems = new Faults();
  const manifest = dataset.format === 'shards' && !path.endsWith('.tar') ? await readManifest(path) : undefined;
  for (const problem of manifest ? await verifyShards(path, manifest) : []) problems.add('shard differs', problem);
  for (const { reason, where, detail } of dataset.faults.examples) problems.add(reason, where, detail);
  if (dataset.length === 0) problems.add('no documents', path);

  const tally = new Tally();
  const answers: string[] = [];
  for (const part of datasets) {
    const isEval = part === questions || basename(path) === QUESTIONS;
    for await (const examined of examine(part)) {
      const { where, document, faults, unreadable } = examined;
      for (const { reason, where: place, detail } of faults) problems.add(reason, place, detail);
      for (const [{ name }, why] of unreadable) problems.add('unreadable image', where, `${name}: ${why}`);
      if ('rejected' in document) continue;
      if (document.kind === 'question') {
        answers.push(textsOf(document).join(''));
        continue;
      }
      if (isEval) {
        problems.add('not a question', where, 'expected the keys image and answer');
        continue;
      }
      const usable = usableDocument(document, examined);
      if (typeof usable === 'string') problems.add(usable, where);
      else tally.add(usable);
    }
  }
  // A dataset keeps a hundred examples of its faults, but counts all of them.
  const counts = { ...problems.counts };
  for (const [reason, count] of Object.entries(Faults.merge(datasets.map(({ faults }) => faults)).counts)) {
    counts[reason] = Math.max(counts[reason] ?? 0, count);
  }
  const warnings =
    new Set(answers).size === 1 && answers.length > 1
      ? [`All questions have the answer "${answers[0]}", so every score is 1. Add questions with other answers.`]
      : [];
  return {
    path,
    format: dataset.format,
    ...tally.counts,
    questions: answers.length,
    counts,
    problems: problems.examples,
    warnings,
  };
}

/** Counts documents that training can use, and what was dropped. */
export class Tally {
  /** Counts of what was dropped, by reason. */
  readonly dropped: Record<string, number> = {};
  private readonly kinds: Record<string, number> = {};
  private documents = 0;
  private textOnly = 0;
  private images = 0;

  add(document: Document): void {
    const images = imagesOf(document).length;
    this.documents++;
    this.kinds[document.kind] = (this.kinds[document.kind] ?? 0) + 1;
    this.images += images;
    if (images === 0) this.textOnly++;
  }

  drop(reason: string, count = 1): void {
    this.dropped[reason] = (this.dropped[reason] ?? 0) + count;
  }

  dropAll(counts: Readonly<Record<string, number>>): void {
    for (const [reason, count] of Object.entries(counts)) this.drop(reason, count);
  }

  get counts(): DataCounts {
    const { documents, kinds, textOnly, images } = this;
    return { documents, kinds: { ...kinds }, textOnly, images };
  }
}

/** A document and what is wrong with it. */
interface Examined {
  readonly index: number;
  readonly where: string;
  readonly document: Document | BrokenDocument;
  /** Faults that reading the document added to its dataset, among the dataset's first hundred. */
  readonly faults: readonly Fault[];
  /** Number of images that the document lost because its dataset could not read them. */
  readonly lostImages: number;
  /** Images that cannot be decoded, with the reason. */
  readonly unreadable: ReadonlyMap<Image, string>;
}

/**
 * Reads documents of a dataset and decodes their images, several documents at a time.
 *
 * @param order indices of the documents; defaults to all in order
 */
async function* examine(dataset: Dataset, order: Iterable<number> = indices(dataset.length)): AsyncGenerator<Examined> {
  const decoder = new ImageDecoder({ size: SIDE, fit: 'pad', mean: [0, 0, 0], std: [1, 1, 1] });
  let group: Promise<Examined>[] = [];
  let bytes = 0;
  try {
    for (const index of order) {
      const before = dataset.faults.examples.length;
      const lostBefore = lostImagesOf(dataset);
      const document = await dataset.get(index);
      const faults = dataset.faults.examples.slice(before);
      const lostImages = lostImagesOf(dataset) - lostBefore;
      const images = 'rejected' in document ? [] : imagesOf(document);
      bytes += images.reduce((n, { image }) => n + (typeof image === 'string' ? 0 : image.length), 0);
      const where = dataset.where(index);
      group.push(
        unreadableOf(images, where, decoder).then((unreadable) => ({
          ...{ index, where, document, faults, lostImages, unreadable },
        })),
      );
      if (group.length < AT_ONCE && bytes < BYTES_AT_ONCE) continue;
      yield* await Promise.all(group);
      group = [];
      bytes = 0;
    }
    yield* await Promise.all(group);
  } finally {
    await decoder.close();
  }
}

export function* indices(length: number): Generator<number> {
  for (let i = 0; i < length; i++) yield i;
}

const lostImagesOf = ({ faults: { counts } }: Dataset) =>
  LOST_IMAGES.reduce((n, reason) => n + (counts[reason] ?? 0), 0);

async function unreadableOf(
  images: readonly Image[],
  where: string,
  decoder: ImageDecoder,
): Promise<Map<Image, string>> {
  const unreadable = new Map<Image, string>();
  const decode = async (image: Image) => {
    const label = `${where}, ${image.name}`;
    if (await decoder.decodeBytes(image.image, label)) return;
    const reason = decoder.report().failures.find(({ name }) => name === label)?.reason ?? '';
    // libvips repeats the message on further lines.
    unreadable.set(image, reason.split('\n')[0]!);
  };
  await Promise.all(images.map(decode));
  return unreadable;
}

/** The document without its unreadable images, or the reason why training cannot use it. */
function usableDocument(document: Document, { unreadable, lostImages }: Examined): Document | string {
  if (document.kind === 'question') return 'question for evaluation';
  const bad = new Set(Array.from(unreadable.keys(), ({ image }) => image));
  const isReadable = (part: Document['parts'][number]) =>
    'text' in part ||
    !('frames' in part.media ? part.media.frames : 'image' in part.media ? [part.media.image] : []).some((image) =>
      bad.has(image),
    );
  const parts = closeGaps(document.parts.map((part) => (isReadable(part) ? part : undefined)));
  const usable = { ...document, parts };
  if (textsOf(usable).join('').trim() === '') return 'no text';
  const lostAny = unreadable.size > 0 || lostImages > 0;
  if (imagesOf(usable).length === 0 && (lostAny || document.kind !== 'page')) return 'no readable image';
  return usable;
}

/** Documents that training can use, without their unreadable images. Counts everything else as dropped. */
export async function* usableDocuments(
  dataset: Dataset,
  order: Iterable<number>,
  tally: Tally,
): AsyncGenerator<Document> {
  for await (const examined of examine(dataset, order)) {
    const { document, unreadable } = examined;
    if (unreadable.size > 0) tally.drop('unreadable image', unreadable.size);
    // The dataset's own counts cover rejected documents and missing images.
    if ('rejected' in document) continue;
    const usable = usableDocument(document, examined);
    if (typeof usable === 'string') tally.drop(usable);
    else yield usable;
  }
  tally.dropAll(dataset.faults.counts);
}

export function textsOf({ parts }: Document): string[] {
  return parts.flatMap((part) => ('text' in part ? [part.text] : []));
}

export interface Image {
  readonly image: EncodedImage;
  readonly name: string;
}

/** The images of a document, frames of clips included. */
export function imagesOf(document: Document): Image[] {
  return document.parts.flatMap((part) => {
    if (!('media' in part) || 'key' in part.media) return [];
    const { media } = part;
    const name = mediaName(media);
    if ('image' in media) return [{ image: media.image, name }];
    return media.frames.map((image, i) => ({ image, name: `${name}, frame ${i}` }));
  });
}

/** Formats the result for people, with the first problems. */
export function formatCheck(check: DataCheck): string {
  const { path, format, documents, questions, images, counts, problems, warnings } = check;
  const contents = [
    ...(documents > 0 || questions === 0 ? [formatCounts(check), counted(images, 'image')] : []),
    ...(questions > 0 ? [counted(questions, 'question')] : []),
  ];
  const head = `${path} (${format}): ${contents.join(', ')}.`;
  const notes = warnings.map((warning) => `Warning: ${warning}`);
  const total = Object.values(counts).reduce((a, b) => a + b, 0);
  if (total === 0) return [`${head} No problems.`, ...notes].join('\n');
  const lines = problems
    .slice(0, SHOWN)
    .map(({ where, reason, detail }) => `  ${where}: ${reason}${detail ? ` (${detail})` : ''}`);
  return [head, `${counted(total, 'problem')}: ${reasonList(counts)}. The first:`, ...lines, ...notes].join('\n');
}

/** `3 pages`, `1 page`. */
export const counted = (count: number, one: string) => `${count} ${one}${count === 1 ? '' : 's'}`;

/** `4 documents (3 pages, 1 of them text only, 1 pair)`. */
export function formatCounts({ documents, kinds, textOnly }: DataCounts): string {
  const parts = Object.entries(kinds).map(
    ([kind, count]) =>
      `${counted(count, kind)}${kind === 'page' && textOnly > 0 ? `, ${textOnly} of them text only` : ''}`,
  );
  return `${counted(documents, 'document')}${parts.length > 0 ? ` (${parts.join(', ')})` : ''}`;
}

const withDropped = z.object({ dropped: z.record(z.string(), z.number().int().min(0)) });

/**
 * Counts of what was dropped before, from the manifest of `flamingo data extract` or of shards. The counts belong to the
 * whole folder; extraction counts pages, so `pairs.jsonl` by itself has none.
 */
export async function droppedBefore(path: string): Promise<Readonly<Record<string, number>>> {
  const isFolder = (await stat(path)).isDirectory();
  if (!isFolder && basename(path) !== 'pages.jsonl') return {};
  const file = join(isFolder ? path : dirname(path), 'manifest.json');
  const bytes = await readFile(file).catch(() => undefined);
  if (bytes === undefined) return {};
  try {
    return withDropped.parse(JSON.parse(new TextDecoder().decode(bytes))).dropped;
  } catch {
    // The manifest of another program.
    return {};
  }
}
