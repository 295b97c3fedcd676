import { availableParallelism } from 'node:os';
import { useBackend, type BackendName, type FrozenPrecision } from '@flamingo-ts/kernels';
import { benchApart, benchWorkload, formatProfile, formatResult, formatRoofline, profileWorkload } from './bench';
import { measureRoofline } from './roofline';
import { readSpecs } from './spec';

const PRECISIONS = { fp32: 'float32', bf16: 'bfloat16', int8: 'int8' } as const satisfies Record<
  string,
  FrozenPrecision
>;

export interface BenchFlags {
  readonly specs: string;
  readonly precision: keyof typeof PRECISIONS;
  readonly threads?: number;
  readonly seconds: number;
  readonly backend: BackendName | 'auto';
  readonly roofline?: boolean;
  readonly profile?: boolean;
  readonly json?: boolean;
}

/** Runs what was asked for and gives the exit status; `given` are the flags as they were written. */
export async function runBench(asked: string[], flags: BenchFlags, given: readonly string[]): Promise<number> {
  const specs = readSpecs(flags.specs);
  const unknown = asked.find((name) => !Object.hasOwn(specs, name));
  if (unknown !== undefined) {
    throw new Error(`bench: ${flags.specs} has the workloads ${Object.keys(specs).join(', ')}, not ${unknown}.`);
  }
  const names = asked.length > 0 || flags.roofline ? asked : Object.keys(specs);
  if (names.length > 1) return benchApart(names, given);
  const backend = await useBackend(flags.backend);
  process.stderr.write(`${backend.summary}\n`);
  const threads = await takeThreads(backend.name, flags.threads);
  if (backend.name === 'native' && flags.precision === 'bf16') {
    (await import('@flamingo-ts/backend-native')).setNativePrecision('bfloat16');
  }
  const show = <T>(result: T, format: (result: T) => string) =>
    process.stdout.write(`${flags.json ? JSON.stringify(result) : format(result)}\n`);
  if (flags.roofline) show(measureRoofline(flags.seconds / 3), formatRoofline);
  for (const name of names) {
    const { seconds } = flags;
    const precision = PRECISIONS[flags.precision];
    if (flags.profile) show(await profileWorkload(specs[name]!, precision), formatProfile);
    else {
      const options = { backend: backend.name, precision, threads, seconds };
      show(await benchWorkload(name, specs[name]!, options), formatResult);
    }
  }
  return 0;
}

/** Sets the threads of the native backend where a number was given, and tells how many there are. */
async function takeThreads(backend: BackendName, threads: number | undefined): Promise<number> {
  if (backend !== 'native') {
    if (threads !== undefined) {
      throw new Error(`bench: --threads is for the native backend, not for ${backend}. Leave it out.`);
    }
    return backend === 'tensorflow' ? availableParallelism() : 1;
  }
  const { nativeLibrary, setNativeThreads } = await import('@flamingo-ts/backend-native');
  if (threads !== undefined) setNativeThreads(threads);
  return nativeLibrary().threads;
}
