import { spawnSync } from 'node:child_process';
import type { FrozenPrecision } from '@flamingo-ts/kernels';
import { formatProfile, profile, type Profile } from './profile';
import { measureRoofline, type Roofline } from './roofline';
import type { WorkloadSpec } from './spec';
import { createWorkload } from './workload';

/** Measurements of one workload. The keys up to `peak_rss_mib` are those of the PyTorch peer. */
export interface BenchResult {
  readonly workload: string;
  readonly backend: string;
  readonly dtype: FrozenPrecision;
  readonly threads: number;
  readonly metric: string;
  /** For the median step. */
  readonly value: number;
  readonly step_seconds: number;
  readonly runs: number;
  readonly peak_rss_mib: number;
  readonly gflops: number;
  /** GFLOP/s of large matrix products on this machine, and the share of it that the workload reaches. */
  readonly roof_gflops: number;
  readonly share_of_roof: number;
  /** Seconds of each part of the last step, for workloads whose steps have parts. */
  readonly [part: `${string}_seconds`]: number;
}

export interface BenchOptions {
  readonly backend: string;
  readonly precision: FrozenPrecision;
  readonly threads: number;
  readonly seconds: number;
}

/** Times a workload: two warm-up steps, then steps for `seconds`, at least three. */
export async function benchWorkload(name: string, spec: WorkloadSpec, options: BenchOptions): Promise<BenchResult> {
  const { backend, precision, threads, seconds } = options;
  const workload = await createWorkload(spec, precision);
  await workload.step();
  await workload.step();
  const times: number[] = [];
  const end = performance.now() + 1000 * seconds;
  while (times.length < 3 || performance.now() < end) {
    const from = performance.now();
    await workload.step();
    times.push((performance.now() - from) / 1000);
  }
  const step = times.sort((a, b) => a - b)[times.length >> 1]!;
  // Read before measuring the roofline, which allocates memory itself.
  const peak = process.resourceUsage().maxRSS / 1024;
  const gflops = workload.flopsPerStep / step / 1e9;
  // int8 weights are multiplied in float32.
  const roof = measureRoofline(Math.min(1, seconds))[precision === 'int8' ? 'float32' : precision];
  return {
    workload: name,
    backend,
    dtype: precision,
    threads,
    metric: workload.metric,
    value: workload.unitsPerStep / step,
    step_seconds: step,
    runs: times.length,
    peak_rss_mib: Math.round(peak),
    gflops: round(gflops),
    roof_gflops: round(roof),
    share_of_roof: round(gflops / roof),
    ...workload.parts?.(),
  };
}

/** Profiles one step after two warm-up steps. */
export async function profileWorkload(spec: WorkloadSpec, precision: FrozenPrecision): Promise<Profile> {
  const workload = await createWorkload(spec, precision);
  await workload.step();
  await workload.step();
  return profile(() => workload.step());
}

/** Runs each workload in its own process, so that its peak memory can be measured. */
export function benchInProcesses(names: readonly string[], flags: readonly string[]): number {
  for (const name of names) {
    const args = [...process.execArgv, process.argv[1]!, 'bench', name, ...flags];
    const { status } = spawnSync(process.execPath, args, { stdio: 'inherit' });
    if (status !== 0) return status ?? 1;
  }
  return 0;
}

const round = (x: number) => Number(x.toPrecision(4));

export function formatResult(r: BenchResult): string {
  const rate = `${r.value.toFixed(2)} ${r.metric.replaceAll('_', ' ')}`;
  const work = `${r.gflops.toFixed(0)} GFLOP/s, ${(100 * r.share_of_roof).toFixed(0)} % of ${r.roof_gflops.toFixed(0)}`;
  return `${r.workload.padEnd(18)} ${r.dtype}  ${rate}  (${r.step_seconds.toFixed(3)} s per step, ${r.runs} runs)  ${work}  ${r.peak_rss_mib} MiB`;
}

export function formatRoofline({ float32, bfloat16, bandwidth }: Roofline): string {
  return [
    `matrix products, float32    ${float32.toFixed(0).padStart(6)} GFLOP/s`,
    `matrix products, bfloat16   ${bfloat16.toFixed(0).padStart(6)} GFLOP/s`,
    `memory, reading             ${bandwidth.toFixed(1).padStart(6)} GB/s`,
  ].join('\n');
}

export { formatProfile };
