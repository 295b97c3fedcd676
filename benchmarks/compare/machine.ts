import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';

/** Processor time in milliseconds since the machine started, summed over all processors. */
export interface Processors {
  readonly all: number;
  readonly busy: number;
  /** Used by this process and its ended child processes. */
  readonly own: number;
}

/** Ticks per second in /proc, on every Linux that Node runs on. */
const TICKS = 100;

/** Reads the processor times; undefined outside Linux. */
export function processors(): Processors | undefined {
  if (process.platform !== 'linux') return undefined;
  const times = cpus().map(({ times }) => times);
  const sum = (of: (t: (typeof times)[number]) => number) => times.reduce((total, t) => total + of(t), 0);
  const idle = sum((t) => t.idle);
  const all = idle + sum((t) => t.user + t.nice + t.sys + t.irq);
  // The fields after the name, which may contain spaces: user and system time of this process, then of its children.
  const fields = readFileSync('/proc/self/stat', 'utf8').split(') ').at(-1)!.split(' ').slice(11, 15);
  return { all, busy: all - idle, own: (1000 / TICKS) * fields.reduce((total, ticks) => total + Number(ticks), 0) };
}

/** Share of the processors that other programs used between two readings. A large share makes timings unreliable. */
export function usedByOthers(from: Processors, to: Processors): number {
  return Math.max(0, (to.busy - from.busy - (to.own - from.own)) / (to.all - from.all));
}
