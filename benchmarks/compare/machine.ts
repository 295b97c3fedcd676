import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';

/** Milliseconds of all processors since the machine started. */
export interface Processors {
  readonly all: number;
  readonly busy: number;
  /** Of this process and of all that it has started and waited for. */
  readonly own: number;
}

/** Ticks of a second in /proc, on every Linux that Node runs on. */
const TICKS = 100;

/** What the processors have done so far; undefined where the system does not tell, outside Linux. */
export function processors(): Processors | undefined {
  if (process.platform !== 'linux') return undefined;
  const times = cpus().map(({ times }) => times);
  const sum = (of: (t: (typeof times)[number]) => number) => times.reduce((total, t) => total + of(t), 0);
  const idle = sum((t) => t.idle);
  const all = idle + sum((t) => t.user + t.nice + t.sys + t.irq);
  // After the name, which may hold blanks: user and system time of this process, then of its children.
  const fields = readFileSync('/proc/self/stat', 'utf8').split(') ').at(-1)!.split(' ').slice(11, 15);
  return { all, busy: all - idle, own: (1000 / TICKS) * fields.reduce((total, ticks) => total + Number(ticks), 0) };
}

/** Share of the processors that others have used between two moments: what makes timings worthless. */
export function usedByOthers(from: Processors, to: Processors): number {
  return Math.max(0, (to.busy - from.busy - (to.own - from.own)) / (to.all - from.all));
}
