import koffi from 'koffi';

/** Constants of mmap, the same on Linux and macOS. */
export const PROT = { read: 1, write: 2, exec: 4 } as const;
export const MAP_PRIVATE = 2;

interface SystemCalls {
  mmap(at: number, bytes: number, protection: number, flags: number, file: number, offset: number): bigint | number;
  munmap(address: number, bytes: number): number;
  mprotect(address: bigint, bytes: number, protection: number): number;
}

let calls: SystemCalls | undefined | null;

/** The system's functions for memory; null on systems without them. */
export function systemCalls(): SystemCalls | null {
  if (calls !== undefined) return calls;
  const names: Partial<Record<NodeJS.Platform, string>> = { linux: 'libc.so.6', darwin: 'libSystem.B.dylib' };
  try {
    const library = koffi.load(names[process.platform] ?? '');
    calls = {
      mmap: library.func('mmap', 'uintptr_t', ['uintptr_t', 'size_t', 'int', 'int', 'int', 'int64']) as never,
      munmap: library.func('munmap', 'int', ['uintptr_t', 'size_t']) as never,
      mprotect: library.func('mprotect', 'int', ['uintptr_t', 'size_t', 'int']) as never,
    };
  } catch {
    calls = null;
  }
  return calls;
}
