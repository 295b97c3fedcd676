import { createHash } from 'node:crypto';
import {
  closeSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';

const REASONS: Readonly<Record<string, string>> = {
  ENOSPC: 'no space is left on the device',
  EDQUOT: 'the disk quota is used up',
  EROFS: 'the file system is read-only',
  EACCES: 'permission is denied',
  EPERM: 'permission is denied',
  ENOTDIR: 'a part of the path is not a folder',
  EEXIST: 'something else has that name, perhaps a link to nothing',
  EIO: 'the device failed',
};

/**
 * The error of a failed write, with the file and what is lost: Node's own errors do not always name the file. Other
 * errors are returned as they are.
 */
export function writeError(error: unknown, file: string, lost: string): unknown {
  const { code = '', message } = error as NodeJS.ErrnoException;
  const reason = REASONS[code];
  return reason ? new Error(`${file}: cannot be written, ${reason} (${message}). ${lost}`, { cause: error }) : error;
}

/** Writes a file beside its place and renames it: after a kill at any moment the file is the old one or the new one. */
export function replaceFile(file: string, text: string, lost = 'Free some space, or correct the path.'): void {
  const temporary = `${file}.tmp`;
  try {
    writeFileSync(temporary, text);
    renameSync(temporary, file);
  } catch (error) {
    throw writeError(error, file, lost);
  }
}

export function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true });
  } catch (error) {
    throw writeError(error, folder, 'Choose another out folder.');
  }
}

/** Removes what is in a folder, but not the folder, which may be a link, and not `keep`. */
export function emptyFolder(folder: string, keep: string): void {
  for (const name of readdirSync(folder)) {
    if (name === keep) continue;
    const path = join(folder, name);
    try {
      const target = lstatSync(path);
      // A link to a folder, for checkpoints on another disk, is kept too.
      if (target.isSymbolicLink() && isFolder(path)) emptyFolder(path, keep);
      else rmSync(path, { recursive: true, force: true });
    } catch (error) {
      throw writeError(error, path, 'It was to be removed by --fresh.');
    }
  }
}

function isFolder(path: string): boolean {
  try {
    readdirSync(path);
    return true;
  } catch {
    return false;
  }
}

/** Of larger files only this many bytes are hashed, in parts spread over the file. */
const HASHED_WHOLE = 256 * 2 ** 20;
const PART = 2 ** 20;

/** The first half of the SHA-256 of a file with its size. Of files above 256 MiB one part in each 256th: enough to tell two models apart. */
export function hashFile(file: string): string {
  const hash = createHash('sha256');
  const handle = openSync(file, 'r');
  try {
    const { size } = fstatSync(handle);
    hash.update(`${size}:`);
    const parts = HASHED_WHOLE / PART;
    const apart = size <= HASHED_WHOLE ? PART : Math.floor((size - PART) / (parts - 1));
    const buffer = new Uint8Array(PART);
    for (let at = 0; at < size; at += apart) hash.update(buffer.subarray(0, readSync(handle, buffer, 0, PART, at)));
  } finally {
    closeSync(handle);
  }
  return `sha256:${hash.digest('hex').slice(0, 32)}`;
}
