import { existsSync } from 'node:fs';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { presetOf, type PresetName } from '../filters/presets';
import { Assembly } from './assemble';
import { filesBelow, planUnits, type Unit } from './sources';
import { UnitThreads } from './threads';
import { WorkFolder } from './work-folder';

export interface ExtractionEstimate {
  /** Units of the input, and units in the sample. */
  readonly units: number;
  readonly sampledUnits: number;
  /** Pages of the input: counted in folders, estimated from the sample in archives. */
  readonly pages: number;
  readonly sampledPages: number;
  /** Per page read. Duplicates are found within the sample only, so the whole input yields somewhat less. */
  readonly perPage: {
    readonly documents: number;
    readonly images: number;
    /** CPU seconds of all threads together. */
    readonly cpuSeconds: number;
    readonly textBytes: number;
    readonly imageBytes: number;
  };
  /** What was dropped from the sample, by reason. */
  readonly dropped: Readonly<Record<string, number>>;
}

/** Sampling stops after the unit that exceeds either limit. */
const MAX_UNITS = 48;
const MAX_SECONDS = 30;

/**
 * Estimates the cost and yield of an extraction: extracts evenly spaced units of the input in a temporary folder.
 *
 * @throws Error for inputs that do not exist, and for a unit that fails
 */
export async function estimateExtraction(
  inputs: readonly string[],
  { preset = 'm3w' }: { preset?: PresetName } = {},
): Promise<ExtractionEstimate> {
  const folder = await mkdtemp(path.join(tmpdir(), 'flamingo-plan-'));
  const work = new WorkFolder(path.join(folder, 'work'));
  const threads = new UnitThreads({ preset }, work);
  try {
    let units: Unit[] = [];
    let total = { files: 0, bytes: 0 };
    let all = 0;
    let step = 1;
    for await (const unit of planUnits(inputs)) {
      total = sizeOf(unit, total);
      if (all++ % step === 0) units.push(unit);
      // Keep every second, fourth, ... unit: an even sample while the total is unknown.
      if (units.length > MAX_UNITS) {
        step *= 2;
        units = units.filter((_, i) => i % 2 === 0);
      }
    }
    // Warm-up, not measured: a thread takes a second or two to start.
    await threads.run(units[0]!, work.unit(0, 0));
    let sampled = { files: 0, bytes: 0 };
    let [sampledUnits, ofArchives] = [0, 0];
    const started = { at: performance.now(), cpu: process.cpuUsage() };
    for (const unit of units) {
      const { pages } = await threads.run(unit, work.unit(0, sampledUnits++));
      sampled = sizeOf(unit, sampled);
      if (unit.kind === 'warc') ofArchives += pages;
      if (performance.now() - started.at > MAX_SECONDS * 1000) break;
    }
    const assembly = await Assembly.begin(work, presetOf(preset), [sampledUnits]);
    const { pages: sampledPages, documents, images, dropped } = await assembly.write(folder);
    const { user, system } = process.cpuUsage(started.cpu);
    const per = (value: number) => value / Math.max(1, sampledPages);
    return {
      units: all,
      sampledUnits,
      pages: total.files + Math.round((ofArchives * total.bytes) / Math.max(1, sampled.bytes)),
      sampledPages,
      perPage: {
        documents: per(documents),
        images: per(images),
        cpuSeconds: per((user + system) / 1e6),
        textBytes: per((await stat(path.join(folder, 'pages.jsonl'))).size),
        imageBytes: per(await bytesBelow(path.join(folder, 'images'))),
      },
      dropped,
    };
  } finally {
    await threads.close();
    await rm(folder, { recursive: true });
  }
}

/** Adds the pages of a unit of files, or the bytes of a unit of an archive. */
function sizeOf(unit: Unit, before: { files: number; bytes: number }): { files: number; bytes: number } {
  if (unit.kind === 'files') return { ...before, files: before.files + unit.files.length };
  return unit.kind === 'warc' ? { ...before, bytes: before.bytes + unit.end - unit.start } : before;
}

async function bytesBelow(folder: string): Promise<number> {
  let bytes = 0;
  // The folder of images exists only if a page became a document.
  if (existsSync(folder)) for await (const file of filesBelow(folder)) bytes += (await stat(file)).size;
  return bytes;
}
