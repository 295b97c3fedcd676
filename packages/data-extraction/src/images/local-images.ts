import { open, realpath } from 'node:fs/promises';
import path from 'node:path';
import { IMAGE_LIMITS } from './image-info';

/** Stands for the server of a folder that names none. */
const NO_HOST = 'folder.invalid';

/** Address of a page in a folder: a mirror that has a folder for each server says which (`example.org/a/b.html`). */
export function pageUrl(file: string): string {
  const [host, ...rest] = file.split(path.sep);
  const isHost = rest.length > 0 && /^[a-z0-9-]+(?:\.[a-z0-9-]+)+$/i.test(host!);
  const names = isHost ? rest : [host!, ...rest];
  return `https://${isHost ? host!.toLowerCase() : NO_HOST}/${names.map(encodeURIComponent).join('/')}`;
}

/** The address as documents show it: of a folder without a server, the path within. */
export function shownUrl(url: string): string {
  const start = `https://${NO_HOST}/`;
  return url.startsWith(start) ? decodeURIComponent(url.slice(start.length)) : url;
}

/** Whether an address names a server that could be asked. */
export function isOnServer(url: string): boolean {
  return /^https?:/.test(url) && !url.startsWith(`https://${NO_HOST}/`);
}

/** Images of a folder of pages, by their addresses. Nothing outside the folder is ever read. */
export class LocalImages {
  constructor(private readonly root: string) {}

  /** @returns bytes of the first of `sources` that is there; undefined without one, and for one that is too large */
  async read(sources: readonly string[]): Promise<Uint8Array | undefined> {
    for (const source of sources) {
      const inline = source.startsWith('data:') ? dataOf(source) : undefined;
      if (inline) return inline;
      for (const name of source.startsWith('data:') ? [] : this.namesOf(source)) {
        const bytes = await this.readFile(name);
        if (bytes) return bytes;
      }
    }
    return undefined;
  }

  /** Files that may hold an address, as wget and others name them: with its query first. */
  private namesOf(source: string): string[] {
    const url = new URL(source);
    let [name, query] = [url.pathname, url.search];
    try {
      [name, query] = [decodeURIComponent(name), decodeURIComponent(query)];
    } catch {
      // A lone percent sign: the name as it stands.
    }
    const folders = url.host === NO_HOST ? [''] : [url.host, ''];
    const endings = query === '' ? [''] : [query, ''];
    return folders.flatMap((folder) => endings.map((ending) => path.join(this.root, folder, name + ending)));
  }

  private async readFile(name: string): Promise<Uint8Array | undefined> {
    if (name.includes('\0')) return undefined;
    try {
      // Links are resolved first: neither they nor `..` lead out of the folder.
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
      if (isOfTheMachine(error)) throw error;
      return undefined;
    }
  }
}

/** Bytes of a `data:` address; undefined for one that is not base64 or too large. */
export function dataOf(source: string): Uint8Array | undefined {
  const encoded = /^data:image\/[\w.+-]+;base64,/i.exec(source.slice(0, 100))?.[0];
  if (!encoded || source.length > (IMAGE_LIMITS.bytes * 4) / 3) return undefined;
  return Buffer.from(source.slice(encoded.length), 'base64');
}

/**
 * A full disk, a lost network folder, too many open files: nobody's page. The unit ends, and is done again. A file that is
 * gone, or may not be read, stays so.
 */
export function isOfTheMachine(error: unknown): boolean {
  const { syscall, code = '' } = error as NodeJS.ErrnoException;
  return (
    syscall !== undefined &&
    !['ENOENT', 'EACCES', 'EPERM', 'ENOTDIR', 'EISDIR', 'ELOOP', 'ENAMETOOLONG', 'EINVAL', 'ENXIO'].includes(code)
  );
}
