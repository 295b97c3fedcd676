import { open, readdir, realpath, stat } from 'node:fs/promises';
import path from 'node:path';
import { constants, gunzipSync } from 'node:zlib';

/** A piece of the input that is extracted as a whole: done again after a crash, it gives the same bytes. */
export type Unit =
  | { readonly kind: 'files'; readonly root: string; readonly files: readonly string[] }
  /** Bytes `start` to `end` of an archive, whole records. */
  | { readonly kind: 'warc'; readonly file: string; readonly start: number; readonly end: number }
  /** Images of one server; of each, addresses of which one is enough, the best first. */
  | { readonly kind: 'fetch'; readonly images: readonly (readonly string[])[] };

const PAGES_PER_UNIT = 16;
const PAGE = /\.x?html?$/i;
const WARC = /\.warc(?:\.gz)?$/i;

/**
 * Units of folders and files, in an order that depends on names alone.
 *
 * @throws Error for an input that is not there, or holds neither pages nor archives
 */
export async function* planUnits(
  inputs: readonly string[],
  { warcBytes = 4 * 2 ** 20 }: { warcBytes?: number } = {},
): AsyncGenerator<Unit> {
  for (const input of inputs) {
    const info = await stat(input).catch(() => undefined);
    if (!info)
      throw new Error(`Input ${input}: there is no such file or folder. Give a folder of pages or a WARC file.`);
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
    if (isEmpty) throw new Error(`Input ${input}: expected .html, .htm, .xhtml, .warc or .warc.gz, got none of them.`);
  }
}

/**
 * Regular files below a folder in the order of their names, one folder in memory at a time. Links are not followed: they
 * may lead anywhere.
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

/** Cuts an archive where records begin, so that a large one is shared among workers and a crash costs little. */
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
/** Enough compressed bytes to see the first words of a record. */
const PEEK = 1024;

/** Where the first record at or after `from` begins; undefined without one. */
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
      if (window[i] === 0x0d && window.subarray(i, i + 11).toString('latin1') === '\r\n\r\nWARC/1.') return at + i + 4;
    }
  }
  return undefined;
}

/** Whether a gzip member begins here with a record in it; three bytes alone come by chance. */
function opensRecord(window: Buffer): boolean {
  try {
    const start = gunzipSync(window.subarray(0, PEEK), { finishFlush: constants.Z_SYNC_FLUSH });
    return start.subarray(0, 7).toString('latin1') === 'WARC/1.';
  } catch {
    return false;
  }
}
