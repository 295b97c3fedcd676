import { open, type FileHandle } from 'node:fs/promises';
import { Header, Pax } from 'tar';
import type { Faults } from './faults';

const BLOCK = 512;
/** Headers are read through a window of this size: in a shard of captions hundreds of them lie close together. */
const WINDOW = 2 ** 16;
/** A larger member is no image and no page of a training set. */
export const MAX_MEMBER_BYTES = 2 ** 28;
/** Names and their attributes are short; a longer extended header is there to fill the memory. */
const MAX_EXTENDED_BYTES = 2 ** 20;
/** A shard holds thousands of members. An archive of nothing but empty ones must not fill the memory either. */
const MAX_MEMBERS = 2 ** 20;

/** A regular file in an archive, and where its bytes lie. */
export interface TarMember {
  /** Relative, without `..`. */
  readonly name: string;
  readonly offset: number;
  readonly size: number;
}

/**
 * Lists the regular files of a tar archive (ustar, pax, GNU) by reading its headers alone. Nothing is ever unpacked, so a
 * member can be written nowhere; one whose name leaves the archive is left out all the same. After a broken header the
 * next good one is looked for. What is left out is counted in `faults`.
 */
export async function listTar(path: string, faults: Faults): Promise<TarMember[]> {
  const file = await open(path);
  try {
    return await listMembers(path, file, (await file.stat()).size, faults);
  } finally {
    await file.close();
  }
}

async function listMembers(path: string, file: FileHandle, length: number, faults: Faults): Promise<TarMember[]> {
  const members: TarMember[] = [];
  const read = windowReader(file);
  let extended: Pax | undefined;
  let isLost = false;
  let nulls = 0;
  // Two empty blocks end an archive; whatever follows is not part of it.
  for (let at = 0; at + BLOCK <= length && nulls < 2;) {
    const where = `${path}, byte ${at}`;
    const header = decode(await read(at), extended);
    nulls = header?.nullBlock ? nulls + 1 : 0;
    if (header?.nullBlock) {
      at += BLOCK;
      continue;
    }
    const size = header?.size;
    const isWhole = header?.cksumValid && size !== undefined && Number.isSafeInteger(size);
    if (!isWhole || at + BLOCK + size > length) {
      if (!isLost) faults.add(isWhole ? 'truncated member' : 'broken header', where);
      isLost = true;
      extended = undefined;
      at += BLOCK;
      continue;
    }
    isLost = false;
    const offset = at + BLOCK;
    at = offset + Math.ceil(size / BLOCK) * BLOCK;
    if (isExtension(header)) {
      if (size > MAX_EXTENDED_BYTES) faults.add('extended header too large', where);
      else extended = readExtension(header, await readBytes(file, offset, size), extended);
      continue;
    }
    extended = undefined;
    const name = (header.path ?? '').replace(/^(\.\/)+/, '');
    const problem = problemOf(header, name, size);
    if (problem) faults.add(problem, `${where}, ${JSON.stringify(name.slice(0, 100))}`);
    else if (header.type !== 'Directory') members.push({ name, offset, size });
    if (members.length > MAX_MEMBERS) {
      throw new Error(`${path}: more than ${MAX_MEMBERS} members. Split it into shards of some thousand documents.`);
    }
  }
  return members;
}

/** Undefined for numbers that are none. */
function decode(block: Buffer, extended: Pax | undefined): Header | undefined {
  try {
    return new Header(block, 0, extended);
  } catch {
    return undefined;
  }
}

const isExtension = ({ type }: Header) => /Extended|NextFile/.test(type);

/** What an extension header says about the file after it. Global ones are for archives of file systems. */
function readExtension({ type }: Header, bytes: Buffer, before: Pax | undefined): Pax | undefined {
  const text = bytes.toString('utf8');
  if (type === 'NextFileHasLongPath') return new Pax({ ...before, path: text.replace(/\0.*$/s, '') });
  if (type === 'ExtendedHeader') return Pax.parse(text, before);
  return before;
}

function problemOf(header: Header, name: string, size: number): string | undefined {
  if (header.type === 'Directory') return undefined;
  if (!/^(OldFile|File|ContiguousFile)$/.test(header.type)) return 'not a regular file';
  if (!isInside(name)) return 'unsafe name';
  if (size > MAX_MEMBER_BYTES) return 'member too large';
  return undefined;
}

/** True for a relative path that stays below where it starts, on any system. */
export function isInside(name: string): boolean {
  return name !== '' && !/^[/\\]|^[a-zA-Z]:|\0/.test(name) && name.split(/[/\\]/).every((part) => part !== '..');
}

function windowReader(file: FileHandle) {
  let start = 0;
  let window = Buffer.alloc(0);
  return async (at: number): Promise<Buffer> => {
    if (at < start || at + BLOCK > start + window.length) {
      start = at;
      const { bytesRead, buffer } = await file.read(Buffer.alloc(WINDOW), 0, WINDOW, at);
      window = buffer.subarray(0, bytesRead);
      if (bytesRead < BLOCK) throw new Error(`The archive became shorter while it was read: no block at byte ${at}.`);
    }
    return window.subarray(at - start, at - start + BLOCK);
  };
}

/** @throws Error where the file ends before */
export async function readBytes(file: FileHandle, offset: number, size: number): Promise<Buffer> {
  const buffer = Buffer.alloc(size);
  for (let done = 0; done < size;) {
    const { bytesRead } = await file.read(buffer, done, size - done, offset + done);
    if (bytesRead === 0) throw new Error(`The file ends at byte ${offset + done}, expected ${offset + size}.`);
    done += bytesRead;
  }
  return buffer;
}

/** A member as it stands in an archive: header, bytes, filling. Without times and owners, so equal input gives equal bytes. */
export function tarMember(name: string, bytes: Uint8Array): Buffer {
  const whole = Buffer.alloc(BLOCK + Math.ceil(bytes.length / BLOCK) * BLOCK);
  const header = new Header({ path: name, type: 'File', size: bytes.length, mode: 0o644, uid: 0, gid: 0 });
  header.mtime = new Date(0);
  if (header.encode(whole, 0))
    throw new Error(`A tar member cannot be named ${name}: its name must be short and plain.`);
  whole.set(bytes, BLOCK);
  return whole;
}

/** What ends an archive. */
export const TAR_END = Buffer.alloc(2 * BLOCK);
