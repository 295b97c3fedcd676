import { SingleBar } from 'cli-progress';

/** Where a long piece of work stands: a bar on a terminal, a plain line every few seconds elsewhere. */
export interface Progress {
  /** @param done units finished; `note` is shown behind the figures */
  update(done: number, note?: string): void;
  /** Ends the bar, with a closing line. */
  stop(note?: string): void;
}

/** Seconds between plain lines. */
const LINE_EVERY = 10;

/**
 * @param title shown in front
 * @param total units of work
 * @param unit  what a unit is called: `steps`
 */
export function startProgress(title: string, total: number, unit: string): Progress {
  const started = Date.now();
  const seconds = () => (Date.now() - started) / 1000;
  if (process.stderr.isTTY) {
    const bar = new SingleBar({
      format: `${title} {bar} {value}/{total} ${unit} | {rate} ${unit}/s | {eta_formatted} left {note}`,
      hideCursor: true,
      stream: process.stderr,
      etaBuffer: 50,
    });
    bar.start(total, 0, { rate: '-', note: '' });
    return {
      update: (done, note = '') => bar.update(done, { rate: rate(done, seconds()), note }),
      stop: (note) => {
        bar.stop();
        if (note) process.stderr.write(`${title}: ${note}\n`);
      },
    };
  }
  let last = -Infinity;
  return {
    update(done, note = '') {
      if (seconds() - last < LINE_EVERY) return;
      last = seconds();
      const left = done > 0 ? `, ${Math.ceil(((total - done) * last) / done)} s left` : '';
      process.stderr.write(`${title}: ${done}/${total} ${unit}, ${rate(done, last)} ${unit}/s${left} ${note}\n`);
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
