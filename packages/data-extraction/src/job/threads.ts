import { Worker } from 'node:worker_threads';
import type { Unit } from './sources';
import type { UnitSettings } from './unit';
import type { UnitReport, WorkFolder } from './work-folder';

/** A unit takes seconds, one of images of a slow server minutes; one that takes this long hangs. */
const TIME_LIMIT_MS = 30 * 60_000;
/** A unit holds one page at a time; a page that needs more than this is a bomb that got past its limits. */
const RESOURCE_LIMITS = { maxOldGenerationSizeMb: 2048, stackSizeMb: 8 };

export type ThreadReply = { readonly report: UnitReport } | { readonly error: string };

/** What a thread of extraction is started with. */
export interface ThreadData {
  readonly settings: UnitSettings;
  readonly work: string;
}

interface Thread {
  readonly worker: Worker;
  /** Ends the unit that it is at. */
  settle?: (reply: ThreadReply) => void;
}

/** Threads that do one unit each. One that ends or hangs fails its unit, and is replaced. */
export class UnitThreads {
  private readonly idle = new Set<Thread>();
  private readonly busy = new Set<Thread>();

  constructor(
    private readonly settings: UnitSettings,
    private readonly work: WorkFolder,
    private readonly timeLimitMs = TIME_LIMIT_MS,
  ) {}

  /**
   * Does a unit; as many go on at a time as are asked for.
   *
   * @param file where what comes out is written
   * @throws Error naming the unit, and what went wrong
   */
  run(unit: Unit, file: string): Promise<UnitReport> {
    const [thread = this.start()] = this.idle;
    this.idle.delete(thread);
    this.busy.add(thread);
    return new Promise((resolve, reject) => {
      const hangs = () => this.lose(thread, `not done within ${this.timeLimitMs / 60_000} minutes.`);
      const timer = setTimeout(hangs, this.timeLimitMs);
      thread.settle = (reply) => {
        clearTimeout(timer);
        thread.settle = undefined;
        if ('report' in reply) resolve(reply.report);
        else reject(new Error(`Extraction of ${nameOf(unit)}: ${reply.error}`));
      };
      thread.worker.postMessage({ unit, file });
    });
  }

  async close(): Promise<void> {
    await Promise.all([...this.idle, ...this.busy].map(({ worker }) => worker.terminate()));
  }

  private start(): Thread {
    const file = import.meta.url.endsWith('.ts') ? './source-worker.js' : './worker.js';
    const workerData: ThreadData = { settings: this.settings, work: this.work.path };
    const worker = new Worker(new URL(file, import.meta.url), {
      workerData,
      execArgv: [],
      resourceLimits: RESOURCE_LIMITS,
    });
    const thread: Thread = { worker };
    worker.on('message', (reply: ThreadReply) => {
      if (!this.busy.delete(thread)) return;
      this.idle.add(thread);
      thread.settle?.(reply);
    });
    worker.on('error', (error) => this.lose(thread, error.message));
    worker.on('exit', (code) => this.lose(thread, `its thread ended with ${code}.`));
    return thread;
  }

  private lose(thread: Thread, error: string): void {
    this.idle.delete(thread);
    this.busy.delete(thread);
    void thread.worker.terminate();
    thread.settle?.({ error });
  }
}

export function nameOf(unit: Unit): string {
  if (unit.kind === 'files') return `${unit.root}, ${unit.files[0]} and following`;
  return unit.kind === 'warc' ? `${unit.file}, byte ${unit.start}` : `${unit.images[0]?.[0]} and following`;
}
