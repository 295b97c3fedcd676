import { open, stat } from 'node:fs/promises';
import path from 'node:path';
import { readLines } from './json-lines';
import type { Unit } from './sources';

/** The last line of a unit's file. */
export interface UnitReport {
  /** Number of pages read. */
  readonly pages: number;
  readonly dropped: Readonly<Record<string, number>>;
  /** Pages whose extraction failed and damaged archives, each with the cause. */
  readonly failures: readonly string[];
}

/**
 * Where a job keeps unfinished work. A job has stages (pages and archives, then images to fetch), and a stage is a list of
 * units. A unit is complete when its file exists.
 */
export class WorkFolder {
  constructor(readonly path: string) {}

  /** The job and its configuration, for workers. */
  get config(): string {
    return path.join(this.path, 'config.json');
  }

  /** What `Assembly` gathers from all units; deleted and rewritten each time. */
  get spill(): string {
    return path.join(this.path, 'gathered');
  }

  /** The units of a stage, one per line. */
  plan(stage: number): string {
    return path.join(this.path, `stage-${stage}.jsonl`);
  }

  unit(stage: number, index: number): string {
    // A thousand files per folder: there may be hundreds of thousands.
    const [folder, name] = [Math.floor(index / 1000), index % 1000].map((n) => String(n).padStart(3, '0'));
    return path.join(this.path, `stage-${stage}`, folder!, `${name}.jsonl`);
  }

  image(file: string): string {
    return path.join(this.path, 'images', file.slice(0, 2), file);
  }
}

/** A unit and the position of its line in the plan, so that a worker can read that line alone. */
export interface PlannedUnit {
  readonly index: number;
  readonly at: number;
  readonly bytes: number;
  readonly unit: Unit;
}

export async function* plannedUnits(plan: string): AsyncGenerator<PlannedUnit> {
  let [index, at] = [0, 0];
  for await (const unit of readLines<Unit>(plan)) {
    const bytes = Buffer.byteLength(JSON.stringify(unit));
    yield { index, at, bytes, unit };
    index++;
    at += bytes + 1;
  }
}

/** Upper bound for the length of the last line of a unit's file. */
const TAIL = 2 ** 17;

/** Reads the report at the end of a unit's file. */
export async function reportOf(file: string): Promise<UnitReport> {
  const { size } = await stat(file);
  const lines = (await readText(file, Math.max(0, size - TAIL), TAIL)).trimEnd().split('\n');
  return (JSON.parse(lines[lines.length - 1]!) as { end: UnitReport }).end;
}

/** @throws Error if there is no unit at this position of the plan */
export async function readUnit(plan: string, at: number, bytes: number): Promise<Unit> {
  return JSON.parse(await readText(plan, at, bytes)) as Unit;
}

/** Reads up to `bytes` bytes at position `at`. */
async function readText(file: string, at: number, bytes: number): Promise<string> {
  const handle = await open(file);
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(bytes), 0, bytes, at);
    return buffer.toString('utf8', 0, bytesRead);
  } finally {
    await handle.close();
  }
}
