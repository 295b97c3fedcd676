import { existsSync, readdirSync, statSync } from 'node:fs';
import { availableParallelism, constants, homedir } from 'node:os';
import { delimiter, dirname, isAbsolute, join } from 'node:path';
import koffi, { type LibraryHandle } from 'koffi';
import { findOpenMp, type OpenMp } from './open-mp';

/** Result of `nativeLibrary()`: describes what ran, for reports and issues. */
export interface NativeLibrary {
  /** Path of oneDNN, or a bare name if the system's loader found it. */
  readonly path: string;
  /** `2.6.3`, for example. */
  readonly version: string;
  /** Threads its operations run on. */
  readonly threads: number;
  /** The instruction set it uses on this processor, `avx2` for example. */
  readonly cpuIsa: string;
}

/** The loaded shared library. */
export interface LoadedLibrary {
  readonly path: string;
  readonly version: readonly [major: number, minor: number, patch: number];
  readonly handle: LibraryHandle;
}

/** RTLD_NOW | RTLD_GLOBAL | RTLD_NODELETE, as the two systems number them. */
const PINNED = process.platform === 'darwin' ? 0x2 | 0x8 | 0x80 : 0x2 | 0x100 | 0x1000;

/** The value on Linux. */
const SIG_BLOCK = 0;
const SIGSET_BYTES = 128;

let loaded: LoadedLibrary | undefined;
let openMp: { readonly runtime: OpenMp; set: (n: number) => void; get: () => number } | undefined;

/** Sets OpenMP's number of threads for calls from this thread. */
export function setThreads(threads: number): void {
  if (!Number.isInteger(threads) || threads < 1) {
    throw new Error(`setNativeThreads: expected a whole number of at least 1, got ${threads}.`);
  }
  loadLibrary();
  if (!openMp) {
    throw new Error(
      'setNativeThreads: this oneDNN does not run on OpenMP, so its threads cannot be set. ' +
        'Install a build with OpenMP (Debian and Ubuntu have one), or do not set the number of threads.',
    );
  }
  openMp.set(threads);
}

/** The OpenMP runtime under oneDNN; undefined where oneDNN does not run on OpenMP. */
export function openMpRuntime(): OpenMp | undefined {
  return openMp?.runtime;
}

/** Threads in use by operations called from this thread. */
export function nativeThreads(): number {
  return openMp?.get() ?? availableParallelism();
}

/**
 * Loads oneDNN once and returns it.
 *
 * @throws Error naming every place searched and how to install the library
 */
export function loadLibrary(): LoadedLibrary {
  if (loaded) return loaded;
  // By default OpenMP's threads spin for milliseconds after every operation. If other work needs the cores, each operation
  // then waits for a whole time slice: in measurements, a training step took ten times as long. This spin count is just enough
  // to last until the next small operation, so that decoding does not have to wake the threads; then they sleep.
  if (!process.env['OMP_WAIT_POLICY']) process.env['GOMP_SPINCOUNT'] ??= '15000';
  const tried: string[] = [];
  for (const { path, refused } of candidates()) {
    try {
      if (refused) throw new Error(refused);
      loaded = open(path);
      return loaded;
    } catch (error) {
      tried.push(`${path} (${reason(error)})`);
    }
  }
  throw new Error(
    `oneDNN was not found. Looked at: ${tried.join('; ')}. ` +
      'Run `npm run setup:onednn` in the workspace, install it with the package manager ' +
      '(Debian and Ubuntu: libdnnl2 or libdnnl3; macOS: brew install onednn), ' +
      'or set FLAMINGO_ONEDNN to the full path of the library.',
  );
}

/** A library to try, or the reason why it must not be loaded. */
interface Candidate {
  readonly path: string;
  readonly refused?: string;
}

/**
 * Libraries to try, best first. Loading a library runs its code, so only trusted places are searched: the path in
 * FLAMINGO_ONEDNN (then nothing else), or the user's own cache and the system. The working directory is never searched.
 */
export function candidates(): Candidate[] {
  const named = process.env['FLAMINGO_ONEDNN'];
  if (named) return [{ path: named }];
  return [...cached(), ...ofSystem().map((path) => ({ path }))];
}

/** What `npm run setup:onednn` unpacked, in `flamingo-ts/onednn/lib` of the user's cache folder. */
function cached(): Candidate[] {
  const named = process.env['XDG_CACHE_HOME'];
  // The XDG specification ignores relative paths.
  const cache = named && isAbsolute(named) ? named : join(homedir(), '.cache');
  const folder = join(cache, 'flamingo-ts', 'onednn', 'lib');
  return matching(folder, /^libdnnl\.so\.[0-9.]+$/).map((path) => ({ path, refused: distrust(folder) }));
}

