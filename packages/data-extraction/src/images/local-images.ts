import { open, realpath } from 'node:fs/promises';
import path from 'node:path';
import { IMAGE_LIMITS } from './image-info';

/** Host of pages in a folder that is not named after a server. */
const NO_HOST = 'folder.invalid';

/** URL of a page in a folder. In a mirror, the first folder names the server (`example.org/a/b.html`). */
export function pageUrl(file: string): string {
  const [host, ...rest] = file.split(path.sep);
  const isHost = rest.length > 0 && /^[a-z0-9-]+(?:\.[a-z0-9-]+)+$/i.test(host!);
  const names = isHost ? rest : [host!, ...rest];
  return `https://${isHost ? host!.toLowerCase() : NO_HOST}/${names.map(encodeURIComponent).join('/')}`;
}

/** The URL as documents show it: the relative path if the folder is not named after a server. */
export function shownUrl(url: string): string {
  const start = `https://${NO_HOST}/`;
  return url.startsWith(start) ? decodeURIComponent(url.slice(start.length)) : url;
}

/** Whether an image could be fetched from a URL. */
export function isOnServer(url: string): boolean {
  return /^https?:/.test(url) && !url.startsWith(`https://${NO_HOST}/`);
}

/** Reads the images of a folder of pages by their URLs. Reads nothing outside the folder. */
export class LocalImages {
  constructor(private readonly root: string) {}

  /** Yields the bytes of each source that exists and is not too large. */
  async *find(sources: readonly string[]): AsyncGenerator<Uint8Array> {
    for (const source of sources) {
      if (source.startsWith('data:')) {
        const inline = dataOf(source);
        if (inline) yield inline;
        continue;
      }
      for (const name of this.namesOf(source)) {
        const bytes = await this.readFile(name);
        if (bytes) yield bytes;
      }
    }
  }

  /** File names that wget and other tools may give to a URL: with the query or without, decoded or not. */
  private namesOf(source: string): Set<string> {
    const { host, pathname, search } = new URL(source);
    const folders = host === NO_HOST ? [''] : [host, ''];
    const names = new Set<string>();
    for (const query of search === '' ? [''] : [search, '']) {
      for (const folder of folders) {
        for (const name of [
          decoded(pathname) + decoded(query),
          pathname + query,
          decoded(pathname) + decoded(query).replace('?', '%3F'),
        ]) {
          names.add(path.join(this.root, folder, name));
        }
      }
    }
    return names;
  }

  private async readFile(name: string): Promise<Uint8Array | undefined> {
    if (name.includes('\0')) return undefined;
    try {
      // Resolve links first, so that neither they nor `..` lead out of the folder.
      const file = await realpath(name);
      if (!file.startsWith(this.root + path.sep)) return undefined;
      const handle = await open(file);
      try {
        const info = await handle.stat();
        if (!info.isFile() || info.size > IMAGE_LIMITS.bytes) return undefined;
        return await handle.readFile();
      } finally {
        await handle.close();
      }
    } catch (error) {
      if (isMachineError(error)) throw error;
      return undefined;
    }
  }
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    // A lone percent sign.
    return text;
  }
}

/** Bytes of a `data:` URL; undefined if it is not base64 or too large. */
export function dataOf(source: string): Uint8Array | undefined {
  const encoded = /^data:image\/[\w.+-]+;base64,/i.exec(source.slice(0, 100))?.[0];
  if (!encoded || source.length > (IMAGE_LIMITS.bytes * 4) / 3) return undefined;
  return Buffer.from(source.slice(encoded.length), 'base64');
}

/**
 * Whether an error comes from the machine (a full disk, a lost network folder, too many open files), not from a page.
 * The unit then fails and is retried. Retrying does not help if a file is missing or unreadable.
 */
export function isMachineError(error: unknown): boolean {
  const { syscall, code = '' } = error as NodeJS.ErrnoException;
  return (
    syscall !== undefined &&
    !['ENOENT', 'EACCES', 'EPERM', 'ENOTDIR', 'EISDIR', 'ELOOP', 'ENAMETOOLONG', 'EINVAL', 'ENXIO'].includes(code)
  );
}
