import { existsSync } from 'node:fs';
import { UnitThreads } from './threads';
import type { UnitConfig } from './unit';
import { plannedUnits, type PlannedUnit, type WorkFolder } from './work-folder';

/** Attempts per unit. Some causes pass: a killed thread, a full disk, a server that is down. */
export const ATTEMPTS = 3;

/** A unit that failed at every attempt. */
export interface FailedUnit {
  readonly index: number;
  readonly error: string;
}

/** Processes the units of a stage that have no file yet. Returns those that failed. */
export type RunStage = (
  stage: number,
  /** No unit is started after this many have failed. */
  maxFailed: number,
  onDone: (pages: number) => void,
) => Promise<readonly FailedUnit[]>;

/** Runs the units of a job: in threads of this process, or on workers through Redis. */
export interface Runner {
  readonly run: RunStage;
  /** Removes what the runner keeps outside the output folder, after the job has succeeded. */
  finish(): Promise<void>;
  close(): Promise<void>;
}

/** @throws Error naming the function `where` if `workers` is not a positive integer */
export function checkWorkers(where: string, workers: number): void {
  if (!Number.isInteger(workers) || workers < 1) {
    throw new Error(`${where}: workers must be an integer of at least 1, got ${workers}.`);
  }
}

/** Runs units in threads of this process. */
export function inThreads(config: UnitConfig, work: WorkFolder, workers: number, explicitHook?: string): Runner {
  const threads = new UnitThreads(config, work, explicitHook);
  const attempt = async ({ unit, index }: PlannedUnit, file: string): Promise<number | FailedUnit> => {
    for (let i = 1; ; i++) {
      try {
        return (await threads.run(unit, file)).pages;
      } catch (error) {
        if (i === ATTEMPTS) return { index, error: (error as Error).message };
      }
    }
  };
  return {
    async run(stage, maxFailed, onDone) {
      const failed: FailedUnit[] = [];
      const units = plannedUnits(work.plan(stage));
      const processUnits = async () => {
        for (let next = await units.next(); !next.done; next = await units.next()) {
          const file = work.unit(stage, next.value.index);
          const result = existsSync(file) ? 0 : await attempt(next.value, file);
          if (typeof result === 'number') onDone(result);
          else failed.push(result);
          if (failed.length >= maxFailed) return;
        }
      };
      await Promise.all(Array.from({ length: workers }, processUnits));
      return failed.sort((a, b) => a.index - b.index);
    },
    finish: () => Promise.resolve(),
    close: () => threads.close(),
  };
}
