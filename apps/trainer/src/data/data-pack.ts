import { readdir, readFile } from 'node:fs/promises';
import { resolve, sep } from 'node:path';
import {
  closeGaps,
  openDataset,
  ShardWriter,
  DocumentTooLarge,
  wordCounter,
  type Document,
  type OpenDatasetOptions,
  type TokenCounter,
} from '@flamingo-ts/data-mixtures';
import { loadTokenizer, type TokenizerJson } from '@flamingo-ts/lm-core';
import { reasonLines } from '../cli/command-text';
import {
  counted,
  droppedBefore,
  examine,
  formatKinds,
  hasText,
  isTextAlone,
  imagesOf,
  type Examined,
} from './data-check';

/** Documents between two reports of progress. */
const REPORTED = 1000;

export interface PackOptions extends OpenDatasetOptions {
  /** Folder of the shards: a new one, or an empty one. */
  readonly out: string;
  /** `tokenizer.json` that tokens are counted by; words where left out. */
  readonly tokenizer?: string;
  /** Documents of a shard, at most. */
  readonly maxDocuments?: number;
  /** Documents done, of how many. */
  readonly onProgress?: (done: number, of: number) => void;
}

/** What `flamingo data pack` wrote. */
export interface PackedData {
  readonly path: string;
  /** What it was read as. */
  readonly format: string;
  readonly out: string;
  readonly documents: number;
  /** By kind: pages, pairs, clips. */
  readonly kinds: Readonly<Record<string, number>>;
  /** Pages without images. */
  readonly textAlone: number;
  readonly images: number;
  readonly tokens: number;
  readonly tokensAre: string;
  readonly shards: number;
  readonly bytes: number;
  /** What was left out, by reason: here, and before where the data have a manifest that says so. */
  readonly dropped: Readonly<Record<string, number>>;
}

/**
 * Writes a data set of any kind as shards, in its order. What training would leave out is left out and counted: a document
 * that is broken, an image that cannot be decoded, and with it the pair or clip that it belongs to. The manifest comes
 * last, so what a stopped run leaves behind is not taken for a finished set.
 *
 * @throws Error where `out` holds anything, or no document is left
 */
export async function packData(path: string, options: PackOptions): Promise<PackedData> {
  const { out, tokenizer, maxDocuments, images, onProgress } = options;
  await expectEmpty(out);
  const tokens = tokenizer === undefined ? wordCounter : await countedBy(tokenizer);
  const dataset = await openDataset(path, { ...(images !== undefined && { images }) });
  const writer = await ShardWriter.create(out, { tokens, ...(maxDocuments !== undefined && { maxDocuments }) });
  const kinds: Record<string, number> = {};
  let [written, textAlone] = [0, 0];
  const dropped: Record<string, number> = {};
  const drop = (reason: string, count = 1) => void (dropped[reason] = (dropped[reason] ?? 0) + count);
  try {
    for await (const examined of examine(dataset)) {
      const { index, document, unreadable } = examined;
      if ((index + 1) % REPORTED === 0) onProgress?.(index + 1, dataset.length);
      if (unreadable.size > 0) drop('unreadable image', unreadable.size);
      // Those that the data set rejects are in its own counts, with the images that it misses.
      if ('rejected' in document) continue;
      if (document.kind === 'question') {
        drop('question for evaluation');
        continue;
      }
      const fit = withoutUnreadable(document, examined);
      if (typeof fit === 'string') {
        drop(fit);
        continue;
      }
      try {
        await writer.add(fit);
      } catch (error) {
        if (!(error instanceof DocumentTooLarge)) throw error;
        drop(error.reason);
        continue;
      }
      written++;
      kinds[fit.kind] = (kinds[fit.kind] ?? 0) + 1;
      if (isTextAlone(fit)) textAlone++;
    }
    for (const [reason, count] of Object.entries(dataset.faults.counts)) drop(reason, count);
    if (written === 0) {
      const why = Object.entries(dropped).map(([reason, count]) => `${reason} ${count}`);
      throw new Error(
        `${path}: expected at least one whole document, got ${dataset.length} and none of them whole` +
          `${why.length > 0 ? ` (${why.join(', ')})` : ''}. Look with: flamingo data check ${path}`,
      );
    }
    for (const [reason, count] of Object.entries(await droppedBefore(path))) drop(reason, count);
    for (const [reason, count] of Object.entries(dropped)) writer.drop(reason, count);
  } catch (error) {
    await writer.abort();
    throw error;
  }
  const manifest = await writer.close();
  return {
    path,
    format: dataset.format,
    out,
    documents: manifest.documents,
    kinds,
    textAlone,
    images: manifest.images,
    tokens: manifest.tokens,
    tokensAre: manifest.tokensAre,
    shards: manifest.shards.length,
    bytes: manifest.shards.reduce((n, shard) => n + shard.bytes, 0),
    dropped: manifest.dropped,
  };
}

