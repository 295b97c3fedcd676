import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { AsyncBuffer, FileMetaData } from 'hyparquet';
import type { Dataset } from './dataset';
import type { Broken, Document, MediaPart, TextPart } from './document';
import { Faults } from './faults';
import { GroupedOrder } from './grouped-order';
import { RecentlyUsed } from './recently-used';

/** Row groups among whose pages an order is shuffled; twice as many are held. */
const SHUFFLED_GROUPS = 4;
/** What a row group may unfold to. */
const MAX_GROUP_BYTES = 2 ** 31;

interface RowGroup {
  readonly path: string;
  readonly file: AsyncBuffer;
  readonly metadata: FileMetaData;
  readonly start: number;
  readonly rows: number;
  readonly bytes: number;
}

type Row = Readonly<Record<string, unknown>>;

/**
 * Pages of OBELICS' parquet files: `images` and `texts`, two lists of equal length of which one is filled at each place.
 * A picture is its bytes where the file has them, else the file in the folder of pictures that is named by the SHA-256 of
 * its address in hexadecimal digits: nothing is fetched. What is not there is left out of its page and counted.
 */
export class ObelicsSet implements Dataset {
  readonly format = 'obelics';
  readonly faults = new Faults();
  readonly length: number;
  private readonly order: GroupedOrder;
  private readonly read = new RecentlyUsed<RowGroup, Promise<readonly Row[] | Broken>>(2 * SHUFFLED_GROUPS);

  private constructor(
    private readonly groups: readonly RowGroup[],
    private readonly images: string,
  ) {
    this.order = new GroupedOrder(
      groups.map((group) => group.rows),
      SHUFFLED_GROUPS,
    );
    this.length = this.order.length;
  }

  /** @throws Error naming a file that is no parquet, or lacks the two columns */
  static async open(paths: readonly string[], images: string): Promise<ObelicsSet> {
    const { asyncBufferFromFile, parquetMetadataAsync, parquetSchema } = await import('hyparquet');
    const groups: RowGroup[] = [];
    for (const path of paths) {
      const file = await asyncBufferFromFile(path);
      const metadata = await parquetMetadataAsync(file).catch((error: Error) => {
        throw new Error(`${path}: expected a parquet file, got ${error.message}.`);
      });
      const columns = parquetSchema(metadata).children.map((column) => column.element.name);
      if (!columns.includes('images') || !columns.includes('texts')) {
        throw new Error(
          `${path}: expected the columns images and texts, as OBELICS has them, got ${columns.join(', ')}.`,
        );
      }
      let start = 0;
      for (const group of metadata.row_groups) {
        const rows = Number(group.num_rows);
        groups.push({ path, file, metadata, start, rows, bytes: Number(group.total_byte_size) });
        start += rows;
      }
    }
    return new ObelicsSet(groups, images);
  }

  where(index: number): string {
    const { group, number } = this.order.locate(index);
    const { path, start } = this.groups[group]!;
    return `${path}, row ${start + number}`;
  }

  shuffled(place: number, ...keys: readonly (number | string)[]): number {
    return this.order.shuffled(place, ...keys);
  }

  async get(index: number): Promise<Document | Broken> {
    const { group, number } = this.order.locate(index);
    const rows = await this.read.get(this.groups[group]!, () => readGroup(this.groups[group]!));
    const result = 'rejected' in rows ? rows : this.page(rows[number]!, this.where(index));
    if ('rejected' in result) this.faults.add(result.rejected, this.where(index), result.detail);
    return result;
  }

  private page({ images, texts, general_metadata: general }: Row, where: string): Document | Broken {
    if (!Array.isArray(images) || !Array.isArray(texts) || images.length !== texts.length) {
      return { rejected: 'unknown form', detail: 'images and texts must be lists of equal length' };
    }
    const parts: (TextPart | MediaPart)[] = [];
    for (let i = 0; i < texts.length; i++) {
      const text = texts[i] as unknown;
      if (typeof text === 'string') parts.push({ text });
      else if (images[i] !== null) {
        const media = this.picture(images[i]);
        if (media) parts.push({ media });
        else this.faults.add('missing picture', where);
      }
    }
    return { kind: 'page', parts, ...aboutOf(general) };
  }

  private picture(value: unknown): MediaPart['media'] | undefined {
    if (typeof value === 'string') {
      const image = join(this.images, createHash('sha256').update(value).digest('hex'));
      return existsSync(image) ? { image, name: value } : undefined;
    }
    const bytes: unknown = value instanceof Uint8Array ? value : (value as { bytes?: unknown } | undefined)?.bytes;
    return bytes instanceof Uint8Array ? { image: bytes } : undefined;
  }
}

async function readGroup({ file, metadata, start, rows, bytes }: RowGroup): Promise<readonly Row[] | Broken> {
  if (bytes > MAX_GROUP_BYTES) return { rejected: 'row group too large', detail: `${bytes} bytes` };
  const { parquetReadObjects } = await import('hyparquet');
  const general = metadata.schema.some((column) => column.name === 'general_metadata') ? ['general_metadata'] : [];
  try {
    const columns = ['images', 'texts', ...general];
    // Bytes are not text: only columns of type STRING are decoded.
    return await parquetReadObjects({ file, metadata, columns, rowStart: start, rowEnd: start + rows, utf8: false });
  } catch (error) {
    return { rejected: 'broken row group', detail: (error as Error).message };
  }
}

/** The page's address, and where it lies in Common Crawl. */
function aboutOf(general: unknown): { about?: Record<string, unknown> } {
  try {
    return typeof general === 'string' ? { about: JSON.parse(general) as Record<string, unknown> } : {};
  } catch {
    return {};
  }
}
