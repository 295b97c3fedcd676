import { existsSync } from 'node:fs';
import { open, readdir, readFile, stat } from 'node:fs/promises';
import { basename, dirname, extname, join } from 'node:path';
import { openCocoCaptions, openVqa } from './benchmarks';
import type { Dataset } from './dataset';
import type { BrokenDocument, Document } from './document';
import { Faults } from './faults';
import { GroupedOrder } from './grouped-order';
import { LineDataset, videoDocument } from './lines';
import { ObelicsDataset } from './obelics';
import { MANIFEST } from './shard-format';
import { ShardDataset } from './shard-reader';
import { decodeUtf8 } from './text';
import { VIDEO_EXTENSIONS } from './video';

/** File name of the questions for few-shot evaluation in a folder of JSONL files. */
export const QUESTIONS = 'eval.jsonl';

export interface OpenDatasetOptions {
  /** Folder that image names are relative to. Defaults to where each format usually keeps its images. */
  readonly images?: string;
}

/**
 * Opens documents on disk. The path determines the format:
 *
 * - a `.tar` shard or a folder of them: written by `ShardWriter`, or by img2dataset (LAION, COYO)
 * - a `.jsonl` file or a folder of them: pages, pairs, clips, videos and MMC4, one document per line
 * - a `.parquet` file or a folder of them: OBELICS
 * - a `.json` file: COCO captions, or the questions of VQAv2
 * - a folder of videos, each with its text in a `.txt` file of the same name
 *
 * A folder's `eval.jsonl` holds questions for few-shot evaluation and is not part of the folder's dataset. Open it by its
 * own path; its lines `{"image", "answer"}` become documents of kind `question`. To mix the files of a folder with
 * different weights, open each by its path: `openDataset('my-data/pages.jsonl')`, `openDataset('my-data/pairs.jsonl')`.
 *
 * Opening reads documents only of JSONL files, to find the first valid line. For a broken document `get` returns the
 * reason, and `faults` counts and locates it.
 *
 * @throws Error if the path has nothing readable, or if no line of a JSONL file is valid
 */
export async function openDataset(path: string, { images }: OpenDatasetOptions = {}): Promise<Dataset> {
  const info = await stat(path).catch(() => undefined);
  if (!info) throw new Error(`${path}: there is no such file or folder.`);
  if (!info.isDirectory()) return openFile(path, images);

  const names = (await readdir(path)).filter((name) => !name.startsWith('.')).sort();
  const having = (...extensions: string[]) =>
    names.filter((name) => extensions.includes(extname(name).slice(1).toLowerCase())).map((name) => join(path, name));
  // `flamingo data extract` writes another kind of manifest next to its .jsonl files.
  const isShards = names.includes(MANIFEST) && having('jsonl').length === 0;
  if (isShards || having('tar').length > 0) return ShardDataset.open(path);
  const lines = having('jsonl').filter((file) => basename(file) !== QUESTIONS);
  if (lines.length > 0) return new CombinedDataset(await Promise.all(lines.map((f) => LineDataset.open(f, images))));
  const parquet = having('parquet');
  if (parquet.length > 0) return ObelicsDataset.open(parquet, images ?? join(path, 'images'));
  const videos = having(...VIDEO_EXTENSIONS);
  if (videos.length > 0) return new VideoFolder(videos);
  throw new Error(
    `${path}: expected shards (.tar), .jsonl, .parquet or videos, got ${names.slice(0, 5).join(', ') || 'nothing'}.`,
  );
}

async function openFile(path: string, images: string | undefined): Promise<Dataset> {
  const extension = extname(path).slice(1).toLowerCase();
  if (extension === 'tar') return ShardDataset.open(path);
  if (extension === 'jsonl') return LineDataset.open(path, images);
  if (extension === 'parquet') return ObelicsDataset.open([path], images ?? join(dirname(path), 'images'));
  if (extension === 'json') {
    return (await startOf(path)).includes('"questions"') ? openVqa(path, images) : openCocoCaptions(path, images);
  }
  const got = extension ? `.${extension}` : 'a file without extension';
  throw new Error(`${path}: expected .tar, .jsonl, .parquet or .json, got ${got}. Unpack compressed files first.`);
}

/** Reads enough of a file to see its first keys: VQAv2's files begin with a license. */
async function startOf(path: string): Promise<string> {
  const file = await open(path);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(4096), 0, 4096, 0);
    return buffer.toString('utf8', 0, bytesRead);
  } finally {
    await file.close();
  }
}

/** Several files as one dataset. */
class CombinedDataset implements Dataset {
  readonly format: string;
  readonly length: number;
  private readonly order: GroupedOrder;

  constructor(private readonly datasets: readonly Dataset[]) {
    this.format = datasets[0]!.format;
    this.order = new GroupedOrder(
      datasets.map((dataset) => dataset.length),
      datasets.length,
    );
    this.length = this.order.length;
  }

  get faults(): Faults {
    return Faults.merge(this.datasets.map((dataset) => dataset.faults));
  }

  where(index: number): string {
    const { group, number } = this.order.locate(index);
    return this.datasets[group]!.where(number);
  }

  async firstImage(index: number): Promise<string | undefined> {
    const { group, number } = this.order.locate(index);
    return this.datasets[group]!.firstImage?.(number);
  }

  get(index: number): Promise<Document | BrokenDocument> {
    const { group, number } = this.order.locate(index);
    return this.datasets[group]!.get(number);
  }
}

/** Videos, each with its text in a `.txt` file of the same name. */
class VideoFolder implements Dataset {
  readonly format = 'videos';
  readonly faults = new Faults();

  constructor(private readonly videos: readonly string[]) {}

  get length(): number {
    return this.videos.length;
  }

  where(index: number): string {
    return this.videos[index]!;
  }

  async get(index: number): Promise<Document | BrokenDocument> {
    const result = await this.read(this.videos[index]!);
    if ('rejected' in result) this.faults.add(result.rejected, this.where(index), result.detail);
    return result;
  }

  private async read(video: string): Promise<Document | BrokenDocument> {
    const file = `${video.slice(0, -extname(video).length)}.txt`;
    const text = existsSync(file) ? decodeUtf8(await readFile(file)) : '';
    if (text === undefined) return { rejected: 'text is not UTF-8', detail: basename(file) };
    if (text.trim() === '') return { rejected: 'no caption', detail: `expected its text in ${basename(file)}` };
    return videoDocument(video, basename(video), text.trim());
  }
}
