import { closeSync, fstatSync, openSync } from 'node:fs';
import koffi from 'koffi';
import { MAP_PRIVATE, PROT, systemCalls } from './system-calls';

/** Linux' wish to have all pages at hand at once, which takes less time than one by one. */
const MAP_POPULATE = process.platform === 'linux' ? 0x8000 : 0;
/** The start of a mapping is a multiple of it; every page size divides it. */
const GRAIN = 1 << 16;

/**
 * Bytes `begin` to `end` of a file as memory, without a copy; they must not be touched after `close`. The file must not be cut
 * in the meantime: the system would end the process.
 *
 * @returns undefined where the system cannot map files
 * @throws Error when the file is shorter
 */
export function mapFile(
  path: string,
  begin: number,
  end: number,
): { readonly bytes: Uint8Array; close(): void } | undefined {
  const calls = systemCalls();
  if (!calls) return undefined;
  const file = openSync(path, 'r');
  try {
    const { size } = fstatSync(file);
    if (end > size) {
      throw new Error(`${path} has ${size} bytes, ${end} expected: it was cut after it was opened. Fetch it again.`);
    }
    const start = begin - (begin % GRAIN);
    const address = Number(calls.mmap(0, end - start, PROT.read, MAP_PRIVATE | MAP_POPULATE, file, start));
    // All ones is how mmap says no.
    if (!(address > 0) || address >= 2 ** 63) return undefined;
    const memory = koffi.view(address + (begin - start), end - begin);
    return { bytes: new Uint8Array(memory), close: () => void calls.munmap(address, end - start) };
  } finally {
    closeSync(file);
  }
}
