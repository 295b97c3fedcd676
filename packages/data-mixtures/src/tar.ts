import { open, type FileHandle } from 'node:fs/promises';
import { Header, Pax } from 'tar';
import type { Faults } from './faults';

const BLOCK = 512;
/** Headers are read through a window of this size: a shard of captions has hundreds of headers close together. */
const WINDOW = 2 ** 16;
/** Limits that keep a malicious archive from filling the memory. Images and pages of training data are far smaller. */
export const MAX_MEMBER_BYTES = 2 ** 28;
const MAX_EXTENDED_BYTES = 2 ** 20;
const MAX_MEMBERS = 2 ** 20;
/** Maximum zero bytes between concatenated archives. tar itself pads to 10 KiB. */
const MAX_PADDING = 2 ** 20;

/** A regular file in an archive, and the location of its bytes. */
export interface TarMember {
  /** Relative, without `..`. */
  readonly name: string;
  readonly offset: number;
  readonly size: number;
  /** Number of the archive within the file, from 0: `cat a.tar b.tar` holds two. */
  readonly archive: number;
}

/**
 * Lists the regular files of one or several concatenated tar archives (ustar, pax, GNU). Reads only headers and unpacks
 * nothing. Skips members whose names leave the archive, and looks for the next good header after a broken one. Counts
 * everything it skips in `faults`.
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
  let archive = 0;
  let nulls = 0;
  for (let at = 0; at + BLOCK <= length;) {
    const where = `${path}, byte ${at}`;
    const header = decode(await read(at), extended);
    if (header?.nullBlock) {
      nulls++;
      at += BLOCK;
      if (nulls * BLOCK <= MAX_PADDING) continue;
      if (at + BLOCK <= length) faults.add('bytes after the end of the archive', where);
      break;
    }
    // Two zero blocks end an archive. What follows is another one.
    if (nulls >= 2) archive++;
    nulls = 0;
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
    else if (header.type !== 'Directory') members.push({ name, offset, size, archive });
    if (members.length > MAX_MEMBERS) {
      throw new Error(
        `${path}: expected at most ${MAX_MEMBERS} members. Split it into shards of a few thousand documents.`,
      );
    }
  }
  return members;
}

/** Returns undefined if a numeric field cannot be parsed. */
function decode(block: Buffer, extended: Pax | undefined): Header | undefined {
  try {
    return new Header(block, 0, extended);
  } catch {
    return undefined;
  }
}

const isExtension = ({ type }: Header) => /Extended|NextFile/.test(type);

/** Parses an extension header, which describes the file after it. Global headers do not affect names or sizes. */
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

/** True for a relative path that stays below its base folder on any operating system. */
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
      if (bytesRead < BLOCK) throw new Error(`The archive was truncated while being read: no block at byte ${at}.`);
    }
    return window.subarray(at - start, at - start + BLOCK);
  };
}

/** @throws Error if the file is shorter */
export async function readBytes(file: FileHandle, offset: number, size: number): Promise<Buffer> {
  const buffer = Buffer.alloc(size);
  for (let done = 0; done < size;) {
    const { bytesRead } = await file.read(buffer, done, size - done, offset + done);
    if (bytesRead === 0) throw new Error(`The file ends at byte ${offset + done}, expected ${offset + size}.`);
    done += bytesRead;
  }
  return buffer;
}

/** Encodes a member: header, bytes, padding. Has no times or owners, so equal input produces equal bytes. */
export function tarMember(name: string, bytes: Uint8Array): Buffer {
  const whole = Buffer.alloc(BLOCK + Math.ceil(bytes.length / BLOCK) * BLOCK);
  const header = new Header({ path: name, type: 'File', size: bytes.length, mode: 0o644, uid: 0, gid: 0 });
  header.mtime = new Date(0);
  if (header.encode(whole, 0)) throw new Error(`tarMember: expected a short ASCII name, got ${name}.`);
  whole.set(bytes, BLOCK);
  return whole;
}

/** The end of an archive. */
export const TAR_END = Buffer.alloc(2 * BLOCK);
