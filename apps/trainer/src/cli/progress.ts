import { SingleBar } from 'cli-progress';

/** Where a long piece of work stands: a bar on a terminal, a plain line every few seconds elsewhere. */
export interface Progress {
  /** @param done units finished; `note` is shown behind the figures */
  update(done: number, note?: string): void;
  /**
   * Ends the bar, with a closing line; called once more it does nothing. However the work ends it must be called: on a
   * terminal the bar draws itself by a timer, which keeps the process alive.
   */
  stop(note?: string): void;
}

/** Seconds before the first plain line, so that it has a rate to tell, and between lines. */
const FIRST_LINE = 1;
const LINE_EVERY = 10;

/**
 * @param title shown in front
 * @param total units of work
 * @param unit  what a unit is called: `steps`
 * @param from  units that an earlier run did; they say nothing about the rate of this one
 */
export function startProgress(title: string, total: number, unit: string, from = 0): Progress {
  const started = Date.now();
  const seconds = () => (Date.now() - started) / 1000;
  if (process.stderr.isTTY) {
    const bar = new SingleBar({
      format: `${title} {bar} {value}/{total} ${unit} | {rate} ${unit}/s | {eta_formatted} left {note}`,
      stream: process.stderr,
      etaBuffer: 50,
    });
    bar.start(total, from, { rate: '-', note: '' });
    return {
      update: (done, note = '') => bar.update(done, { rate: rate(done - from, seconds()), note }),
      stop: (note) => {
        bar.stop();
        if (note) process.stderr.write(`${title}: ${note}\n`);
      },
    };
  }
  let last = FIRST_LINE - LINE_EVERY;
  return {
    update(done, note = '') {
      if (seconds() - last < LINE_EVERY) return;
      last = seconds();
      const left = done > from ? `, ${Math.ceil(((total - done) * last) / (done - from))} s left` : '';
      process.stderr.write(
        `${title}: ${done}/${total} ${unit}, ${rate(done - from, last)} ${unit}/s${left} ${note}`.trimEnd() + '\n',
      );
    },
    stop(note) {
      if (note) process.stderr.write(`${title}: ${note} (${seconds().toFixed(1)} s)\n`);
    },
  };
}

function rate(done: number, seconds: number): string {
  const r = done / Math.max(seconds, 1e-3);
  return r >= 100 ? r.toFixed(0) : r.toFixed(1);
}
