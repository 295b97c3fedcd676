import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { presetOf, type PresetName } from '../filters/presets';
import { Assembly, type Manifest } from './assemble';
import { readBenchmark } from './benchmark';
import { LineWriter } from './json-lines';
import { dispatch } from './queue';
import { ATTEMPTS, checkWorkers, inThreads, type RunStage } from './runner';
import { planUnits, type Unit } from './sources';
import type { UnitLine, UnitSettings } from './unit';
import { plannedUnits, WorkFolder } from './work-folder';

export interface ExtractPagesOptions {
  /** Folders of pages, mirrors and archives, or single files. */
  readonly inputs: readonly string[];
  /** Folder that everything is written to, and nothing beside it. */
  readonly out: string;
  /** Default `m3w`. */
  readonly preset?: PresetName;
  /** Threads. Default: one less than the cores, at least one. */
  readonly workers?: number;
  /**
   * Address of a Redis server, `redis://host:6379`. The work is then done not here but by whoever calls `workOnPages` with
   * the same output folder.
   */
  readonly redis?: string;
  /** Folder of benchmark texts and images that must not come through. */
  readonly benchmark?: string;
  /** Path of a module that says what is explicit; see `ExplicitContentHook`. */
  readonly explicitHook?: string;
  /** Whether images that are not among the input are asked of their servers. Default false. */
  readonly fetchImages?: boolean;
  /** Whether to leave out units that failed again and again, counted as `unit: failed`, rather than end with an error. */
  readonly skipFailed?: boolean;
  /** Called after each unit, done now or before, and when something is in the way. */
  onProgress?(progress: ExtractProgress): void;
}

export interface ExtractProgress {
  readonly units: number;
  readonly ofUnits: number;
  /** Pages of this run. */
  readonly pages: number;
  /** What keeps the work from going on: no worker, a server that does not answer. */
  readonly trouble?: string;
}

/** What fails this often is not the unit. */
const MAX_FAILED = 20;

/**
 * Extracts documents from web pages: `pages.jsonl`, `pairs.jsonl` (alternative texts), `images/` and `manifest.json`.
 * Stopped or killed at any moment, the same call goes on where it was and ends with the same bytes.
 *
 * @throws Error for inputs, presets or hooks that are not there, for a folder with the output of other settings, and for
 *         units that failed three times, named
 */
export async function extractPages(options: ExtractPagesOptions): Promise<Manifest> {
  const { inputs, preset = 'm3w', workers = Math.max(1, availableParallelism() - 1) } = options;
  checkWorkers('extractPages', workers);
  if (inputs.length === 0) throw new Error('extractPages: expected an input, got none. Give a folder or a WARC file.');
  const rules = presetOf(preset);
  const out = path.resolve(options.out);
  const work = new WorkFolder(path.join(out, 'work'));
  const settings = await readSettings(options, preset);
  const { job, units } = await plan(out, work, inputs, settings, options.explicitHook);
  const done = path.join(out, 'manifest.json');
  if (existsSync(done)) {
    await rm(work.path, { recursive: true, force: true });
    return JSON.parse(await readFile(done, 'utf8')) as Manifest;
  }
  await writeWhole(work.settings, JSON.stringify({ job, settings }));

  const progress = { units: 0, ofUnits: units, pages: 0 };
  const runner =
    options.redis === undefined
      ? inThreads(settings, work, workers)
      : await dispatch(options.redis, job, work, (trouble) => options.onProgress?.({ ...progress, trouble }));
  const run = (stage: number, ofUnits: number) => {
    Object.assign(progress, { units: 0, ofUnits });
    return runStage(stage, work, runner.run, progress, options);
  };
  const counts = [units];
  try {
    await run(0, units);
    let assembly = await Assembly.begin(work, rules, counts);
    if (settings.fetchImages) {
      if (!existsSync(work.plan(1))) await writePlan(work.plan(1), assembly.missing());
      counts.push(await countLines(work.plan(1)));
      await run(1, counts[1]!);
      assembly = await Assembly.begin(work, rules, counts);
    }
    const manifest: Manifest = { preset, inputs, ...(await assembly.write(out)) };
    await writeWhole(done, `${JSON.stringify(manifest, null, 2)}\n`);
    await runner.finish();
    await rm(work.path, { recursive: true });
    return manifest;
  } finally {
    await runner.close();
  }
}

