import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { presetOf, type PresetName } from '../filters/presets';
import { Assembly, type Manifest } from './assemble';
import { readBenchmark } from './benchmark';
import { LineWriter, readJson } from './json-lines';
import { throughRedis } from './queue';
import { ATTEMPTS, checkWorkers, inThreads, type RunStage } from './runner';
import { planUnits, type Unit } from './sources';
import { hashHook, type UnitLine, type UnitConfig } from './unit';
import { plannedUnits, WorkFolder } from './work-folder';

export interface ExtractPagesOptions {
  /** Folders of pages, mirrors and archives, or single files. */
  readonly inputs: readonly string[];
  /** Folder for all output. Nothing is written elsewhere. */
  readonly out: string;
  /** Defaults to `m3w`. */
  readonly preset?: PresetName;
  /** Number of threads. Defaults to one less than the number of cores, at least one. */
  readonly workers?: number;
  /**
   * URL of a Redis server, `redis://host:6379`. This process then only coordinates: the units are processed by workers that
   * call `runPageWorker` with the same output folder.
   */
  readonly redis?: string;
  /** Folder of benchmark texts and images; pages and images that copy them are dropped. */
  readonly benchmark?: string;
  /**
   * Path of a module that decides what is explicit; see `ExplicitContentHook`. With `redis`, every worker must be started
   * with the same module: workers never load code from the shared folder.
   */
  readonly explicitHook?: string;
  /** Whether to fetch images that the input does not contain. Defaults to false. */
  readonly fetchImages?: boolean;
  /** Whether to skip units that failed repeatedly, counted as `unit: failed`, instead of throwing. Defaults to false. */
  readonly skipFailed?: boolean;
  /** Called after each unit, including units completed by an earlier run, and when there is a problem. */
  onProgress?(progress: ExtractProgress): void;
}

export interface ExtractProgress {
  readonly units: number;
  readonly ofUnits: number;
  /** Pages processed in this run. */
  readonly pages: number;
  /** What blocks progress: no worker, or a server that does not respond. */
  readonly problem?: string;
}

/** If this many units fail, the job stops: the cause is probably not in the units. */
const MAX_FAILED = 20;

/**
 * Extracts documents from web pages: `pages.jsonl`, `pairs.jsonl` (alternative texts), `images/` and `manifest.json`. If
 * the process is killed at any moment, the same call resumes the work and produces the same bytes.
 *
 * @throws Error for inputs, presets or hooks that do not exist, for a folder with the output of other options, and for units
 *         that failed three times, with their names
 */
export async function extractPages(options: ExtractPagesOptions): Promise<Manifest> {
  const { inputs, preset = 'm3w', workers = Math.max(1, availableParallelism() - 1) } = options;
  checkWorkers('extractPages', workers);
  if (inputs.length === 0) throw new Error('extractPages: expected an input, got none. Pass a folder or a WARC file.');
  const rules = presetOf(preset);
  const out = path.resolve(options.out);
  const work = new WorkFolder(path.join(out, 'work'));
  const config = await readConfig(options, preset);
  const { job, units } = await plan(out, work, inputs, config);
  const done = path.join(out, 'manifest.json');
  if (existsSync(done)) {
    await rm(work.path, { recursive: true, force: true });
    return readJson(done, 'Remove it and extract again.');
  }
  await writeWhole(work.config, JSON.stringify({ job, config }));

  const progress = { units: 0, ofUnits: units, pages: 0 };
  const runner =
    options.redis === undefined
      ? inThreads(config, work, workers, options.explicitHook)
      : await throughRedis(options.redis, job, work, (problem) => options.onProgress?.({ ...progress, problem }));
  const run = (stage: number, ofUnits: number) => {
    Object.assign(progress, { units: 0, ofUnits });
    return runStage(stage, work, runner.run, progress, options);
  };
  const counts = [units];
  try {
    await run(0, units);
    let assembly = await Assembly.begin(work, rules, counts);
    if (config.fetchImages) {
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

async function readConfig(options: ExtractPagesOptions, preset: PresetName): Promise<UnitConfig> {
  const { benchmark, explicitHook, fetchImages = false } = options;
  const explicitHookSha256 = await hashHook(explicitHook);
  return {
    preset,
    ...(fetchImages && { fetchImages }),
    ...(benchmark !== undefined && { benchmark: await readBenchmark(benchmark) }),
    ...(explicitHookSha256 !== undefined && { explicitHookSha256 }),
  };
}

/** Writes the plan of the first stage, and reserves the folder for this job. */
async function plan(
  out: string,
  work: WorkFolder,
  inputs: readonly string[],
  config: UnitConfig,
): Promise<{ job: string; units: number }> {
  await mkdir(out, { recursive: true });
  const jobFile = path.join(out, 'job.json');
  if (!existsSync(jobFile)) {
    const others = (await readdir(out)).filter((name) => name !== 'job.json.tmp');
    if (others.length > 0) {
      throw new Error(
        `Output ${out}: expected an empty folder or the output of an earlier run, found ${others.slice(0, 5).join(', ')}. Choose another folder.`,
      );
    }
    await writeWhole(jobFile, '{}\n');
  }
  await mkdir(work.path, { recursive: true });
  const planned = `${work.plan(0)}.new`;
  const { sha256, units } = await writePlan(planned, planUnits(inputs));
  const job = createHash('sha256')
    .update(JSON.stringify([3, sha256, config]))
    .digest('hex');
  const { job: startedJob = job } = await readJson<{ job?: string }>(
    jobFile,
    'Remove the output folder and extract again.',
  );
  if (startedJob !== job) {
    await rm(planned);
    throw new Error(
      `Output ${out}: started with other inputs or options. Use the same ones to resume, or choose another folder.`,
    );
  }
  await writeWhole(jobFile, `${JSON.stringify({ job })}\n`);
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

/** Runs a stage until every unit has its file. */
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
      `${failed.length} of ${progress.ofUnits} units failed ${ATTEMPTS} times; the first are:\n${first.join('\n')}\n` +
        'Completed units are kept. Run the same command again to retry, or add --skip-failed to skip these units.',
    );
  }
  for (const { index, error } of failed) {
    const end: UnitLine = { end: { pages: 0, dropped: { 'unit: failed': 1 }, failures: [error] } };
    await mkdir(path.dirname(work.unit(stage, index)), { recursive: true });
    await writeWhole(work.unit(stage, index), `${JSON.stringify(end)}\n`);
  }
}