/** Why the libraries in a folder must not be loaded: others could have put them there. */
function distrust(folder: string): string | undefined {
  const { uid, mode } = statSync(folder);
  const user = process.getuid?.();
  if (user === undefined) return undefined;
  if (uid !== user) return `refused: ${folder} belongs to another user`;
  return mode & 0o022 ? `refused: other users can write to ${folder}, run chmod go-w on it` : undefined;
}

/** Libraries of the system: names that its loader looks up, or full paths where the loader would search the working directory. */
function ofSystem(): string[] {
  if (process.platform === 'darwin') {
    const names = ['libdnnl.3.dylib', 'libdnnl.2.dylib', 'libdnnl.dylib'];
    return ['/opt/homebrew/lib', '/usr/local/lib'].flatMap((folder) => names.map((name) => join(folder, name)));
  }
  if (process.platform === 'win32') {
    const folders = (process.env['PATH'] ?? '').split(delimiter).filter(isAbsolute);
    return folders.flatMap((folder) => matching(folder, /^dnnl\.dll$/i));
  }
  return ['libdnnl.so.3', 'libdnnl.so.2', 'libdnnl.so', ...versioned()];
}

/** Some distributions put the minor version into the library's own name (`libdnnl.so.3.6`), which no fixed list contains. */
function versioned(): string[] {
  const bases = ['/usr/lib', '/usr/lib64', '/usr/local/lib', '/usr/local/lib64'];
  const folders = bases.flatMap((base) => [base, ...matching(base, /-linux-gnu/)]);
  return folders.flatMap((folder) => matching(folder, /^libdnnl\.so\.[23]\./));
}

function matching(folder: string, pattern: RegExp): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => pattern.test(name))
    .map((name) => join(folder, name));
}

function open(path: string): LoadedLibrary {
  // Libraries unpacked next to oneDNN load first: the system's loader would not look for them there.
  const folder = dirname(path);
  const dependencies = folder === '.' ? [] : matching(folder, /^lib(gomp|OpenCL)\.so\.1$/);
  for (const dependency of dependencies) pin(dependency);
  pin(path);
  const handle = koffi.load(path);
  const version = readVersion(handle);
  if (version[0] !== 2 && version[0] !== 3) {
    throw new Error(`version ${version.join('.')} is not supported: this package supports 2.6 and later 2.x, and 3.x`);
  }
  if (version[0] === 2 && version[1] < 6) throw new Error(`version ${version.join('.')} is older than 2.6`);
  openMp = threadControl();
  shieldFromSignals();
  return { path, version, handle };
}

/** Signals of a thread's own faults: if they were blocked, the process would end without a message. */
const FAULTS = ['SIGSEGV', 'SIGBUS', 'SIGILL', 'SIGFPE', 'SIGTRAP', 'SIGABRT', 'SIGSYS'] as const;

/**
 * Blocks signals on this thread, so that Node's other threads handle them; OpenMP's threads, which this one starts later,
 * inherit it. Up to version 3.11 some of oneDNN's products on x64 use the stack pointer for data on the heap, and a signal
 * handler then overwrites that heap (uxlfoundation/oneDNN issue 4845): Ctrl-C, a child process that ends or a profiler could
 * damage memory.
 */
function shieldFromSignals(): void {
  if (process.platform !== 'linux' || process.arch !== 'x64') return;
  const libc = koffi.load(null);
  const signals = Buffer.alloc(SIGSET_BYTES);
  libc.func('sigfillset', 'int', ['void *'])(signals);
  const remove = libc.func('sigdelset', 'int', ['void *', 'int']);
  for (const name of FAULTS) remove(signals, constants.signals[name]);
  libc.func('pthread_sigmask', 'int', ['int', 'void *', 'void *'])(SIG_BLOCK, signals, null);
}

/** Keeps a library loaded until the process ends: unloading it under OpenMP's sleeping threads crashes the process at exit. */
function pin(path: string): void {
  if (process.platform !== 'win32') koffi.load(null).func('dlopen', 'void *', ['str', 'int'])(path, PINNED);
}

function readVersion(handle: LibraryHandle): [number, number, number] {
  const pointer = handle.func('dnnl_version', 'void *', [])() as bigint;
  const [major, minor, patch] = koffi.decode(pointer, koffi.array('int', 3)) as number[];
  return [major!, minor!, patch!];
}

/** Functions of OpenMP for its number of threads; undefined where oneDNN does not run on OpenMP. */
function threadControl(): typeof openMp {
  const runtime = findOpenMp();
  if (!runtime) return undefined;
  return {
    runtime,
    set: runtime.library.func('omp_set_num_threads', 'void', ['int']) as (n: number) => void,
    get: runtime.library.func('omp_get_max_threads', 'int', []) as () => number,
  };
}

function reason(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.includes('No such file') || text.includes('cannot open') ? 'not found' : text;
}
