import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Queue } from 'bullmq';
import { readJson } from './json-lines';
import { ATTEMPTS, checkWorkers, type FailedUnit, type Runner } from './runner';
import { UnitThreads } from './threads';
import { checkHook, type UnitConfig } from './unit';
import { plannedUnits, readUnit, reportOf, WorkFolder } from './work-folder';

/** What a worker receives: the position of a unit in the plan. Everything else is in the shared folder. */
interface Task {
  readonly stage: number;
  readonly index: number;
  readonly at: number;
  readonly bytes: number;
}

/** Maximum number of tasks in Redis at the same time: enough to keep every worker busy. */
const WINDOW = 1000;
const POLL_MS = 500;
/** Pending tasks are submitted again after this: a no-op unless Redis has lost them. */
const RESUBMIT_MS = 5000;
const CONNECT_MS = 10_000;
/** Problems recur twice a second, but are reported at most this often. */
const REPORT_MS = 10_000;
/**
 * Other workers take over the tasks of a killed worker after this. A live worker renews its lock in time, because
 * threads do the work.
 */
const LOCK_MS = 10_000;
/** After this many workers were killed while they held a unit, the unit counts as failed: it probably kills them. */
const MAX_KILLED = 30;

/** BullMQ is loaded on demand: extraction on one machine does not require it. */
async function loadBullMQ(): Promise<typeof import('bullmq')> {
  try {
    return await import('bullmq');
  } catch (error) {
    throw new Error('Redis requires the packages bullmq and ioredis. Install them: npm install bullmq ioredis.', {
      cause: error,
    });
  }
}

const queueName = (job: string) => `flamingo-pages-${job.slice(0, 24)}`;

/** Submits units to workers through Redis, a window at a time. A unit is complete when its file exists. */
export async function throughRedis(
  redis: string,
  job: string,
  work: WorkFolder,
  onProblem: (problem: string) => void,
): Promise<Runner> {
  const closing = new AbortController();
  const queue = await openQueue(redis, job, closing);
  const report = throttled(onProblem);
  // Retry what failed in an earlier run.
  await queue.clean(0, 0, 'failed');

  /** Submits tasks to Redis. Returns the reasons of those that failed. */
  const exchange = async (tasks: readonly Task[], checksWorkers: boolean): Promise<Map<string, string>> => {
    try {
      await queue.addBulk(tasks.map((data) => ({ name: 'unit', data, opts: { ...TASK_OPTIONS, jobId: idOf(data) } })));
      if (checksWorkers && (await queue.getWorkersCount()) === 0) report('no worker has connected yet');
      const failed = await queue.getFailed(0, WINDOW);
      return new Map(failed.map(({ id, failedReason }) => [id ?? '', failedReason ?? 'no reason given']));
    } catch (error) {
      report(`Redis at ${hostOf(redis)} does not respond (${(error as Error).message})`);
      return new Map();
    }
  };

  return {
    async run(stage, maxFailed, onDone) {
      const units = plannedUnits(work.plan(stage));
      const waiting = new Map<string, Task>();
      const failed: FailedUnit[] = [];
      for (let [isPlanned, submitted] = [false, 0]; failed.length < maxFailed; await sleep(POLL_MS)) {
        for (const [id, { index }] of waiting) {
          const file = work.unit(stage, index);
          if (!existsSync(file)) continue;
          waiting.delete(id);
          onDone((await reportOf(file)).pages);
        }
        const fresh: Task[] = [];
        while (!isPlanned && waiting.size < WINDOW) {
          const next = await units.next();
          isPlanned = next.done === true;
          if (next.done) break;
          const { index, at, bytes } = next.value;
          const task = { stage, index, at, bytes };
          if (existsSync(work.unit(stage, index))) onDone(0);
          else {
            waiting.set(idOf(task), task);
            fresh.push(task);
          }
        }
        if (waiting.size === 0) break;
        const again = Date.now() - submitted > RESUBMIT_MS;
        if (again) submitted = Date.now();
        for (const [id, reason] of await exchange(again ? [...waiting.values()] : fresh, again)) {
          const task = waiting.get(id);
          if (!task || existsSync(work.unit(stage, task.index))) continue;
          waiting.delete(id);
          failed.push({ index: task.index, error: /stalled/.test(reason) ? `Unit ${task.index} ${LOST}` : reason });
        }
      }
      return failed.sort((a, b) => a.index - b.index);
    },
    finish: async () => {
      // Leftovers on a server that no longer responds are harmless.
      await queue.obliterate({ force: true }).catch(() => undefined);
    },
    close: () => disconnect(queue, closing),
  };
}

const LOST = `was lost with ${MAX_KILLED} workers that were killed or ran out of memory.`;

const TASK_OPTIONS = {
  attempts: ATTEMPTS,
  backoff: { type: 'exponential', delay: 1000 },
  removeOnComplete: true,
} as const;

function idOf({ stage, index }: Task): string {
  return `unit-${stage}-${index}`;
}