async function readSettings(options: ExtractPagesOptions, preset: PresetName): Promise<UnitSettings> {
  const { benchmark, explicitHook, fetchImages = false } = options;
  return {
    preset,
    ...(fetchImages && { fetchImages }),
    ...(benchmark !== undefined && { benchmark: await readBenchmark(benchmark) }),
    ...(explicitHook !== undefined && { explicitHook: path.resolve(explicitHook) }),
  };
}

/** Writes the plan of the first stage, and claims the folder for this job. */
async function plan(
  out: string,
  work: WorkFolder,
  inputs: readonly string[],
  settings: UnitSettings,
  explicitHook: string | undefined,
): Promise<{ job: string; units: number }> {
  await mkdir(out, { recursive: true });
  const mark = path.join(out, 'job.json');
  if (!existsSync(mark)) {
    const others = (await readdir(out)).filter((name) => name !== 'job.json.tmp');
    if (others.length > 0) {
      throw new Error(
        `Output ${out}: expected an empty folder or one begun before, got ${others.slice(0, 5).join(', ')}. Choose another.`,
      );
    }
    await writeWhole(mark, '{}\n');
  }
  const hookCode = explicitHook === undefined ? '' : await readFile(explicitHook, 'utf8');
  await mkdir(work.path, { recursive: true });
  const planned = `${work.plan(0)}.new`;
  const { sha256, units } = await writePlan(planned, planUnits(inputs));
  const job = createHash('sha256')
    .update(JSON.stringify([2, sha256, settings, hookCode]))
    .digest('hex');
  const { job: theirs = job } = JSON.parse(await readFile(mark, 'utf8')) as { job?: string };
  if (theirs !== job) {
    await rm(planned);
    throw new Error(
      `Output ${out}: it was begun with other inputs or settings. Repeat them to go on, or choose another folder.`,
    );
  }
  await writeWhole(mark, `${JSON.stringify({ job })}\n`);
  await rename(planned, work.plan(0));
  return { job, units };
}

async function writePlan(file: string, units: AsyncIterable<Unit>): Promise<{ sha256: string; units: number }> {
  const writer = new LineWriter(file);
  for await (const unit of units) await writer.write(unit);
  return { sha256: await writer.close(), units: writer.lines };
}

async function countLines(plan: string): Promise<number> {
  let count = 0;
  for await (const { index } of plannedUnits(plan)) count = index + 1;
  return count;
}

async function writeWhole(file: string, text: string): Promise<void> {
  await writeFile(`${file}.tmp`, text);
  await rename(`${file}.tmp`, file);
}

/** Runs a stage to its end: afterwards every unit has its file. */
async function runStage(
  stage: number,
  work: WorkFolder,
  run: RunStage,
  progress: { units: number; readonly ofUnits: number; pages: number },
  { skipFailed = false, onProgress }: ExtractPagesOptions,
): Promise<void> {
  const failed = await run(stage, skipFailed ? Infinity : MAX_FAILED, (pages) => {
    progress.units++;
    progress.pages += pages;
    onProgress?.({ ...progress });
  });
  if (failed.length === 0) return;
  if (!skipFailed) {
    const first = failed.slice(0, 5).map(({ error }) => `  ${error}`);
    throw new Error(
      `${failed.length} of ${progress.ofUnits} units failed ${ATTEMPTS} times, the first of them:\n${first.join('\n')}\n` +
        'Everything else is kept. Give the same command to try them again, or skip them (--skip-failed).',
    );
  }
  for (const { index, error } of failed) {
    const end: UnitLine = { end: { pages: 0, dropped: { 'unit: failed': 1 }, failures: [error] } };
    await mkdir(path.dirname(work.unit(stage, index)), { recursive: true });
    await writeWhole(work.unit(stage, index), `${JSON.stringify(end)}\n`);
  }
}
