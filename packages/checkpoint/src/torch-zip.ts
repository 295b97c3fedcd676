/** An uncompressed file in a zip archive. */
export interface ZipEntry {
  /** Position of its local header. */
  readonly header: number;
  /** Bytes of its content. */
  readonly size: number;
}

/** Reads bytes `begin` to `end` of the archive. */
export type ReadBytes = (begin: number, end: number) => Promise<Uint8Array>;

/** Records of a zip archive: signatures, and sizes in bytes without names and comments. */
const END = { signature: 0x06054b50, bytes: 22 };
const END64_LOCATOR = { signature: 0x07064b50, bytes: 20 };
const END64 = { signature: 0x06064b50, bytes: 56 };
const CENTRAL = { signature: 0x02014b50, bytes: 46 };
const LOCAL = { signature: 0x04034b50, bytes: 30 };

const longestComment = 0xffff;
/** Maximum size of the directory: about 900,000 tensors. */
const maxDirectoryBytes = 100_000_000;

/**
 * The directory of a zip archive, with its 64-bit extension; only the directory is read. Implemented here because zip
 * libraries that can read part of an entry import Node's file system when loaded, which browsers do not have.
 *
 * @param fail makes an error from a problem
 */
export async function zipEntries(
  read: ReadBytes,
  fileBytes: number,
  fail: (problem: string) => Error,
): Promise<Map<string, ZipEntry>> {
  const { count, begin, end } = await findDirectory(read, fileBytes, fail);
  const bytes = await read(begin, end);
  const view = viewOf(bytes);
  const entries = new Map<string, ZipEntry>();
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + CENTRAL.bytes > bytes.length || view.getUint32(at, true) !== CENTRAL.signature) {
      throw fail(`its directory must list ${count} files, got ${i}`);
    }
    const nameEnd = at + CENTRAL.bytes + view.getUint16(at + 28, true);
    const extraEnd = nameEnd + view.getUint16(at + 30, true);
    const next = extraEnd + view.getUint16(at + 32, true);
    if (next > bytes.length) throw fail(`entry ${i} of its directory is truncated`);
    const name = new TextDecoder().decode(bytes.subarray(at + CENTRAL.bytes, nameEnd));
    if (view.getUint16(at + 8, true) & 1 || view.getUint16(at + 10, true) !== 0) {
      throw fail(`${name} is compressed or encrypted, where torch.save stores files as they are`);
    }
    // A field of all ones is stored in the 64-bit extension, which has only these fields, in this order.
    const wide = extensionOf(view, nameEnd, extraEnd);
    const field = (value: number) => (value === 0xffffffff ? wide() : value);
    const size = field(view.getUint32(at + 24, true));
    field(view.getUint32(at + 20, true));
    const header = field(view.getUint32(at + 42, true));
    if (header === undefined || size === undefined || header + LOCAL.bytes + size > begin) {
      throw fail(`${name} ends beyond the files of the archive`);
    }
    if (entries.has(name)) throw fail(`it contains ${name} twice`);
    entries.set(name, { header, size });
    at = next;
  }
  return entries;
}

/** Position of an entry's content: only its local header has the size of what comes before. */
export async function contentOf(
  { header, size }: ZipEntry,
  read: ReadBytes,
  fileBytes: number,
  fail: (problem: string) => Error,
): Promise<number> {
  const view = viewOf(await read(header, header + LOCAL.bytes));
  const begin = header + LOCAL.bytes + view.getUint16(26, true) + view.getUint16(28, true);
  if (view.getUint32(0, true) !== LOCAL.signature || begin + size > fileBytes) {
    throw fail(`its directory lists a file of ${size} bytes at byte ${header}, but there is none`);
  }
  return begin;
}

async function findDirectory(read: ReadBytes, fileBytes: number, fail: (problem: string) => Error) {
  const from = Math.max(0, fileBytes - END.bytes - longestComment);
  const tail = await read(from, fileBytes);
  const view = viewOf(tail);
  let at = tail.length - END.bytes;
  // The record is at the end, followed only by a comment whose length it contains.
  const isEnd = (i: number) =>
    view.getUint32(i, true) === END.signature && i + END.bytes + view.getUint16(i + 20, true) === tail.length;
  while (at >= 0 && !isEnd(at)) at--;
  if (at < 0) throw fail('it has no directory at its end: it is truncated, or not a zip archive');
  let count = view.getUint16(at + 10, true);
  let size = view.getUint32(at + 12, true);
  let begin = view.getUint32(at + 16, true);
  let end = from + at;
  const locator = at - END64_LOCATOR.bytes;
  if (locator >= 0 && view.getUint32(locator, true) === END64_LOCATOR.signature) {
    end = uint64(view, locator + 8);
    if (end + END64.bytes > fileBytes) throw fail(`its directory ends at byte ${end}, beyond the file`);
    const wide = viewOf(await read(end, end + END64.bytes));
    if (wide.getUint32(0, true) !== END64.signature) throw fail(`its directory does not end at byte ${end}`);
    [count, size, begin] = [uint64(wide, 32), uint64(wide, 40), uint64(wide, 48)];
  }
  if (begin + size > end)
    throw fail(`its directory at byte ${begin} must have at most ${end - begin} bytes, got ${size}`);
  if (size > maxDirectoryBytes) throw fail(`expected a directory of at most ${maxDirectoryBytes} bytes, got ${size}`);
  return { count, begin, end: begin + size };
}

/** Returns the numbers of an entry's 64-bit extension one after another, then undefined. */
function extensionOf(view: DataView, begin: number, end: number): () => number | undefined {
  let at = begin;
  while (at + 4 <= end && view.getUint16(at, true) !== 1) at += 4 + view.getUint16(at + 2, true);
  const last = at + 4 <= end ? Math.min(end, at + 4 + view.getUint16(at + 2, true)) : 0;
  at += 4;
  return () => {
    if (at + 8 > last) return undefined;
    at += 8;
    return uint64(view, at - 8);
  };
}

function uint64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
