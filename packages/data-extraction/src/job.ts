import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { Worker } from 'node:worker_threads';
import { assemble, type Manifest } from './assemble';
import { readBenchmark } from './benchmark';
import { presetOf, type PresetName } from './presets';
import { planUnits, type Unit } from './sources';
import type { UnitReport, UnitSettings } from './unit';

export interface ExtractPagesOptions {
  /** Folders of pages, mirrors and archives, or single files. */
  readonly inputs: readonly string[];
  /** Folder that everything is written to, and nothing beside it. */
  readonly out: string;
  /** Default `m3w`. */
  readonly preset?: PresetName;
  /** Threads. Default: one less than the cores, at least one. */
  readonly workers?: number;
  /** Folder of benchmark texts and pictures that must not come through. */
  readonly benchmark?: string;
  /** Path of a module that says what is explicit; see `ExplicitContentHook`. */
  readonly explicitHook?: string;
  /** Called after each unit, done now or before. */
  onProgress?(progress: ExtractProgress): void;
}

export interface ExtractProgress {
  readonly units: number;
  readonly ofUnits: number;
  /** Pages of this run. */
  readonly pages: number;
}

/**
 * Extracts documents from web pages: `pages.jsonl`, `pairs.jsonl` (alternative texts), `images/` and `manifest.json`.
 * Stopped or killed at any moment, the same call goes on where it was and ends with the same bytes.
 *
 * @throws Error for inputs, presets or hooks that are not there, and for a folder with the output of other settings
 */
export async function extractPages(options: ExtractPagesOptions): Promise<Manifest> {
  const { inputs, preset = 'm3w', explicitHook, workers = Math.max(1, availableParallelism() - 1) } = options;
  if (!Number.isInteger(workers) || workers < 1) {
    throw new Error(`extractPages: workers must be a whole number from 1, got ${workers}.`);
  }
  if (inputs.length === 0) throw new Error('extractPages: expected an input, got none. Give a folder or a WARC file.');
  const out = path.resolve(options.out);
  const units = await planUnits(inputs);
  const benchmark = options.benchmark === undefined ? undefined : await readBenchmark(options.benchmark);
  const hookCode = explicitHook === undefined ? '' : await readFile(explicitHook, 'utf8');
  const rules = presetOf(preset);
  const job = createHash('sha256')
    .update(JSON.stringify([1, units, preset, benchmark, hookCode]))
    .digest('hex');

  const work = path.join(out, 'work');
  await claim(out, job);
  const done = path.join(out, 'manifest.json');
  if (existsSync(done)) {
    await rm(work, { recursive: true, force: true });
    return JSON.parse(await readFile(done, 'utf8')) as Manifest;
  }
  await mkdir(path.join(work, 'pictures'), { recursive: true });
  const settings: UnitSettings = { preset, work, benchmark, explicitHook: explicitHook && path.resolve(explicitHook) };
  const files = units.map((_, i) => path.join(work, `unit-${String(i).padStart(6, '0')}.jsonl`));
  await runUnits(units, files, settings, workers, options.onProgress);
  const manifest: Manifest = { preset, inputs, ...(await assemble(files, { work, out, preset: rules })) };
  await writeWhole(done, `${JSON.stringify(manifest, null, 2)}\n`);
  await rm(work, { recursive: true });
  return manifest;
}

/** Marks the folder as this job's. */
async function claim(out: string, job: string): Promise<void> {
  await mkdir(out, { recursive: true });
  const mark = path.join(out, 'job.json');
  const others = (await readdir(out)).filter((name) => !name.endsWith('.tmp'));
  if (others.length > 0 && !existsSync(mark)) {
    throw new Error(
      `Output ${out}: expected an empty folder or one begun before, got ${others.slice(0, 5).join(', ')}. Choose another.`,
    );
  }
  if (existsSync(mark)) {
    const { job: theirs } = JSON.parse(await readFile(mark, 'utf8')) as { job: string };
    if (theirs === job) return;
    throw new Error(
      `Output ${out}: it was begun with other inputs or settings. Repeat them to go on, or choose another folder.`,
    );
  }
  await writeWhole(mark, `${JSON.stringify({ job })}\n`);
}

async function writeWhole(file: string, text: string): Promise<void> {
  await writeFile(`${file}.tmp`, text);
  await rename(`${file}.tmp`, file);
}

type Reply = { readonly report: UnitReport } | { readonly error: string };

/** Hands units that have no file yet to threads; the first failure ends all, and leaves what is done. */
async function runUnits(
  units: readonly Unit[],
  files: readonly string[],
  settings: UnitSettings,
  workers: number,
  onProgress: ExtractPagesOptions['onProgress'],
): Promise<void> {
  const waiting = units.map((_, i) => i).filter((i) => !existsSync(files[i]!));
  let finished = units.length - waiting.length;
  let pages = 0;
  onProgress?.({ units: finished, ofUnits: units.length, pages });
  const threads = Array.from({ length: Math.min(workers, waiting.length) }, () => startWorker(settings));
  try {
    await Promise.all(
      threads.map(async (thread) => {
        for (let i = waiting.shift(); i !== undefined; i = waiting.shift()) {
          const report = await thread.ask(units[i]!, files[i]!);
          pages += report.pages;
          onProgress?.({ units: ++finished, ofUnits: units.length, pages });
        }
      }),
    );
  } finally {
    waiting.length = 0;
    await Promise.all(threads.map((thread) => thread.terminate()));
  }
}

/** A thread that does one unit at a time. */
function startWorker(settings: UnitSettings) {
  const file = import.meta.url.endsWith('.ts') ? './source-worker.js' : './worker.js';
  // A unit holds one page at a time; a page that needs more than this is a bomb that got past its limits.
  const resourceLimits = { maxOldGenerationSizeMb: 2048, stackSizeMb: 8 };
  const worker = new Worker(new URL(file, import.meta.url), { workerData: settings, execArgv: [], resourceLimits });
  let settle: (reply: Reply) => void = () => undefined;
  worker.on('message', (reply: Reply) => settle(reply));
  worker.on('error', (error) => settle({ error: error.message }));
  worker.on('exit', (code) => settle({ error: `the worker ended with ${code}.` }));
  return {
    ask: (unit: Unit, file: string) =>
      new Promise<UnitReport>((resolve, reject) => {
        const name =
          unit.kind === 'files' ? `${unit.root}, ${unit.files[0]} and following` : `${unit.file}, byte ${unit.start}`;
        settle = (reply) =>
          'report' in reply ? resolve(reply.report) : reject(new Error(`Extraction of ${name}: ${reply.error}`));
        worker.postMessage({ unit, file });
      }),
    terminate: () => worker.terminate(),
  };
}