/** For people. */
export function formatPacked(packed: PackedData): string {
  const { format, out, documents, kinds, textAlone, images, tokens, tokensAre, shards, bytes, dropped } = packed;
  const lines = [
    `${out}: ${counted(documents, 'document')} (${formatKinds(kinds, textAlone)}), ${counted(images, 'image')}, ` +
      `${counted(tokens, 'token')} (${tokensAre}), ` +
      `${counted(shards, 'shard')} of ${sizeOf(bytes)}.`,
  ];
  const reasons = reasonLines(dropped);
  if (reasons.length > 0) lines.push('Left out:', ...reasons);
  if (format === 'jsonl' && Object.keys(kinds).length > 1) {
    lines.push(
      'One set of several kinds. To weigh them apart in a mixture, pack each .jsonl file into a folder of its own.',
    );
  }
  return lines.join('\n');
}

const sizeOf = (bytes: number) =>
  bytes < 2 ** 20 ? `${Math.ceil(bytes / 1024)} KiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`;

/** Nothing is written over, and nothing of before is mixed in. */
async function expectEmpty(out: string): Promise<void> {
  let names: string[];
  try {
    names = await readdir(out);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw new Error(`${out}: expected a folder for the shards, got ${(error as Error).message}. Give another --out.`, {
      cause: error,
    });
  }
  if (names.length === 0) return;
  const whose = names.includes('manifest.json')
    ? ''
    : ' Where a packing was stopped its shards lie there without a manifest.';
  throw new Error(
    `${out}: expected a new or empty folder for the shards, got one with ${names.sort().slice(0, 3).join(', ')}.${whose} ` +
      'Remove it or give another --out.',
  );
}

/** Named by its folder too: every tokenizer's file is called tokenizer.json. */
async function countedBy(file: string): Promise<TokenCounter> {
  const tokenizer = loadTokenizer(JSON.parse(await readFile(file, 'utf8')) as TokenizerJson);
  const name = resolve(file).split(sep).slice(-2).join('/');
  return { name, count: (text) => tokenizer.encode(text).length };
}

/** The document with the images that training can show, or why nothing of it is left. */
function withoutUnreadable(document: Document, { unreadable, faults }: Examined): Document | string {
  const bad = new Set(Array.from(unreadable.keys(), ({ image }) => image));
  const isReadable = (part: Document['parts'][number]) =>
    'text' in part ||
    !('frames' in part.media ? part.media.frames : 'image' in part.media ? [part.media.image] : []).some((image) =>
      bad.has(image),
    );
  const parts = closeGaps(document.parts.map((part) => (isReadable(part) ? part : undefined)));
  if (!parts.some((part) => 'text' in part && hasText(part))) return 'no text';
  const fit = { ...document, parts };
  const lost = unreadable.size > 0 || faults.length > 0;
  if (imagesOf(fit).length === 0 && (lost || document.kind !== 'page')) return 'no readable image';
  return fit;
}
