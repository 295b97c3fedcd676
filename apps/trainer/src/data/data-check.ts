import { readFile, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import {
  buildSample,
  Faults,
  ImageDecoder,
  mediaName,
  openDataset,
  readManifest,
  verifyShards,
  type BrokenDocument,
  type Dataset,
  type Document,
  type EncodedImage,
  type Fault,
  type OpenDatasetOptions,
} from '@flamingo-ts/data-mixtures';
import { seededStream } from '@flamingo-ts/random';
import { z } from 'zod';
import { wordTokenizer } from './word-tokenizer';

/** Documents whose images are decoded at a time; fewer where their bytes in memory are more than these. */
const AT_ONCE = 16;
const BYTES_AT_ONCE = 2 ** 27;
/** Images are decoded whole, whatever size comes out. */
const SIDE = 16;
const SHOWN = 10;

/** What `flamingo data check` found. */
export interface DataCheck {
  readonly path: string;
  readonly format: string;
  readonly documents: number;
  /** By kind: pages, pairs, clips. */
  readonly kinds: Readonly<Record<string, number>>;
  /** Pages without images: the language model learns from them, the mixture passes them over. */
  readonly textAlone: number;
  readonly images: number;
  /** How often each problem came. */
  readonly counts: Readonly<Record<string, number>>;
  /** The first hundred, in the order of the files. */
  readonly problems: readonly Fault[];
}

/** Reads all documents of a data set and decodes their images, as training would. */
export async function checkData(path: string, options: OpenDatasetOptions = {}): Promise<DataCheck> {
  const dataset = await openDataset(path, options);
  const problems = new Faults();
  const manifest = dataset.format === 'shards' && !path.endsWith('.tar') ? await readManifest(path) : undefined;
  for (const problem of manifest ? await verifyShards(path, manifest) : []) problems.add('shard differs', problem);
  for (const { reason, where, detail } of dataset.faults.examples) problems.add(reason, where, detail);
  if (dataset.length === 0) problems.add('no documents', path);

  const { tokenizer } = wordTokenizer();
  const kinds: Record<string, number> = {};
  let [textAlone, images] = [0, 0];
  for await (const { index, where, document, faults, unreadable } of examine(dataset)) {
    for (const { reason, where: place, detail } of faults) problems.add(reason, place, detail);
    if ('rejected' in document) continue;
    kinds[document.kind] = (kinds[document.kind] ?? 0) + 1;
    images += imagesOf(document).length;
    const sample = buildSample(document, tokenizer, { maxTokens: 256 }, seededStream(index));
    const isWhole = faults.length === 0;
    if (isWhole && isTextAlone(document)) textAlone++;
    else if ('rejected' in sample && document.kind !== 'question')
      problems.add('gives no sample', where, sample.rejected);
    for (const [{ name }, why] of unreadable) problems.add('unreadable image', where, `${name}: ${why}`);
  }
  // A data set keeps a hundred examples, and counts the rest too.
  const counts = { ...problems.counts };
  for (const [reason, count] of Object.entries(dataset.faults.counts))
    counts[reason] = Math.max(counts[reason] ?? 0, count);
  const { format, length: documents } = dataset;
  return { path, format, documents, kinds, textAlone, images, counts, problems: problems.examples };
}

/** A document as it came, and what is wrong with it. */
export interface Examined {
  readonly index: number;
  readonly where: string;
  readonly document: Document | BrokenDocument;
  /** What the data set says is broken in it. */
  readonly faults: readonly Fault[];
  /** Those of its images that cannot be decoded, and why. */
  readonly unreadable: ReadonlyMap<Image, string>;
}

/** Reads the documents of a data set in their order and decodes their images, some documents at a time. */
export async function* examine(dataset: Dataset): AsyncGenerator<Examined> {
  const decoder = new ImageDecoder({ size: SIDE, fit: 'pad', mean: [0, 0, 0], std: [1, 1, 1] });
  try {
    for (let next = 0; next < dataset.length;) {
      const group: Promise<Examined>[] = [];
      for (let bytes = 0; group.length < AT_ONCE && bytes < BYTES_AT_ONCE && next < dataset.length; next++) {
        const before = dataset.faults.examples.length;
        const document = await dataset.get(next);
        const faults = dataset.faults.examples.slice(before);
        const images = 'rejected' in document ? [] : imagesOf(document);
        bytes += images.reduce((n, { image }) => n + (typeof image === 'string' ? 0 : image.length), 0);
        const [index, where] = [next, dataset.where(next)];
        group.push(
          unreadableOf(images, where, decoder).then((unreadable) => ({ index, where, document, faults, unreadable })),
        );
      }
      yield* await Promise.all(group);
    }
  } finally {
    await decoder.close();
  }
}

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
    // The library says the same thing again, a line for each time that it met it.
    unreadable.set(image, reason.split('\n')[0]!);
  };
  await Promise.all(images.map(decode));
  return unreadable;
}