export interface PageWorkerOptions {
  /**
   * Output folder of `extractPages`, which may start later. It and the input must have the same path on all machines.
   */
  readonly out: string;
  /** URL of the Redis server that `extractPages` uses. */
  readonly redis: string;
  /** Path of the module that `extractPages` was given as `explicitHook`. */
  readonly explicitHook?: string;
  /** Number of threads. Defaults to the number of cores. */
  readonly workers?: number;
  /** Stops the worker after its current units. */
  readonly signal?: AbortSignal;
  /** Called when a unit is complete, and when there is a problem. */
  onProgress?(message: string): void;
}

/**
 * Processes units of an `extractPages` job that uses the same Redis server, until the job ends. It may be killed at any
 * moment: other workers take over its units.
 *
 * @returns the number of units it completed
 * @throws Error for a hook that is missing or differs from the job's
 */
export async function runPageWorker(options: PageWorkerOptions): Promise<number> {
  const { redis, workers = availableParallelism(), explicitHook, signal, onProgress } = options;
  checkWorkers('runPageWorker', workers);
  const out = path.resolve(options.out);
  const work = new WorkFolder(path.join(out, 'work'));
  const ended = () => signal?.aborted === true || existsSync(path.join(out, 'manifest.json'));
  if (!existsSync(work.config)) onProgress?.(`waiting for the job to start in ${out}`);
  while (!ended() && !existsSync(work.config)) await sleep(POLL_MS);
  if (ended()) return 0;

  const { job, config } = await readJson<{ job: string; config: UnitConfig }>(
    work.config,
    'Run extractPages again, which writes it.',
  );
  await checkHook(config, explicitHook);
  const threads = new UnitThreads(config, work, explicitHook);
  let [units, running] = [0, 0];
  const closing = new AbortController();
  const { Worker } = await loadBullMQ();
  const worker = new Worker<Task>(
    queueName(job),
    async ({ data: { stage, index, at, bytes } }) => {
      if (![stage, index, at, bytes].every(Number.isSafeInteger)) throw new Error('Task: expected four integers.');
      const file = work.unit(stage, index);
      if (existsSync(file)) return;
      running++;
      try {
        await threads.run(await readUnit(work.plan(stage), at, bytes), file);
      } finally {
        running--;
      }
      units++;
      onProgress?.(`unit ${index} of stage ${stage} completed`);
    },
    {
      connection: { url: redis, maxRetriesPerRequest: null, retryStrategy: retryUntil(closing.signal) },
      concurrency: workers,
      lockDuration: LOCK_MS,
      stalledInterval: LOCK_MS / 2,
      maxStalledCount: MAX_KILLED,
    },
  );
  const report = throttled((problem) => onProgress?.(problem));
  worker.on('error', (error) => report(`Redis at ${hostOf(redis)}: ${error.message || error.name}`));
  try {
    while (!ended() && existsSync(work.config)) await sleep(POLL_MS);
    return units;
  } finally {
    closing.abort();
    await worker.pause(true);
    // Wait for running units only if the job continues.
    while (signal?.aborted && running > 0) await sleep(POLL_MS);
    await threads.close();
    // Force: otherwise it waits for a dead server. A completed unit that was not reported is submitted again, and skipped.
    await Promise.race([worker.close(true), sleep(CONNECT_MS, undefined, { ref: false })]);
  }
}

/** @throws Error for an invalid URL, and for a server that does not respond */
async function openQueue(redis: string, job: string, closing: AbortController): Promise<Queue<Task>> {
  if (!/^rediss?:$/.test(URL.canParse(redis) ? new URL(redis).protocol : '')) {
    throw new Error(`Redis: expected a URL such as redis://localhost:6379, got ${redis}.`);
  }
  const { Queue } = await loadBullMQ();
  // Without a connection commands fail at once; they are sent again later.
  const queue = new Queue<Task>(queueName(job), {
    connection: { url: redis, enableOfflineQueue: false, retryStrategy: retryUntil(closing.signal) },
  });
  let problem = 'no response';
  queue.on('error', (error) => (problem = error.message || error.name));
  const ready = await Promise.race([queue.waitUntilReady().then(() => true), sleep(CONNECT_MS, false, { ref: false })]);
  if (ready) return queue;
  void disconnect(queue, closing);
  throw new Error(
    `Redis at ${hostOf(redis)} does not respond (${problem}). Start it, configure it to accept this machine (without a ` +
      'password, it refuses other machines unless protected-mode is off), or pass another URL.',
  );
}

/** BullMQ throws when disconnecting from a dead server, and does not always settle. */
async function disconnect(queue: Queue<Task>, closing: AbortController): Promise<void> {
  closing.abort();
  await Promise.race([queue.disconnect().catch(() => undefined), sleep(POLL_MS, undefined, { ref: false })]);
}

/** Retries a lost connection until the work is over. Retries keep the process alive. */
function retryUntil(closing: AbortSignal): (times: number) => number | null {
  return (times) => (closing.aborted ? null : Math.min(times * 200, 2000));
}

/** Calls `report` at most every `REPORT_MS`. */
function throttled(report: (problem: string) => void): (problem: string) => void {
  let last = 0;
  return (problem) => {
    if (Date.now() - last < REPORT_MS) return;
    last = Date.now();
    report(problem);
  };
}

/** Host and port, without the password that the URL may contain. */
function hostOf(redis: string): string {
  return new URL(redis).host;
}
