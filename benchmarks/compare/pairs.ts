/** What one run printed: the keys that `flamingo bench --json` and the peers share, and some that only one has. */
export interface Run {
  /** Name and version of a peer. */
  readonly peer?: string;
  readonly workload: string;
  readonly dtype: string;
  readonly threads: number;
  /** What `value` counts, a second: more is better. */
  readonly metric: string;
  readonly value: number;
  readonly peak_rss_mib: number;
  /** Of the largest matrix products that this machine does; ours alone has it. */
  readonly share_of_roof?: number;
  /** Share of the processors that other programs used meanwhile, where the system tells. */
  readonly used_by_others?: number;
}

/** A run of ours and one of the peer, one right after the other. */
export interface Pair {
  readonly ours: Run;
  readonly peer: Run;
}

/** What the pairs of one workload say. */
export interface Comparison {
  readonly workload: string;
  readonly dtype: string;
  readonly unit: string;
  /** Medians. */
  readonly ours: number;
  readonly peer: number;
  /** Ours over the peer's: above 1 we are faster. Of the medians, and the least and greatest of single pairs. */
  readonly ratio: number;
  readonly least: number;
  readonly greatest: number;
  /** MiB, medians; ours over the peer's: below 1 we need less. */
  readonly memory: { readonly ours: number; readonly peer: number; readonly ratio: number };
  readonly shareOfRoof: number;
  /** Share of the processors that other programs used during one of the runs, at most. */
  readonly usedByOthers: number;
}

/**
 * Who runs first in each pair. It changes from pair to pair, so that a machine that grows warm or busy slows both alike.
 * The peer begins: one that does not work at all is told of before ours has taken its time.
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

/** The result that a run printed: its last line that holds JSON. */
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

/** Sums up the pairs of one workload. */
export function compare(pairs: readonly Pair[]): Comparison {
  const [first] = pairs;
  if (!first) throw new Error('compare: expected at least one pair, got none.');
  const different = pairs
    .flatMap(({ ours, peer }) => [ours, peer])
    .find((run) => (['workload', 'dtype', 'threads', 'metric'] as const).some((key) => run[key] !== first.ours[key]));
  if (different) {
    const told = ({ workload, dtype, threads, metric }: Run) => `${workload}, ${dtype}, ${threads} threads, ${metric}`;
    throw new Error(`runs that differ cannot be compared: ${told(first.ours)} and ${told(different)}.`);
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
  const others = toldOfOthers([c]);
  return others ? `${line}  ${others}` : line;
}

/** Others that used more of the processors than this change what is measured. */
const BUSY = 0.05;

/** How much other programs may have disturbed these comparisons; nothing if they did not. */
export function toldOfOthers(comparisons: readonly Comparison[]): string | undefined {
  const most = Math.max(...comparisons.map(({ usedByOthers }) => usedByOthers));
  return most > BUSY ? `Other programs used up to ${percent(most)} of the processors` : undefined;
}

/** All comparisons with one peer as a table in Markdown, aligned as Prettier does it. */
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
const percent = (x: number) => (Number.isNaN(x) ? 'not told' : `${(100 * x).toFixed(0)} %`);
