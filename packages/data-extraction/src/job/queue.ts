import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Queue } from 'bullmq';
import { ATTEMPTS, checkWorkers, type FailedUnit, type Runner } from './runner';
import { UnitThreads } from './threads';
import type { UnitSettings } from './unit';
import { plannedUnits, readUnit, reportOf, WorkFolder } from './work-folder';

/** What a worker is told: where a unit's line lies in the plan. Everything else is in the folder that all share. */
interface Task {
  readonly stage: number;
  readonly index: number;
  readonly at: number;
  readonly bytes: number;
}

/** Tasks in Redis at a time: enough for every worker, and nothing beside the size of the job. */
const WINDOW = 1000;
const POLL_MS = 500;
/** What is not done by then is handed in again: a no-op, unless Redis has lost it. */
const HAND_IN_AGAIN_MS = 5000;
const CONNECT_MS = 10_000;
/** What is in the way is met twice a second, and told no more often than this. */
const TROUBLE_MS = 10_000;
/** A worker that is killed loses its tasks to others after so long. Units are done in threads, so the lock is kept up. */
const LOCK_MS = 10_000;
/** How many workers a unit may outlive before it is held to be what kills them; others lose theirs by bad luck. */
const MAX_KILLED = 30;

/** BullMQ is loaded where it is used: who extracts on one machine need not install it. */
async function loadBullMQ(): Promise<typeof import('bullmq')> {
  try {
    return await import('bullmq');
  } catch (error) {
    throw new Error('Redis: expected the packages bullmq and ioredis. Install them: npm install bullmq ioredis.', {
      cause: error,
    });
  }
}

const queueName = (job: string) => `flamingo-pages-${job.slice(0, 24)}`;

/** Hands units to workers on other machines, as many at a time as they need; what is done is seen by its file. */
export async function dispatch(
  redis: string,
  job: string,
  work: WorkFolder,
  onTrouble: (trouble: string) => void,
): Promise<Runner> {
  const leaving = new AbortController();
  const queue = await openQueue(redis, job, leaving);
  const tell = seldom(onTrouble);
  // What failed in an earlier run is tried again.
  await queue.clean(0, 0, 'failed');

  /** Tells Redis of the tasks, and asks it for those that failed. */
  const exchange = async (tasks: readonly Task[], look: boolean): Promise<Map<string, string>> => {
    try {
      await queue.addBulk(tasks.map((data) => ({ name: 'unit', data, opts: { ...TASK_OPTIONS, jobId: idOf(data) } })));
      if (look && (await queue.getWorkersCount()) === 0) tell('no worker is there yet');
      const failed = await queue.getFailed(0, WINDOW);
      return new Map(failed.map(({ id, failedReason }) => [id ?? '', failedReason ?? 'no reason given']));
    } catch (error) {
      tell(`Redis at ${hostOf(redis)} does not answer (${(error as Error).message})`);
      return new Map();
    }
  };

  return {
    async run(stage, maxFailed, onDone) {
      const units = plannedUnits(work.plan(stage));
      const waiting = new Map<string, Task>();
      const failed: FailedUnit[] = [];
      for (let [isPlanned, handedIn] = [false, 0]; failed.length < maxFailed; await sleep(POLL_MS)) {
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
        const again = Date.now() - handedIn > HAND_IN_AGAIN_MS;
        if (again) handedIn = Date.now();
        for (const [id, reason] of await exchange(again ? [...waiting.values()] : fresh, again)) {
          const task = waiting.get(id);
          if (!task || existsSync(work.unit(stage, task.index))) continue;
          waiting.delete(id);
          failed.push({ index: task.index, error: /stalled/.test(reason) ? `Unit ${task.index} ${KILLS}` : reason });
        }
      }
      return failed.sort((a, b) => a.index - b.index);
    },
    finish: async () => {
      // What stays in a server that is gone by now harms nobody.
      await queue.obliterate({ force: true }).catch(() => undefined);
    },
    close: () => leave(queue, leaving),
  };
}

const KILLS = `was lost with each of the ${MAX_KILLED} workers that had it: killed, or out of memory.`;

const TASK_OPTIONS = {
  attempts: ATTEMPTS,
  backoff: { type: 'exponential', delay: 1000 },
  removeOnComplete: true,
} as const;

function idOf({ stage, index }: Task): string {
  return `unit-${stage}-${index}`;
}

export interface WorkOnPagesOptions {
  /** The output folder of `extractPages`, which may not have begun. All machines see it, and the input, at the same path. */
  readonly out: string;
  /** Address of the Redis server that `extractPages` was given. */
  readonly redis: string;
  /** Units at a time. Default: the cores. */
  readonly workers?: number;
  /** Ends the work after the units that are at hand. */
  readonly signal?: AbortSignal;
  /** Called with a unit's number when it is done, and with what is in the way. */
  onProgress?(message: string): void;
}

