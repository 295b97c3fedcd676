import { SingleBar } from 'cli-progress';

/** Progress of a long task: a bar on a terminal, a plain line every few seconds elsewhere. */
export interface Progress {
  /** @param done finished units @param note shown after the figures */
  update(done: number, note?: string): void;
  /** Prints a line that stays. */
  log(line: string): void;
  /**
   * Ends the bar with a closing line; further calls do nothing. Must be called even if the task fails: on a terminal, the
   * timer of the bar keeps the process alive.
   */
  stop(note?: string): void;
}

/** Seconds before the first plain line, so that the rate is known, and between two lines. */
const FIRST_LINE = 1;
const LINE_EVERY = 10;

/**
 * @param title shown first
 * @param total units of work
 * @param unit  name of the units, such as `steps`
 * @param from  units that an earlier run finished; they do not count toward the rate
 */
export function startProgress(title: string, total: number, unit: string, from = 0): Progress {
  const started = Date.now();
  const seconds = () => (Date.now() - started) / 1000;
  if (process.stderr.isTTY) {
    const bar = new SingleBar({
      format: `${title} {bar} {value}/{total} ${unit} | {rate} ${unit}/s | {eta_formatted} left{note}`,
      stream: process.stderr,
      etaBuffer: 50,
    });
    bar.start(total, from, { rate: '-', note: '' });
    return {
      update: (done, note) => bar.update(done, { rate: rate(done - from, seconds()), note: note ? `, ${note}` : '' }),
      log: (line) => void process.stderr.write(`\r\x1b[K${title}: ${line}\n`),
      stop: (note) => {
        bar.stop();
        if (note) process.stderr.write(`${title}: ${note}\n`);
      },
    };
  }
  let last = FIRST_LINE - LINE_EVERY;
  return {
    update(done, note) {
      if (seconds() - last < LINE_EVERY) return;
      last = seconds();
      const left = done > from ? `, ${Math.ceil(((total - done) * last) / (done - from))} s left` : '';
      const text = `${done}/${total} ${unit}, ${rate(done - from, last)} ${unit}/s${left}${note ? `, ${note}` : ''}`;
      process.stderr.write(`${title}: ${text}\n`);
    },
    log: (line) => void process.stderr.write(`${title}: ${line}\n`),
    stop(note) {
      if (note) process.stderr.write(`${title}: ${note} (${seconds().toFixed(1)} s)\n`);
    },
  };
}

function rate(done: number, seconds: number): string {
  const r = done / Math.max(seconds, 1e-3);
  return r >= 100 ? r.toFixed(0) : r.toFixed(1);
}
