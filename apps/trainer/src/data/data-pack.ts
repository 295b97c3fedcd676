import { readdir } from 'node:fs/promises';
import { resolve, sep } from 'node:path';
import {
  DocumentTooLarge,
  openDataset,
  ShardWriter,
  wordCounter,
  type Dataset,
  type OpenDatasetOptions,
  type TokenCounter,
} from '@flamingo-ts/data-mixtures';
import { loadTokenizer } from '@flamingo-ts/lm-core';
import { reasonLines, reasonList } from '../cli/command-text';
import { counted, droppedBefore, formatCounts, indices, Tally, usableDocuments, type DataCounts } from './data-check';
import { readTokenizerJson } from './word-tokenizer';

/** Documents between two progress reports. */
const REPORT_EVERY = 1000;

export interface PackOptions extends OpenDatasetOptions {
  /** Folder for the shards. Must be new or empty. */
  readonly out: string;
  /** `tokenizer.json` to count tokens with. Defaults to counting words. */
  readonly tokenizer?: string;
  /** Maximum number of documents per shard. */
  readonly maxDocuments?: number;
  readonly onProgress?: (done: number, total: number) => void;
}

/** Result of `flamingo data pack`. */
export interface PackedData extends DataCounts {
  readonly path: string;
  /** Format of the input. */
  readonly format: string;
  readonly out: string;
  readonly tokens: number;
  /** Name of the tokenizer that counted `tokens`. */
  readonly tokensAre: string;
  readonly shards: number;
  readonly bytes: number;
  /** What was dropped, by reason: here, and earlier according to the manifest of the input. */
  readonly dropped: Readonly<Record<string, number>>;
}

/**
 * Writes a dataset of any format as shards. Drops and counts what training would skip: broken documents, unreadable
 * images, and pairs and clips with an unreadable image. Keeps the order of the documents, except that documents move next
 * to the first one with the same image file, so that their shard stores it once. Writes the manifest last, so that an
 * interrupted run is not mistaken for a finished dataset.
 *
 * @throws Error if `out` is not empty, or if no document is left
 */
export async function packData(path: string, options: PackOptions): Promise<PackedData> {
  const { out, tokenizer, maxDocuments, images, onProgress } = options;
  await expectEmpty(out);
  const tokens = tokenizer === undefined ? wordCounter : countedBy(tokenizer);
  const dataset = await openDataset(path, { ...(images !== undefined && { images }) });
  const writer = await ShardWriter.create(out, { tokens, ...(maxDocuments !== undefined && { maxDocuments }) });
  const tally = new Tally();
  try {
    const order = reported(await orderBySharedImages(dataset), dataset.length, onProgress);
    for await (const document of usableDocuments(dataset, order, tally)) {
      try {
        await writer.add(document);
      } catch (error) {
        if (!(error instanceof DocumentTooLarge)) throw error;
        tally.drop(error.reason);
        continue;
      }
      tally.add(document);
    }
    if (tally.counts.documents === 0) {
      const why = reasonList(tally.dropped);
      throw new Error(
        `${path}: expected at least one document to pack, got ${dataset.length} and none of them usable` +
          `${why ? `: ${why}` : ''}. Run: flamingo data check ${path}`,
      );
    }
    tally.dropAll(await droppedBefore(path));
    for (const [reason, count] of Object.entries(tally.dropped)) writer.drop(reason, count);
  } catch (error) {
    await writer.abort();
    throw error;
  }
  const manifest = await writer.close();
  return {
    path,
    format: dataset.format,
    out,
    ...tally.counts,
    tokens: manifest.tokens,
    tokensAre: manifest.tokensAre,
    shards: manifest.shards.length,
    bytes: manifest.shards.reduce((n, shard) => n + shard.bytes, 0),
    dropped: manifest.dropped,
  };
}

/** The indices of a dataset, each moved behind the first document that has the same first image file. */
async function orderBySharedImages(dataset: Dataset): Promise<Iterable<number>> {
  if (!dataset.firstImage) return indices(dataset.length);
  const groups = new Map<string | number, number[]>();
  for (let i = 0; i < dataset.length; i++) {
    const image = (await dataset.firstImage(i)) ?? i;
    const group = groups.get(image);
    if (group) group.push(i);
    else groups.set(image, [i]);
  }
  return Array.from(groups.values()).flat();
}

/** The same indices. Reports progress while they are read. */
function* reported(order: Iterable<number>, total: number, onProgress: PackOptions['onProgress']): Generator<number> {
  let done = 0;
  for (const index of order) {
    yield index;
    if (++done % REPORT_EVERY === 0) onProgress?.(done, total);
  }
}

/** Formats the result for people. */
export function formatPacked(packed: PackedData): string {
  const { format, out, kinds, images, tokens, tokensAre, shards, bytes, dropped } = packed;
  const lines = [
    `${out}: ${formatCounts(packed)}, ${counted(images, 'image')}, ${counted(tokens, 'token')} (${tokensAre}), ` +
      `${counted(shards, 'shard')} of ${sizeOf(bytes)}.`,
  ];
  const reasons = reasonLines(dropped);
  if (reasons.length > 0) lines.push('Dropped:', ...reasons);
  if (format === 'jsonl' && Object.keys(kinds).length > 1) {
    lines.push(
      'The dataset has several kinds of documents. To weight them in a mixture, pack each .jsonl file into its own folder.',
    );
  }
  return lines.join('\n');
}

const sizeOf = (bytes: number) =>
  bytes < 2 ** 20 ? `${Math.ceil(bytes / 1024)} KiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`;

/** @throws Error if `out` has files, which would be overwritten or mixed with the new ones */
async function expectEmpty(out: string): Promise<void> {
  let names: string[];
  try {
    names = await readdir(out);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw new Error(`${out}: expected a folder for the shards, got ${(error as Error).message}. Change --out.`, {
      cause: error,
    });
  }
  if (names.length === 0) return;
  const why = names.includes('manifest.json') ? '' : ' An interrupted run leaves shards without a manifest.';
  throw new Error(
    `${out}: expected a new or empty folder for the shards, got one with ${names.sort().slice(0, 3).join(', ')}.${why} ` +
      'Remove the folder or change --out.',
  );
}

/** Counts tokens with a tokenizer. Its name includes the folder, because every file is called tokenizer.json. */
function countedBy(file: string): TokenCounter {
  const tokenizer = loadTokenizer(readTokenizerJson(file));
  const name = resolve(file).split(sep).slice(-2).join('/');
  return { name, count: (text) => tokenizer.encode(text).length };
}
