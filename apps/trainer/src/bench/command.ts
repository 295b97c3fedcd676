import { availableParallelism } from 'node:os';
import { useBackend, type BackendName, type FrozenPrecision } from '@flamingo-ts/kernels';
import { BENCH_SPECS } from '../configs';
import { benchInProcesses, benchWorkload, formatProfile, formatResult, formatRoofline, profileWorkload } from './bench';
import { measureRoofline } from './roofline';
import { readSpecs } from './spec';

const PRECISIONS = { fp32: 'float32', bf16: 'bfloat16', int8: 'int8' } as const satisfies Record<
  string,
  FrozenPrecision
>;

export interface BenchFlags {
  readonly specs?: string;
  readonly precision: keyof typeof PRECISIONS;
  readonly threads?: number;
  readonly seconds: number;
  readonly backend: BackendName | 'auto';
  readonly roofline?: boolean;
  readonly profile?: boolean;
  readonly json?: boolean;
}

/** Runs the named workloads (default: all) and returns the exit status. `given` contains the flags as the user wrote them. */
export async function runBench(asked: string[], flags: BenchFlags, given: readonly string[]): Promise<number> {
  const { specs: file = BENCH_SPECS } = flags;
  const specs = readSpecs(file);
  const unknown = asked.find((name) => !Object.hasOwn(specs, name));
  if (unknown !== undefined) {
    throw new Error(
      `bench: unknown workload ${unknown}, expected one of ${Object.keys(specs).join(', ')} (from ${file}).`,
    );
  }
  const names = asked.length > 0 || flags.roofline ? asked : Object.keys(specs);
  if (names.length > 1) return benchInProcesses(names, given);
  const backend = await useBackend(flags.backend);
  process.stderr.write(`${backend.summary}\n`);
  const threads = await setThreads(backend.name, flags.threads);
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

/** Sets the number of threads of the native backend if one is given. Returns the number in use. */
async function setThreads(backend: BackendName, threads: number | undefined): Promise<number> {
  if (backend !== 'native') {
    if (threads !== undefined) {
      throw new Error(`bench: --threads requires the native backend, got ${backend}. Remove it.`);
    }
    return backend === 'tensorflow' ? availableParallelism() : 1;
  }
  const { nativeLibrary, setNativeThreads } = await import('@flamingo-ts/backend-native');
  if (threads !== undefined) setNativeThreads(threads);
  return nativeLibrary().threads;
}
