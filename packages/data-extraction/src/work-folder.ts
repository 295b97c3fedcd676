import { open } from 'node:fs/promises';
import path from 'node:path';
import { readLines } from './json-lines';
import type { Unit } from './sources';

/** The last line of a unit's file. */
export interface UnitReport {
  /** Pages that were read. */
  readonly pages: number;
  readonly dropped: Readonly<Record<string, number>>;
  /** Pages that met a defect of ours, named; they are counted under `page: failed`. */
  readonly failures: readonly string[];
}

/**
 * Where a job keeps what is not finished. Work is done in stages (pages and archives, then pictures that are fetched), each
 * a list of units; a unit is done when its file is there.
 */
export class WorkFolder {
  constructor(readonly path: string) {}

  /** What workers need to know. */
  get settings(): string {
    return path.join(this.path, 'settings.json');
  }

  /** What is gathered from all units; begun anew each time. */
  get spill(): string {
    return path.join(this.path, 'gathered');
  }

  /** The units of a stage, one in a line. */
  plan(stage: number): string {
    return path.join(this.path, `stage-${stage}.jsonl`);
  }

  unit(stage: number, index: number): string {
    // A thousand to a folder: there may be hundreds of thousands.
    const [folder, name] = [Math.floor(index / 1000), index % 1000].map((n) => String(n).padStart(3, '0'));
    return path.join(this.path, `stage-${stage}`, folder!, `${name}.jsonl`);
  }

  picture(file: string): string {
    return path.join(this.path, 'pictures', file.slice(0, 2), file);
  }
}

/** A unit and where its line lies in the plan, so that a worker can read it alone. */
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

/** Longer than the last line of a unit's file. */
const TAIL = 2 ** 17;

/** What the unit's file says of itself. */
export async function reportOf(file: string): Promise<UnitReport> {
  const handle = await open(file);
  try {
    const { size } = await handle.stat();
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(TAIL), 0, TAIL, Math.max(0, size - TAIL));
    const lines = buffer.toString('utf8', 0, bytesRead).trimEnd().split('\n');
    return (JSON.parse(lines[lines.length - 1]!) as { end: UnitReport }).end;
  } finally {
    await handle.close();
  }
}

/** @throws Error where no unit lies there */
export async function readUnit(plan: string, at: number, bytes: number): Promise<Unit> {
  const handle = await open(plan);
  try {
    const buffer = Buffer.alloc(bytes);
    await handle.read(buffer, 0, bytes, at);
    return JSON.parse(buffer.toString('utf8')) as Unit;
  } finally {
    await handle.close();
  }
}
