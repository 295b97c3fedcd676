import { open, readdir, realpath, stat } from 'node:fs/promises';
import path from 'node:path';
import { constants, gunzipSync } from 'node:zlib';

/** A part of the input that is extracted as a whole. Extracting it again after a crash produces the same bytes. */
export type Unit =
  | { readonly kind: 'files'; readonly root: string; readonly files: readonly string[] }
  /** Bytes `start` to `end` of an archive: whole records. */
  | { readonly kind: 'warc'; readonly file: string; readonly start: number; readonly end: number }
  /** Images to fetch from one server: for each, its alternative URLs, the best first. */
  | { readonly kind: 'fetch'; readonly images: readonly (readonly string[])[] };

const PAGES_PER_UNIT = 16;
const PAGE = /\.x?html?$/i;
const WARC = /\.warc(?:\.gz)?$/i;

/**
 * Divides folders and files into units, in an order that depends on names alone.
 *
 * @throws Error for an input that does not exist, or contains neither pages nor archives
 */
export async function* planUnits(
  inputs: readonly string[],
  { warcBytes = 4 * 2 ** 20 }: { warcBytes?: number } = {},
): AsyncGenerator<Unit> {
  for (const input of inputs) {
    const info = await stat(input).catch(() => undefined);
    if (!info) throw new Error(`Input ${input}: no such file or folder. Pass a folder of pages or a WARC file.`);
    const resolved = await realpath(input);
    const root = info.isDirectory() ? resolved : path.dirname(resolved);
    let pages: string[] = [];
    let isEmpty = true;
    for await (const file of info.isDirectory() ? filesBelow(resolved) : [resolved]) {
      if (PAGE.test(file)) pages.push(path.relative(root, file));
      else if (WARC.test(file)) yield* splitArchive(file, warcBytes);
      else continue;
      isEmpty = false;
      if (pages.length < PAGES_PER_UNIT) continue;
      yield { kind: 'files', root, files: pages };
      pages = [];
    }
    if (pages.length > 0) yield { kind: 'files', root, files: pages };
    if (isEmpty) throw new Error(`Input ${input}: expected .html, .htm, .xhtml, .warc or .warc.gz files, found none.`);
  }
}

/**
 * Regular files below a folder in the order of their names, one folder in memory at a time. Symbolic links are not
 * followed, because they may lead anywhere.
 */
export async function* filesBelow(folder: string): AsyncGenerator<string> {
  const entries = await readdir(folder, { withFileTypes: true });
  entries.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  for (const entry of entries) {
    const name = path.join(folder, entry.name);
    if (entry.isDirectory()) yield* filesBelow(name);
    else if (entry.isFile()) yield name;
  }
}

/** Splits an archive at records, so that workers share a large one and a crash costs little. */
async function* splitArchive(file: string, bytes: number): AsyncGenerator<Unit> {
  const handle = await open(file);
  try {
    const { size } = await handle.stat();
    let start = 0;
    do {
      const end = (await nextRecord(handle, start + bytes, size)) ?? size;
      yield { kind: 'warc', file, start, end };
      start = end;
    } while (start < size);
  } finally {
    await handle.close();
  }
}

const WINDOW = 2 ** 20;
/** Enough compressed bytes to recognize a record. */
const PEEK = 1024;

/** Position of the first record at or after `from`; undefined if there is none. */
async function nextRecord(
  handle: { read(buffer: Buffer, offset: number, length: number, position: number): Promise<{ bytesRead: number }> },
  from: number,
  size: number,
): Promise<number | undefined> {
  const buffer = Buffer.alloc(WINDOW + PEEK);
  for (let at = from; at < size; at += WINDOW) {
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, at);
    const window = buffer.subarray(0, bytesRead);
    for (let i = 0; i < Math.min(WINDOW, bytesRead); i++) {
      if (window[i] === 0x1f && window[i + 1] === 0x8b && window[i + 2] === 8 && opensRecord(window.subarray(i))) {
        return at + i;
      }
      if (window[i] === 0x0a) {
        // Records end with two line breaks, CR LF or LF.
        const start = window[i + 1] === 0x0d ? i + 3 : i + 2;
        if (window[start - 1] === 0x0a && window.toString('latin1', start, start + 7) === 'WARC/1.') return at + start;
      }
    }
  }
  return undefined;
}

/** Whether a gzip member with a record begins here: its three magic bytes also occur by chance. */
function opensRecord(window: Buffer): boolean {
  try {
    const start = gunzipSync(window.subarray(0, PEEK), { finishFlush: constants.Z_SYNC_FLUSH });
    return start.subarray(0, 7).toString('latin1') === 'WARC/1.';
  } catch {
    return false;
  }
}
