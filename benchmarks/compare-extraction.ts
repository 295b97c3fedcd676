/**
 * Compares the time to extract pages and examine images with that of a Python pipeline of common libraries (lxml or
 * Resiliparse, NumPy, Pillow), each on one core:
 *
 *     npm run compare-extraction -- [--pages DIR]... [--images DIR]...
 *         [--limit N] [--rounds N] [--core N] [--python PYTHON] [--source DIR]
 *
 * Both sides read the files, cache nothing between pages, and run every step for every page: image files are not looked
 * up, and a page that a filter rejects is still processed to the end. Runs alternate. Each is a process on core N (by
 * `taskset`), warmed up with its first files. The result is the CPU time of all threads, because other processes may
 * use the machine. Without `--python` or FLAMINGO_PEER_PYTHON, only our side is measured. `--source` names another copy
 * of packages/data-extraction/src.
 */
import { execFileSync } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import type { presets, ExtractedPage, ExtractOptions, tidyParts } from '@flamingo-ts/data-extraction';
import { processors, usedByOthers } from './compare/machine';

/** The input of a run: files below `root`. The first `warm` of them are the warm-up. */
interface Task {
  readonly root: string;
  readonly files: readonly string[];
  readonly warm: number;
}

interface Report {
  readonly wall: number;
  readonly cpu: number;
  readonly passed: number;
  readonly words?: number;
  readonly images?: number;
}

const WORKS = {
  pages: { endings: /\.x?html?$/i, peers: ['lxml', 'resiliparse', 'extractor'] },
  images: { endings: /\.(?:jpe?g|png|webp|gif)$/i, peers: ['pillow', 'draft'] },
} as const;
type Work = keyof typeof WORKS;
const WARM = 100;

/** Internal functions of the package, as `UnitExtractor` calls them. */
interface Inner {
  extractPage(page: Uint8Array, options: ExtractOptions): ExtractedPage;
  tidyParts: typeof tidyParts;
  openLanguageDetector(): Promise<(text: string) => string>;
  urlKey(url: string): number;
  textKey(text: string): number;
  minHashBands(text: string): number[];
  pageUrl(file: string): string;
  presets: typeof presets;
  examineImage(bytes: Uint8Array, rules: object): Promise<object | string>;
}

/** Bundles the sources, as published packages do: tsx adds code to every function, which slows it down. */
async function bundle(source: string, outfile: string): Promise<void> {
  const { build } = await import('esbuild');
  const names = [
    'pages/extract',
    'filters/language',
    'filters/fingerprints',
    'filters/presets',
    'images/local-images',
    'images/image-info',
  ];
  const sharp = createRequire(path.join(import.meta.dirname, '../packages/data-extraction/package.json')).resolve(
    'sharp',
  );
  await build({
    stdin: { contents: names.map((name) => `export * from './${name}';`).join('\n'), resolveDir: source },
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    nodePaths: [path.join(import.meta.dirname, '../node_modules')],
    plugins: [
      {
        name: 'sharp',
        setup: ({ onResolve }) =>
          onResolve({ filter: /^sharp$/ }, () => ({ path: pathToFileURL(sharp).href, external: true })),
      },
    ],
  });
}

type Write = (line: object) => void;

async function doPages(inner: Inner, { root, files }: Task, write: Write): Promise<Omit<Report, 'wall' | 'cpu'>> {
  const { language, page: filters, image } = inner.presets.m3w;
  const detect = await inner.openLanguageDetector();
  let [passed, words, images] = [0, 0, 0];
  for (const name of files) {
    const url = inner.pageUrl(name);
    const extracted = inner.extractPage(await readFile(path.join(root, name)), { url, minSide: image.minSide });
    const parts = inner.tidyParts(extracted.parts);
    const text = parts.flatMap((part) => ('text' in part ? part.text : [])).join('\n\n');
    const reasons = [detect(text) !== language, ...filters.map((filter) => filter(text))];
    const keys = { url: inner.urlKey(url), text: inner.textKey(text), bands: inner.minHashBands(text) };
    if (!reasons.some((reason) => reason)) passed++;
    words += text.split(/\s+/).filter((word) => word !== '').length;
    images += parts.filter((part) => !('text' in part)).length;
    write({ page: { url, title: extracted.title, parts }, keys, dropped: extracted.dropped });
  }
  return { passed, words, images };
}

async function doImages(inner: Inner, { root, files }: Task, write: Write): Promise<Omit<Report, 'wall' | 'cpu'>> {
  let passed = 0;
  for (const name of files) {
    const found = await inner.examineImage(await readFile(path.join(root, name)), inner.presets.m3w.image);
    if (typeof found !== 'string') passed++;
    write([name, found]);
  }
  return { passed };
}