/**
 * Does units of a job of `extractPages` that was given the same Redis server, until the job has ended. Killed at any moment
 * it loses nothing: others do what it had begun.
 *
 * @returns how many units it has done
 */
export async function workOnPages(options: WorkOnPagesOptions): Promise<number> {
  const { redis, workers = availableParallelism(), signal, onProgress } = options;
  checkWorkers('workOnPages', workers);
  const out = path.resolve(options.out);
  const work = new WorkFolder(path.join(out, 'work'));
  const ended = () => signal?.aborted === true || existsSync(path.join(out, 'manifest.json'));
  if (!existsSync(work.settings)) onProgress?.(`waiting for the job to begin in ${out}`);
  while (!ended() && !existsSync(work.settings)) await sleep(POLL_MS);
  if (ended()) return 0;

  const { job, settings } = JSON.parse(await readFile(work.settings, 'utf8')) as {
    job: string;
    settings: UnitSettings;
  };
  const threads = new UnitThreads(settings, work);
  let [units, atHand] = [0, 0];
  const leaving = new AbortController();
  const { Worker } = await loadBullMQ();
  const worker = new Worker<Task>(
    queueName(job),
    async ({ data: { stage, index, at, bytes } }) => {
      if (![stage, index, at, bytes].every(Number.isSafeInteger)) throw new Error('Task: expected four whole numbers.');
      const file = work.unit(stage, index);
      if (existsSync(file)) return;
      atHand++;
      try {
        await threads.run(await readUnit(work.plan(stage), at, bytes), file);
      } finally {
        atHand--;
      }
      units++;
      onProgress?.(`unit ${index} of stage ${stage} done`);
    },
    {
      connection: { url: redis, maxRetriesPerRequest: null, retryStrategy: retryUntil(leaving.signal) },
      concurrency: workers,
      lockDuration: LOCK_MS,
      stalledInterval: LOCK_MS / 2,
      maxStalledCount: MAX_KILLED,
    },
  );
  const tell = seldom((trouble) => onProgress?.(trouble));
  worker.on('error', (error) => tell(`Redis at ${hostOf(redis)}: ${error.message || error.name}`));
  try {
    while (!ended() && existsSync(work.settings)) await sleep(POLL_MS);
    return units;
  } finally {
    leaving.abort();
    await worker.pause(true);
    // Of a job that has ended nothing is wanted any more.
    while (signal?.aborted && atHand > 0) await sleep(POLL_MS);
    await threads.close();
    // Without force it would wait for a server that is gone. A unit that is not reported yet is handed out again, and found done.
    await Promise.race([worker.close(true), sleep(CONNECT_MS, undefined, { ref: false })]);
  }
}

/** @throws Error for an address that is none, and a server that does not answer */
async function openQueue(redis: string, job: string, leaving: AbortController): Promise<Queue<Task>> {
  if (!/^rediss?:$/.test(URL.canParse(redis) ? new URL(redis).protocol : '')) {
    throw new Error(`Redis: expected an address such as redis://localhost:6379, got ${redis}.`);
  }
  const { Queue } = await loadBullMQ();
  // A command that meets no server fails at once, and is given again.
  const queue = new Queue<Task>(queueName(job), {
    connection: { url: redis, enableOfflineQueue: false, retryStrategy: retryUntil(leaving.signal) },
  });
  let trouble = 'no answer';
  queue.on('error', (error) => (trouble = error.message || error.name));
  const ready = await Promise.race([queue.waitUntilReady().then(() => true), sleep(CONNECT_MS, false, { ref: false })]);
  if (ready) return queue;
  void leave(queue, leaving);
  throw new Error(
    `Redis at ${hostOf(redis)} does not answer (${trouble}). Start it, let it accept this machine (it refuses others ` +
      'without a password, unless protected-mode is no), or give another address.',
  );
}

/** To take leave of a server that is gone is an error to BullMQ, and its end is not always told. */
async function leave(queue: Queue<Task>, leaving: AbortController): Promise<void> {
  leaving.abort();
  await Promise.race([queue.disconnect().catch(() => undefined), sleep(POLL_MS, undefined, { ref: false })]);
}

/** A server that is gone is waited for, until there is nothing to do any more: the waiting keeps a process alive. */
function retryUntil(leaving: AbortSignal): (times: number) => number | null {
  return (times) => (leaving.aborted ? null : Math.min(times * 200, 2000));
}

function seldom(tell: (trouble: string) => void): (trouble: string) => void {
  let told = 0;
  return (trouble) => {
    if (Date.now() - told < TROUBLE_MS) return;
    told = Date.now();
    tell(trouble);
  };
}

/** Without the password that an address may hold. */
function hostOf(redis: string): string {
  return new URL(redis).host;
}
