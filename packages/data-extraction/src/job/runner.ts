import { existsSync } from 'node:fs';
import { UnitThreads } from './threads';
import type { UnitSettings } from './unit';
import { plannedUnits, type PlannedUnit, type WorkFolder } from './work-folder';

/** How often a unit is tried: a thread may have been killed, a disk full, a server down. */
export const ATTEMPTS = 3;
/** A unit that failed at every attempt. */
export interface FailedUnit {
  readonly index: number;
  readonly error: string;
}

/** Does the units of a stage that have no file yet, and gives those that cannot be done. */
export type RunStage = (
  stage: number,
  /** After so many failed units the rest is not begun. */
  maxFailed: number,
  onDone: (pages: number) => void,
) => Promise<readonly FailedUnit[]>;

/** Who does the units. */
export interface Runner {
  readonly run: RunStage;
  /** All is done: leaves no trace. */
  finish(): Promise<void>;
  close(): Promise<void>;
}

/** @throws Error naming the function that was called with them */
export function checkWorkers(where: string, workers: number): void {
  if (!Number.isInteger(workers) || workers < 1) {
    throw new Error(`${where}: workers must be a whole number from 1, got ${workers}.`);
  }
}

/** The embedded way: threads of this process. */
export function inThreads(settings: UnitSettings, work: WorkFolder, workers: number): Runner {
  const threads = new UnitThreads(settings, work);
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
      const takeTurns = async () => {
        for (let next = await units.next(); !next.done; next = await units.next()) {
          const file = work.unit(stage, next.value.index);
          const result = existsSync(file) ? 0 : await attempt(next.value, file);
          if (typeof result === 'number') onDone(result);
          else failed.push(result);
          if (failed.length >= maxFailed) return;
        }
      };
      await Promise.all(Array.from({ length: workers }, takeTurns));
      return failed.sort((a, b) => a.index - b.index);
    },
    finish: () => Promise.resolve(),
    close: () => threads.close(),
  };
}
