import { closeSync, fstatSync, openSync } from 'node:fs';
import koffi from 'koffi';
import { MAP_PRIVATE, PROT, systemCalls } from './system-calls';

/** Makes Linux load all pages at once, which is faster than one by one. */
const MAP_POPULATE = process.platform === 'linux' ? 0x8000 : 0;
/** A mapping starts at a multiple of it; every page size divides it. */
const GRAIN = 1 << 16;

/**
 * Maps bytes `begin` to `end` of a file into memory, without a copy. Do not read them after `close`, and do not truncate the
 * file before it: the system would end the process.
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
      throw new Error(
        `${path} has ${size} bytes, ${end} expected: it was truncated after it was opened. Download it again.`,
      );
    }
    const start = begin - (begin % GRAIN);
    const address = Number(calls.mmap(0, end - start, PROT.read, MAP_PRIVATE | MAP_POPULATE, file, start));
    // All ones is mmap's failure.
    if (!(address > 0) || address >= 2 ** 63) return undefined;
    const memory = koffi.view(address + (begin - start), end - begin);
    return { bytes: new Uint8Array(memory), close: () => void calls.munmap(address, end - start) };
  } finally {
    closeSync(file);
  }
}
