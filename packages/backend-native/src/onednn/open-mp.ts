import koffi, { type LibraryHandle } from 'koffi';

/**
 * The OpenMP runtime that oneDNN runs on. A process can hold several runtimes, for example with LD_PRELOAD: every function
 * here comes from the same one, because a thread's number in one runtime means nothing to another.
 */
export interface OpenMp {
  /** File of the runtime. */
  readonly path: string;
  readonly library: LibraryHandle;
  /** Address of a function of the runtime, 0n if it has none of that name. */
  addressOf(name: string): bigint;
}

/** Makes the system's loader search all libraries of the process, in the order in which oneDNN's own calls were bound. */
const ALL_LIBRARIES = process.platform === 'darwin' ? -2 : 0;

/** RTLD_NOW | RTLD_NOLOAD */
const IF_LOADED = process.platform === 'darwin' ? 0x2 | 0x10 : 0x2 | 0x4;

/** The runtime that calls from oneDNN reach, undefined if the process has none. Call it once oneDNN is loaded. */
export function findOpenMp(): OpenMp | undefined {
  if (process.platform === 'win32') return undefined;
  const loader = koffi.load(null);
  const dlsym = loader.func('dlsym', 'uintptr_t', ['intptr_t', 'str']);
  const dlopen = loader.func('dlopen', 'intptr_t', ['str', 'int']);
  const dladdr = loader.func('dladdr', 'int', ['uintptr_t', 'void *']);
  const address = ['GOMP_parallel', 'omp_get_max_threads'].map((name) => dlsym(ALL_LIBRARIES, name)).find(Number);
  // Dl_info: four pointers, the first to the file's name.
  const info = Buffer.alloc(32);
  if (address === undefined || dladdr(address, info) === 0) return undefined;
  const path = koffi.decode.string(info.readBigUInt64LE(0));
  const handle = dlopen(path, IF_LOADED);
  return { path, library: koffi.load(path), addressOf: (name) => BigInt(dlsym(handle, name)) };
}
