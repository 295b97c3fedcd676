import { existsSync } from 'node:fs';
import { open, readdir, readFile, stat } from 'node:fs/promises';
import { basename, dirname, extname, join } from 'node:path';
import { openCocoCaptions, openVqa } from './benchmarks';
import type { Dataset } from './dataset';
import type { Broken, Document } from './document';
import { Faults } from './faults';
import { GroupedOrder } from './grouped-order';
import { LineSet, videoDocument } from './lines';
import { ObelicsSet } from './obelics';
import { MANIFEST } from './shard-format';
import { ShardSet } from './shard-reader';
import { VIDEO_EXTENSIONS } from './video';

export interface OpenDatasetOptions {
  /** Folder of the images that the data name; by default where each kind of data usually has it. */
  readonly images?: string;
}

/**
 * Opens documents on disk, by what is there:
 *
 * - a `.tar` shard, or a folder of them: ours, or img2dataset's (LAION, COYO)
 * - a `.jsonl` file, or a folder of them: documents of one's own, or MMC4
 * - a `.parquet` file, or a folder of them: OBELICS
 * - a `.json` file: COCO captions, or the questions of VQAv2
 * - a folder of videos, each with its text in a `.txt` of the same name
 *
 * @throws Error saying what was expected and what is there
 */
export async function openDataset(path: string, { images }: OpenDatasetOptions = {}): Promise<Dataset> {
  const info = await stat(path).catch(() => undefined);
  if (!info) throw new Error(`${path}: there is no such file or folder.`);
  if (!info.isDirectory()) return openFile(path, images);

  const names = (await readdir(path)).filter((name) => !name.startsWith('.')).sort();
  const having = (...extensions: string[]) =>
    names.filter((name) => extensions.includes(extname(name).slice(1).toLowerCase())).map((name) => join(path, name));
  // Documents that were extracted from pages have a manifest of their own beside their lines.
  const isShards = names.includes(MANIFEST) && having('jsonl').length === 0;
  if (isShards || having('tar').length > 0) return ShardSet.open(path);
  // The questions of few-shot evaluation are not for training.
  const lines = having('jsonl').filter((file) => basename(file) !== 'eval.jsonl');
  if (lines.length > 0) return new Several(await Promise.all(lines.map((file) => LineSet.open(file, images))));
  const parquet = having('parquet');
  if (parquet.length > 0) return ObelicsSet.open(parquet, images ?? join(path, 'images'));
  const videos = having(...VIDEO_EXTENSIONS);
  if (videos.length > 0) return new VideoFolder(videos);
  throw new Error(
    `${path}: expected shards (.tar), .jsonl, .parquet or videos, got ${names.slice(0, 5).join(', ') || 'nothing'}.`,
  );
}

async function openFile(path: string, images: string | undefined): Promise<Dataset> {
  const extension = extname(path).slice(1).toLowerCase();
  if (extension === 'tar') return ShardSet.open(path);
  if (extension === 'jsonl') return LineSet.open(path, images);
  if (extension === 'parquet') return ObelicsSet.open([path], images ?? join(dirname(path), 'images'));
  if (extension === 'json') {
    return (await startOf(path)).includes('"questions"') ? openVqa(path, images) : openCocoCaptions(path, images);
  }
  const got = extension ? `.${extension}` : 'a file without extension';
  throw new Error(`${path}: expected .tar, .jsonl, .parquet or .json, got ${got}. Unpack what is compressed.`);
}

/** Enough of a file to see the names of its first keys: VQAv2's files begin with a licence. */
async function startOf(path: string): Promise<string> {
  const file = await open(path);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(4096), 0, 4096, 0);
    return buffer.toString('utf8', 0, bytesRead);
  } finally {
    await file.close();
  }
}

/** Several files as one set. */
class Several implements Dataset {
  readonly format: string;
  readonly length: number;
  private readonly order: GroupedOrder;

  constructor(private readonly sets: readonly Dataset[]) {
    this.format = sets[0]!.format;
    this.order = new GroupedOrder(
      sets.map((set) => set.length),
      sets.length,
    );
    this.length = this.order.length;
  }

  get faults(): Faults {
    return Faults.together(this.sets.map((set) => set.faults));
  }

  where(index: number): string {
    const { group, number } = this.order.locate(index);
    return this.sets[group]!.where(number);
  }

  get(index: number): Promise<Document | Broken> {
    const { group, number } = this.order.locate(index);
    return this.sets[group]!.get(number);
  }
}

/** Videos, each with its text in a file of the same name. */
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

  async get(index: number): Promise<Document | Broken> {
    const result = await this.read(this.videos[index]!);
    if ('rejected' in result) this.faults.add(result.rejected, this.where(index), result.detail);
    return result;
  }

  private async read(video: string): Promise<Document | Broken> {
    const file = `${video.slice(0, -extname(video).length)}.txt`;
    const text = existsSync(file) ? (await readFile(file, 'utf8')).trim() : '';
    if (text === '') return { rejected: 'no caption', detail: `expected its text in ${basename(file)}` };
    return videoDocument(video, basename(video), text);
  }
}
