import { createHash } from 'node:crypto';
import {
  closeSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
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
  EEXIST: 'the name is already taken, perhaps by a broken link',
  EIO: 'the device failed',
};

/**
 * Describes a failed write with its file and what is lost, because Node's own errors do not always name the file. Returns
 * other errors unchanged.
 */
export function writeError(error: unknown, file: string, lost: string): unknown {
  const { code = '', message } = error as NodeJS.ErrnoException;
  const reason = REASONS[code];
  return reason ? new Error(`${file}: cannot be written, ${reason} (${message}). ${lost}`, { cause: error }) : error;
}

/** Writes a temporary file and renames it, so that a kill at any moment leaves the old or the new file. */
export function replaceFile(file: string, text: string, lost = 'Free some space, or correct the path.'): void {
  const temporary = `${file}.tmp`;
  try {
    writeFileSync(temporary, text);
    renameSync(temporary, file);
  } catch (error) {
    throw writeError(error, file, lost);
  }
}

/**
 * Reads a JSON file.
 *
 * @param expected what the file must be, for the error
 * @param fix      what to do otherwise, as sentences
 */
export function readJson(file: string, expected: string, fix: string): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(readFileSync(file)));
  } catch (error) {
    throw new Error(`${file}: expected ${expected}, got an error: ${(error as Error).message}. ${fix}`, {
      cause: error,
    });
  }
}

export function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true });
  } catch (error) {
    throw writeError(error, folder, 'Choose another out folder.');
  }
}

/** Removes the contents of a folder except `keep`. Keeps the folder itself, which may be a link. */
export function emptyFolder(folder: string, keep: string): void {
  for (const name of readdirSync(folder)) {
    if (name === keep) continue;
    const path = join(folder, name);
    try {
      const target = lstatSync(path);
      // Also keeps links to folders, such as checkpoints on another disk.
      if (target.isSymbolicLink() && isFolder(path)) emptyFolder(path, keep);
      else rmSync(path, { recursive: true, force: true });
    } catch (error) {
      throw writeError(error, path, '--fresh must remove it to start over.');
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

/** Of larger files, only this many bytes are hashed, in parts spread over the file. */
const HASHED_WHOLE = 256 * 2 ** 20;
const PART = 2 ** 20;

/**
 * The first half of the SHA-256 of a file's size and content. Files above 256 MiB are hashed in 256 parts of 1 MiB, which is
 * enough to distinguish two models.
 */
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
