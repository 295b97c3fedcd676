/** Output of one run: the keys that `flamingo bench --json` and the peers share, and some that only one side has. */
export interface Run {
  /** Name and version of a peer. */
  readonly peer?: string;
  readonly workload: string;
  readonly dtype: string;
  readonly threads: number;
  /** What `value` counts per second; more is better. */
  readonly metric: string;
  readonly value: number;
  readonly peak_rss_mib: number;
  /** Speed as a share of that of large matrix products on this machine; ours only. */
  readonly share_of_roof?: number;
  /** Share of the processors that other programs used meanwhile; Linux only. */
  readonly used_by_others?: number;
}

/** Consecutive runs of ours and the peer. */
export interface Pair {
  readonly ours: Run;
  readonly peer: Run;
}

/** Summary of the pairs of one workload. */
export interface Comparison {
  readonly workload: string;
  readonly dtype: string;
  readonly unit: string;
  /** Medians. */
  readonly ours: number;
  readonly peer: number;
  /** Ours divided by the peer's (above 1: ours is faster): of the medians, and the smallest and largest of single pairs. */
  readonly ratio: number;
  readonly least: number;
  readonly greatest: number;
  /** Medians in MiB, and ours divided by the peer's (below 1: ours needs less). */
  readonly memory: { readonly ours: number; readonly peer: number; readonly ratio: number };
  readonly shareOfRoof: number;
  /** Largest share of the processors that other programs used during one of the runs. */
  readonly usedByOthers: number;
}

/**
 * The order of the two sides in each pair. It alternates, so that a machine that slows down slows both sides equally. The
 * peer begins, so that one that does not work is reported before ours takes its time.
 */
export function orders(pairs: number): (readonly ['ours' | 'peer', 'ours' | 'peer'])[] {
  return Array.from({ length: pairs }, (_, i) => (i % 2 === 0 ? ['peer', 'ours'] : ['ours', 'peer']));
}

/** The middle value, or the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  if (values.length === 0) throw new Error('median: expected at least one value, got none. Measure something first.');
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}

/** Reads the result of a run from the last line with JSON. */
export function parseRun(stdout: string, workload: string): Run {
  const line = stdout.split('\n').findLast((text) => text.startsWith('{'));
  const run = (line === undefined ? {} : JSON.parse(line)) as Partial<Run>;
  const numbers = [run.value, run.peak_rss_mib, run.threads];
  if (run.workload !== workload || !numbers.every((x) => typeof x === 'number' && x > 0)) {
    throw new Error(
      `expected a JSON line with workload ${workload}, value, threads and peak_rss_mib, got ${line ?? 'no JSON line'}`,
    );
  }
  return run as Run;
}

/** Summarises the pairs of one workload. */
export function compare(pairs: readonly Pair[]): Comparison {
  const [first] = pairs;
  if (!first) throw new Error('compare: expected at least one pair, got none.');
  const different = pairs
    .flatMap(({ ours, peer }) => [ours, peer])
    .find((run) => (['workload', 'dtype', 'threads', 'metric'] as const).some((key) => run[key] !== first.ours[key]));
  if (different) {
    const show = ({ workload, dtype, threads, metric }: Run) => `${workload}, ${dtype}, ${threads} threads, ${metric}`;
    throw new Error(`runs that differ cannot be compared: ${show(first.ours)} and ${show(different)}.`);
  }
  const medians = (of: (run: Run) => number) => {
    const [ours, peer] = [median(pairs.map((pair) => of(pair.ours))), median(pairs.map((pair) => of(pair.peer)))];
    return { ours, peer, ratio: ours / peer };
  };
  const ratios = pairs.map(({ ours, peer }) => ours.value / peer.value);
  return {
    workload: first.ours.workload,
    dtype: first.ours.dtype,
    unit: first.ours.metric.replace('_per_second', '/s').replaceAll('_', ' '),
    ...medians((run) => run.value),
    least: Math.min(...ratios),
    greatest: Math.max(...ratios),
    memory: medians((run) => run.peak_rss_mib),
    shareOfRoof: median(pairs.map(({ ours }) => ours.share_of_roof ?? NaN)),
    usedByOthers: Math.max(...pairs.flatMap(({ ours, peer }) => [ours.used_by_others ?? 0, peer.used_by_others ?? 0])),
  };
}

/** One comparison on one line. */
export function formatLine(c: Comparison, peer: string): string {
  const speed = `ours ${rate(c.ours)}, ${peer} ${rate(c.peer)} ${c.unit}: ${times(c.ratio)} (pairs ${range(c)})`;
  const memory = `memory ${megabytes(c.memory.ours)} / ${megabytes(c.memory.peer)} MiB: ${times(c.memory.ratio)}`;
  const roof = `${percent(c.shareOfRoof)} of the roof`;
  const line = `${c.workload.padEnd(18)} ${c.dtype.padEnd(8)}  ${speed}  ${memory}  ${roof}`;
  const load = describeLoad([c]);
  return load ? `${line}  ${load}` : line;
}

/** Other programs that use more of the processors than this affect the measurements. */
const BUSY = 0.05;

/** Describes how much other programs used the processors; undefined if too little to affect the comparisons. */
export function describeLoad(comparisons: readonly Comparison[]): string | undefined {
  const most = Math.max(...comparisons.map(({ usedByOthers }) => usedByOthers));
  return most > BUSY ? `Other programs used up to ${percent(most)} of the processors` : undefined;
}

/** All comparisons with one peer as a Markdown table, aligned like Prettier's. */
export function formatTable(comparisons: readonly Comparison[]): string {
  const head = ['workload', 'dtype', 'ours', 'peer', 'ratio', 'pairs', 'memory ours, peer', 'ratio', 'share of roof'];
  const rows = comparisons.map((c) => [
    c.workload,
    c.dtype,
    `${rate(c.ours)} ${c.unit}`,
    `${rate(c.peer)} ${c.unit}`,
    times(c.ratio),
    range(c),
    `${megabytes(c.memory.ours)}, ${megabytes(c.memory.peer)} MiB`,
    times(c.memory.ratio),
    percent(c.shareOfRoof),
  ]);
  const widths = head.map((title, i) => Math.max(3, ...[title, ...rows.map((row) => row[i]!)].map((x) => x.length)));
  const line = (cells: readonly string[]) => `| ${cells.map((cell, i) => cell.padEnd(widths[i]!)).join(' | ')} |`;
  return [line(head), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)].join('\n');
}

const rate = (x: number) => x.toFixed(x >= 1000 ? 0 : x >= 100 ? 1 : 2);
const times = (x: number) => x.toFixed(2);
const range = ({ least, greatest }: Comparison) => `${times(least)} to ${times(greatest)}`;
const megabytes = (x: number) => x.toFixed(0);
const percent = (x: number) => (Number.isNaN(x) ? 'unknown' : `${(100 * x).toFixed(0)} %`);
