import { open, stat } from 'node:fs/promises';
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
 * Where a job keeps what is not finished. Work is done in stages (pages and archives, then images that are fetched), each
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

  image(file: string): string {
    return path.join(this.path, 'images', file.slice(0, 2), file);
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
  const { size } = await stat(file);
  const lines = (await readText(file, Math.max(0, size - TAIL), TAIL)).trimEnd().split('\n');
  return (JSON.parse(lines[lines.length - 1]!) as { end: UnitReport }).end;
}

/** @throws Error where no unit lies there */
export async function readUnit(plan: string, at: number, bytes: number): Promise<Unit> {
  return JSON.parse(await readText(plan, at, bytes)) as Unit;
}

/** As much of so many bytes as the file has there. */
async function readText(file: string, at: number, bytes: number): Promise<string> {
  const handle = await open(file);
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(bytes), 0, bytes, at);
    return buffer.toString('utf8', 0, bytesRead);
  } finally {
    await handle.close();
  }
}
