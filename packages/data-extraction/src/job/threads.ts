import { Worker } from 'node:worker_threads';
import type { Unit } from './sources';
import type { UnitConfig } from './unit';
import type { UnitReport, WorkFolder } from './work-folder';

/** A unit takes seconds, or minutes if it fetches images from a slow server. After this it counts as hanging. */
const TIME_LIMIT_MS = 30 * 60_000;
/** A unit holds one page in memory. A page that needs more than this is hostile and has passed the other limits. */
const RESOURCE_LIMITS = { maxOldGenerationSizeMb: 2048, stackSizeMb: 8 };

export type ThreadReply = { readonly report: UnitReport } | { readonly error: string };

/** Data that an extraction thread receives when it starts. */
export interface ThreadData {
  readonly config: UnitConfig;
  readonly work: string;
  /** Path of the `ExplicitContentHook` that this process was given. */
  readonly explicitHook: string | undefined;
}

interface Thread {
  readonly worker: Worker;
  /** Completes the current unit. */
  settle?: (reply: ThreadReply) => void;
}

/** Threads that process one unit each. If a thread exits or hangs, its unit fails and a new thread replaces it. */
export class UnitThreads {
  private readonly idle = new Set<Thread>();
  private readonly busy = new Set<Thread>();

  constructor(
    private readonly config: UnitConfig,
    private readonly work: WorkFolder,
    private readonly explicitHook?: string,
    private readonly timeLimitMs = TIME_LIMIT_MS,
  ) {}

  /**
   * Processes a unit. Calls may overlap: each starts a thread if none is idle.
   *
   * @param file where the result is written
   * @throws Error naming the unit and the cause
   */
  run(unit: Unit, file: string): Promise<UnitReport> {
    const [thread = this.start()] = this.idle;
    this.idle.delete(thread);
    this.busy.add(thread);
    return new Promise((resolve, reject) => {
      const hangs = () => this.lose(thread, `did not finish within ${this.timeLimitMs / 60_000} minutes.`);
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
    const { config, work, explicitHook } = this;
    const workerData: ThreadData = { config, work: work.path, explicitHook };
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
    worker.on('exit', (code) => this.lose(thread, `its thread exited with code ${code}.`));
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
  if (unit.kind === 'files') return `${unit.root}, from ${unit.files[0]}`;
  return unit.kind === 'warc' ? `${unit.file}, byte ${unit.start}` : `images from ${unit.images[0]?.[0]}`;
}