async function run(work: Work, bundled: string, taskFile: string, out: string): Promise<Report> {
  const inner = (await import(pathToFileURL(bundled).href)) as Inner;
  const task = JSON.parse(await readFile(taskFile, 'utf8')) as Task;
  const doWork = work === 'pages' ? doPages : doImages;
  await doWork(inner, { ...task, files: task.files.slice(0, task.warm) }, (line) => JSON.stringify(line));
  const stream = createWriteStream(out);
  const [before, started] = [process.cpuUsage(), performance.now()];
  const counts = await doWork(inner, task, (line) => stream.write(`${JSON.stringify(line)}\n`));
  const { user, system } = process.cpuUsage(before);
  return { ...counts, wall: (performance.now() - started) / 1000, cpu: (user + system) / 1e6 };
}

/** Files below a folder, sorted by name, without links. If there are more than `limit`, an even sample of them. */
async function listed(root: string, endings: RegExp, limit: number): Promise<string[]> {
  const entries = await readdir(root, { withFileTypes: true, recursive: true });
  const files = entries
    .filter((entry) => entry.isFile() && endings.test(entry.name))
    .map((entry) => path.relative(root, path.join(entry.parentPath, entry.name)))
    .sort();
  const step = Math.max(1, files.length / limit);
  return Array.from({ length: Math.min(limit, files.length) }, (_, i) => files[Math.floor(i * step)]!);
}

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;

const string = { type: 'string' } as const;
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    pages: { ...string, multiple: true, default: [] },
    images: { ...string, multiple: true, default: [] },
    limit: { ...string, default: '600' },
    rounds: { ...string, default: '5' },
    core: string,
    python: { ...string, default: process.env['FLAMINGO_PEER_PYTHON'] },
    source: { ...string, default: path.join(import.meta.dirname, '../packages/data-extraction/src') },
    child: { type: 'boolean', default: false },
  },
});

if (values.child) {
  const [work, bundled, taskFile, out] = positionals as [Work, string, string, string];
  console.log(JSON.stringify(await run(work, bundled, taskFile, out)));
} else {
  const folders = [
    ...values.pages.map((f) => ['pages', f] as const),
    ...values.images.map((f) => ['images', f] as const),
  ];
  if (folders.length === 0) throw new Error('compare-extraction: expected --pages DIR or --images DIR, got neither.');
  const scratch = await mkdtemp(path.join(tmpdir(), 'compare-extraction-'));
  const bundled = path.join(scratch, 'extraction.mjs');
  await bundle(path.resolve(values.source), bundled);
  const pinned = (program: string, ...args: string[]): Report => {
    const line = values.core === undefined ? [program, ...args] : ['taskset', '-c', values.core, program, ...args];
    // Keeps NumPy's math library from starting threads.
    const env = { ...process.env, OMP_NUM_THREADS: '1', OPENBLAS_NUM_THREADS: '1' };
    return JSON.parse(execFileSync(line[0]!, line.slice(1), { encoding: 'utf8', env })) as Report;
  };
  const started = processors();
  for (const [work, folder] of folders) {
    const { endings, peers } = WORKS[work];
    const root = path.resolve(folder);
    const files = await listed(root, endings, Number(values.limit));
    if (files.length === 0) throw new Error(`compare-extraction: ${folder}: expected ${work}, got none.`);
    const task = path.join(scratch, 'task.json');
    await writeFile(task, JSON.stringify({ root, files, warm: Math.min(WARM, files.length) } satisfies Task));
    const out = path.join(scratch, 'out.jsonl');
    const node = [...process.execArgv, import.meta.filename, '--child', work, bundled, task, out];
    const peer = path.join(import.meta.dirname, 'compare-extraction-peer.py');
    const sides: Record<string, () => Report> = { ours: () => pinned(process.execPath, ...node) };
    for (const name of values.python ? peers : []) {
      sides[name] = () => pinned(values.python!, peer, work, name, task, out);
    }
    const reports: Record<string, Report[]> = {};
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const [name, side] of Object.entries(sides)) (reports[name] ??= []).push(side());
    }
    console.log(`\n${work} of ${folder}: ${files.length} files`);
    const ours = reports['ours']!;
    for (const [name, runs] of Object.entries(reports)) {
      const rate = (of: (report: Report) => number) => (files.length / median(runs.map(of))).toFixed(0).padStart(6);
      // Compare consecutive runs, because the speed of the machine varies.
      const ratio = median(runs.map(({ cpu }, i) => cpu / ours[i]!.cpu)).toFixed(2);
      const { passed, words, images } = runs[0]!;
      const rest = words === undefined ? '' : `, ${words} words, ${images} images`;
      console.log(
        `  ${name.padEnd(12)}${rate((r) => r.cpu)} per CPU second ${rate((r) => r.wall)} per second` +
          `   ours is ${ratio} times as fast   (${passed} pass${rest})`,
      );
    }
  }
  const ended = processors();
  if (started && ended)
    console.log(`\nother processes used ${(100 * usedByOthers(started, ended)).toFixed(0)} % of the processors`);
  await rm(scratch, { recursive: true });
}
