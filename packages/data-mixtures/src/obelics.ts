import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { LRUCache } from 'lru-cache';
import type { Dataset } from './dataset';
import { closeGaps, type BrokenDocument, type Document, type MediaPart, type TextPart } from './document';
import { Faults } from './faults';
import { GroupedOrder } from './grouped-order';
import { ParquetReader, type ParquetRow } from './parquet';
import { decodeUtf8 } from './text';

/** Number of row groups whose pages are shuffled together. Twice as many are cached. */
const SHUFFLED_GROUPS = 4;
/** Limits of a row group after decompression. */
const MAX_GROUP_BYTES = 2 ** 31;
const MAX_GROUP_ROWS = 2 ** 20;

interface RowGroup {
  readonly path: string;
  readonly columns: readonly string[];
  readonly start: number;
  readonly rows: number;
  readonly bytes: number;
}

/**
 * Pages of OBELICS parquet files: the columns `images` and `texts` are lists of equal length, and at each position one of
 * them is null. An image is given as bytes, or as a URL: then it is the file in the folder of images whose name is the
 * hexadecimal SHA-256 of the URL. Nothing is fetched. Missing images are removed from their page and counted.
 */
export class ObelicsDataset implements Dataset {
  readonly format = 'obelics';
  readonly faults = new Faults();
  readonly length: number;
  private readonly order: GroupedOrder;
  private readonly rowGroups = new LRUCache<RowGroup, Promise<readonly ParquetRow[] | BrokenDocument>>({
    max: 2 * SHUFFLED_GROUPS,
    memoMethod: (group) => this.readGroup(group),
  });

  private constructor(
    private readonly reader: ParquetReader,
    private readonly groups: readonly RowGroup[],
    private readonly images: string,
  ) {
    this.order = new GroupedOrder(
      groups.map((group) => group.rows),
      SHUFFLED_GROUPS,
    );
    this.length = this.order.length;
  }

  /** @throws Error naming a file that is not parquet or lacks the two columns */
  static async open(paths: readonly string[], images: string, reader = new ParquetReader()): Promise<ObelicsDataset> {
    const groups: RowGroup[] = [];
    for (const path of paths) {
      const {
        columns,
        groups: described,
        unreadable,
        readable,
      } = await reader.describe(path).catch((error: Error) => {
        throw new Error(`${path}: expected a parquet file, got ${error.message}.`);
      });
      if (!columns.includes('images') || !columns.includes('texts')) {
        throw new Error(
          `${path}: expected the columns images and texts, as OBELICS has them, got ${columns.join(', ')}.`,
        );
      }
      if (unreadable.length > 0) {
        throw new Error(
          `${path}: expected compression ${readable.join(', ')}, got ${unreadable.join(', ')}. ` +
            "Rewrite it, for example with pyarrow: parquet.write_table(table, path, compression='snappy').",
        );
      }
      const wanted = columns.filter((column) => ['images', 'texts', 'general_metadata'].includes(column));
      let start = 0;
      for (const { rows, bytes } of described) {
        if (!(Number.isSafeInteger(rows) && rows >= 0 && rows <= MAX_GROUP_ROWS)) {
          throw new Error(`${path}: expected at most ${MAX_GROUP_ROWS} rows in a row group, got ${rows}.`);
        }
        groups.push({ path, columns: wanted, start, rows, bytes });
        start += rows;
      }
    }
    return new ObelicsDataset(reader, groups, images);
  }

  where(index: number): string {
    const { group, number } = this.order.locate(index);
    const { path, start } = this.groups[group]!;
    return `${path}, row ${start + number}`;
  }

  shuffled(place: number, ...keys: readonly (number | string)[]): number {
    return this.order.shuffled(place, ...keys);
  }

  async get(index: number): Promise<Document | BrokenDocument> {
    const { group, number } = this.order.locate(index);
    const rows = await this.rowGroups.memo(this.groups[group]!);
    const result = 'rejected' in rows ? rows : this.page(rows[number] ?? {}, this.where(index));
    if ('rejected' in result) this.faults.add(result.rejected, this.where(index), result.detail);
    return result;
  }

  private async readGroup({
    path,
    columns,
    start,
    rows,
    bytes,
  }: RowGroup): Promise<readonly ParquetRow[] | BrokenDocument> {
    if (bytes > MAX_GROUP_BYTES) return { rejected: 'row group too large', detail: `${bytes} bytes` };
    try {
      return await this.reader.read(path, columns, start, start + rows);
    } catch (error) {
      return { rejected: 'broken row group', detail: (error as Error).message };
    }
  }

  private page({ images, texts, general_metadata: general }: ParquetRow, where: string): Document | BrokenDocument {
    if (!Array.isArray(images) || !Array.isArray(texts) || images.length !== texts.length) {
      return { rejected: 'unexpected format', detail: 'images and texts must be lists of equal length' };
    }
    const parts: (TextPart | MediaPart | undefined)[] = [];
    for (let i = 0; i < texts.length; i++) {
      if (texts[i] !== null && texts[i] !== undefined) {
        const text = textOf(texts[i]);
        if (text === undefined) return { rejected: 'text is not UTF-8', detail: `text ${i} of the page` };
        parts.push({ text });
      } else if (images[i] !== null) {
        const media = this.image(images[i]);
        parts.push(media && { media });
        if (!media) this.faults.add('missing image', where);
      }
    }
    return { kind: 'page', parts: closeGaps(parts), ...aboutOf(general) };
  }

  private image(value: unknown): MediaPart['media'] | undefined {
    const url = textOf(value);
    if (url !== undefined && (typeof value === 'string' || /^https?:/.test(url))) {
      const image = join(this.images, createHash('sha256').update(url).digest('hex'));
      return existsSync(image) ? { image, name: url } : undefined;
    }
    const bytes: unknown = value instanceof Uint8Array ? value : (value as { bytes?: unknown } | undefined)?.bytes;
    return bytes instanceof Uint8Array ? { image: bytes } : undefined;
  }
}

/** Text of a string column, or of a binary column without the annotation STRING, as Hive, Impala and old Spark write it. */
function textOf(value: unknown): string | undefined {
  return value instanceof Uint8Array ? decodeUtf8(value) : typeof value === 'string' ? value : undefined;
}

/** The page's metadata: its URL, and its position in Common Crawl. */
function aboutOf(general: unknown): { about?: Record<string, unknown> } {
  const text = textOf(general);
  try {
    return text === undefined ? {} : { about: JSON.parse(text) as Record<string, unknown> };
  } catch {
    return {};
  }
}
