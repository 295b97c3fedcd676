import { Worker } from 'node:worker_threads';

/** A valid row group takes a second or two. */
const TIMEOUT_MS = 30_000;
/** Heap limit of the worker. Buffers do not count. */
const MAX_HEAP_MIB = 2048;

export interface ParquetDescription {
  readonly columns: readonly string[];
  readonly groups: readonly { readonly rows: number; readonly bytes: number }[];
  /** Compressions in the file that cannot be read, and all compressions that can. */
  readonly unreadable: readonly string[];
  readonly readable: readonly string[];
}

export type ParquetRow = Readonly<Record<string, unknown>>;

type Job =
  | { readonly kind: 'describe'; readonly path: string }
  | {
      readonly kind: 'read';
      readonly path: string;
      readonly columns: readonly string[];
      readonly rowStart: number;
      readonly rowEnd: number;
    };
type Reply = { readonly value: unknown } | { readonly error: string };

/**
 * Reads parquet files in a worker, one request after the other. A damaged file can send the parser into an endless loop or
 * fill the memory; then the worker is terminated and replaced. An idle worker does not keep the process alive.
 */
export class ParquetReader {
  private worker: Worker | undefined;
  private latest: Promise<unknown> = Promise.resolve();

  constructor(private readonly timeoutMs = TIMEOUT_MS) {}

  /** @throws Error with what is wrong with the file */
  describe(path: string): Promise<ParquetDescription> {
    return this.ask({ kind: 'describe', path }) as Promise<ParquetDescription>;
  }

  /** @throws Error with what is wrong with the rows */
  read(path: string, columns: readonly string[], rowStart: number, rowEnd: number): Promise<readonly ParquetRow[]> {
    return this.ask({ kind: 'read', path, columns, rowStart, rowEnd }) as Promise<readonly ParquetRow[]>;
  }

  private ask(job: Job): Promise<unknown> {
    const answer = this.latest.then(() => this.run(job));
    this.latest = answer.catch(() => undefined);
    return answer;
  }

  private run(job: Job): Promise<unknown> {
    const worker = (this.worker ??= this.spawn());
    worker.ref();
    return new Promise((resolve, reject) => {
      const settle = () => {
        clearTimeout(timer);
        worker.off('message', answered).off('error', failed).off('exit', ended);
        worker.unref();
      };
      const giveUp = (reason: string) => {
        settle();
        this.worker = undefined;
        // A terminating worker may still report an error.
        worker.on('error', () => undefined);
        void worker.terminate();
        reject(new Error(reason));
      };
      const answered = (reply: Reply) => {
        settle();
        if ('error' in reply) reject(new Error(reply.error));
        else resolve(reply.value);
      };
      const failed = (error: Error) => giveUp(error.message);
      const ended = () => giveUp('the parser exited');
      const timer = setTimeout(() => giveUp(`not read within ${this.timeoutMs / 1000} s`), this.timeoutMs);
      worker.on('message', answered).on('error', failed).on('exit', ended);
      worker.postMessage(job);
    });
  }

  private spawn(): Worker {
    return new Worker(new URL('./parquet-worker.js', import.meta.url), {
      execArgv: [],
      resourceLimits: { maxOldGenerationSizeMb: MAX_HEAP_MIB },
    });
  }
}