export function isTextAlone({ kind, parts }: Document): boolean {
  return (
    kind === 'page' && parts.every((part) => 'text' in part) && parts.some((part) => 'text' in part && hasText(part))
  );
}

export const hasText = ({ text }: { readonly text: string }) => text.trim() !== '';

export interface Image {
  readonly image: EncodedImage;
  readonly name: string;
}

/** The images of a document, the frames of its clips among them. */
export function imagesOf(document: Document): Image[] {
  return document.parts.flatMap((part) => {
    if (!('media' in part) || 'key' in part.media) return [];
    const { media } = part;
    const name = mediaName(media);
    if ('image' in media) return [{ image: media.image, name }];
    return media.frames.map((image, i) => ({ image, name: `${name}, frame ${i}` }));
  });
}

/** For people: the first bad place first. */
export function formatCheck({
  path,
  format,
  documents,
  kinds,
  textAlone,
  images,
  counts,
  problems,
}: DataCheck): string {
  const kindsRead = formatKinds(kinds, textAlone) || 'none readable';
  const head = `${path} (${format}): ${counted(documents, 'document')} (${kindsRead}), ${counted(images, 'image')}.`;
  const total = Object.values(counts).reduce((a, b) => a + b, 0);
  if (total === 0) return `${head} No problems.`;
  const lines = problems
    .slice(0, SHOWN)
    .map(({ where, reason, detail }) => `  ${where}: ${reason}${detail ? ` (${detail})` : ''}`);
  const sums = Object.entries(counts).map(([reason, count]) => `${reason} ${count}`);
  return [head, `${counted(total, 'problem')}: ${sums.join(', ')}. The first:`, ...lines].join('\n');
}

/** `3 pages`, `1 page`. */
export const counted = (count: number, one: string) => `${count} ${one}${count === 1 ? '' : 's'}`;

/** `3 pages, 1 of them text alone, 1 pair`. */
export function formatKinds(kinds: Readonly<Record<string, number>>, textAlone: number): string {
  const parts = Object.entries(kinds).map(
    ([kind, count]) =>
      `${counted(count, kind)}${kind === 'page' && textAlone > 0 ? `, ${textAlone} of them text alone` : ''}`,
  );
  return parts.join(', ');
}

const withDropped = z.object({ dropped: z.record(z.string(), z.number().int().min(0)) });

/**
 * What was left out when the data were made, which `flamingo data extract` and shards say in their manifests. Its counts are
 * of the whole folder, and those of extraction of pages: its pairs alone do not take them on.
 */
export async function droppedBefore(path: string): Promise<Readonly<Record<string, number>>> {
  const isFolder = (await stat(path)).isDirectory();
  if (!isFolder && basename(path) !== 'pages.jsonl') return {};
  const file = join(isFolder ? path : dirname(path), 'manifest.json');
  const text = await readFile(file, 'utf8').catch(() => undefined);
  if (text === undefined) return {};
  try {
    return withDropped.parse(JSON.parse(text)).dropped;
  } catch {
    // Somebody else's manifest, which says nothing of what was left out.
    return {};
  }
}
