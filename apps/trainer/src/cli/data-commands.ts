import { availableParallelism } from 'node:os';
import { Option, type Command } from 'commander';
import type { ExtractionEstimate, ExtractPagesOptions, PresetName } from '@flamingo-ts/data-extraction';
import { reasonLines, wholeNumberFrom } from './command-text';

const PRESETS = ['m3w', 'obelics', 'mmc4'] as const satisfies readonly PresetName[];
/** Flamingo (Alayrac et al., 2022), appendix A.3.1: documents of M3W. */
const M3W_DOCUMENTS = 43.3e6;
const REASONS_SHOWN = 12;
const INPUT = 'folders of pages and archives, or single files';
const UNITS = '\nA unit of work is 16 pages of a folder, 4 MiB of an archive, or the images to fetch from one server.';
/** Interval between progress lines. */
const PROGRESS_MS = 1000;

type ExtractFlags = Omit<ExtractPagesOptions, 'inputs' | 'onProgress'> & { readonly json?: boolean };
/** Flags of `data work`. */
interface WorkFlags {
  readonly redis: string;
  readonly workers?: number;
  readonly explicitHook?: string;
}

/** Adds `flamingo data extract`, `data work` and `data plan`. */
export function addExtractCommands(data: Command): void {
  const preset = () =>
    new Option('--preset <name>', 'published dataset whose filters apply').choices(PRESETS).default('m3w');
  data
    .command('extract')
    .description('Extract documents of text and images from web pages (HTML folders, mirrors, WARC files)')
    .argument('<input...>', INPUT)
    .requiredOption('--out <folder>', 'output folder; run the same command again to resume')
    .addOption(preset())
    .option('--workers <n>', 'number of threads (default: one less than the number of cores)', wholeNumberFrom(1))
    .option('--redis <url>', 'distribute the work to machines that run `flamingo data work`')
    .option('--fetch-images', 'fetch images that the input does not contain')
    .option('--benchmark <folder>', 'folder of benchmark data; drop what duplicates its texts or images')
    .option(
      '--explicit-hook <module>',
      'JavaScript module that exports the functions `text` and `image`, which decide what is sexually explicit',
    )
    .option('--skip-failed', 'skip and count units that failed three times, instead of exiting with an error')
    .option('--json', 'print JSON')
    .addHelpText('after', UNITS)
    .action(extract);

  data
    .command('work')
    .description('Join a job that `flamingo data extract --redis` started, and work on it until it is complete')
    .argument(
      '<folder>',
      'output folder of the job; this folder and the input must have the same paths on all machines',
    )
    .requiredOption('--redis <url>', 'URL of the Redis server passed to `data extract`')
    .option('--workers <n>', 'number of threads (default: the number of cores)', wholeNumberFrom(1))
    .option(
      '--explicit-hook <module>',
      'copy on this machine of the module that was passed to `data extract`, if one was',
    )
    .addHelpText('after', UNITS)
    .action(work);

  data
    .command('plan')
    .description(
      'Estimate from a sample what extraction costs and yields: per page, for this input, and for as many documents as in the paper',
    )
    .argument('<input...>', INPUT)
    .addOption(preset())
    .option('--json', 'print JSON')
    .action(async (inputs: string[], { preset, json }: { preset: PresetName; json?: boolean }) => {
      const { estimateExtraction } = await import('@flamingo-ts/data-extraction');
      const estimate = await estimateExtraction(inputs, { preset });
      process.stdout.write(`${json ? JSON.stringify(estimate, null, 2) : formatPlan(estimate)}\n`);
    });
}

async function extract(inputs: string[], flags: ExtractFlags): Promise<void> {
  const { extractPages } = await import('@flamingo-ts/data-extraction');
  const started = Date.now();
  let lastReport = 0;
  const manifest = await extractPages({
    ...flags,
    inputs,
    onProgress: ({ units, ofUnits, pages, problem }) => {
      if (problem) return void process.stderr.write(`${problem}\n`);
      if (units < ofUnits && Date.now() - lastReport < PROGRESS_MS) return;
      lastReport = Date.now();
      const rate = pages / ((Date.now() - started) / 1000);
      process.stderr.write(`${units} of ${ofUnits} units, ${pages} pages, ${rate.toFixed(1)} pages/s\n`);
    },
  });
  if (flags.json) {
    process.stdout.write(`${JSON.stringify(manifest, null, 2)}\n`);
    return;
  }
  const { documents, pages, images, words, pairs, dropped, failures } = manifest;
  const lines = [
    `${documents} documents from ${pages} pages: ${images} images, ${words} words; ${pairs} pairs of image and text.`,
    'Dropped:',
    ...reasonLines(dropped),
    ...failures.map((failure) => `failed: ${failure}`),
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
}

async function work(out: string, { redis, workers, explicitHook }: WorkFlags): Promise<void> {
  const { runPageWorker } = await import('@flamingo-ts/data-extraction');
  const stop = new AbortController();
  // The first signal finishes the current units; a second one ends the process.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort());
  const units = await runPageWorker({
    out,
    redis,
    ...(workers !== undefined && { workers }),
    ...(explicitHook !== undefined && { explicitHook }),
    signal: stop.signal,
    onProgress: (message) => process.stderr.write(`${message}\n`),
  });
  process.stdout.write(`${units} units processed by this worker.\n`);
}

/** Formats an estimate as text. @param cores number of cores that would do the work */
export function formatPlan(estimate: ExtractionEstimate, cores = availableParallelism()): string {
  const { units, sampledUnits, pages, sampledPages, perPage, dropped } = estimate;
  const { documents, images, cpuSeconds, textBytes, imageBytes } = perPage;
  const cost = (count: number) => {
    const hours = (count * cpuSeconds) / 3600;
    const days = hours / cores / 24;
    const time = days >= 1 ? `${days.toFixed(1)} days` : `${((hours / cores) * 60).toFixed(1)} minutes`;
    const [text, images] = [textBytes, imageBytes].map((bytes) => sizeText(count * bytes));
    return [
      `  ${hours.toPrecision(3)} core hours: ${time} on the ${cores} cores of this machine`,
      `  ${text} of text and ${images} of images`,
    ];
  };
  const lines = [
    `${whole(pages)} pages in ${whole(units)} units; ${whole(sampledPages)} pages of ${sampledUnits} units sampled.`,
    `A page takes ${(cpuSeconds * 1000).toPrecision(3)} ms of one core (${(1 / cpuSeconds).toFixed(0)} pages/s) and yields ` +
      `${documents.toPrecision(3)} documents with ${images.toPrecision(3)} images.`,
    'This input:',
    ...cost(pages),
    `  about ${whole(pages * documents)} documents, or somewhat fewer, because duplicates are found only within the sample`,
  ];
  if (documents > 0) {
    const needed = M3W_DOCUMENTS / documents;
    lines.push(
      `As many documents as the paper's M3W (43.3 million) require ${whole(needed)} such pages:`,
      ...cost(needed),
    );
  } else lines.push('No page of the sample became a document, so there is no estimate for a dataset like the paper’s.');
  lines.push('Dropped from the sample, most frequent reasons first:');
  lines.push(...reasonLines(dropped).slice(0, REASONS_SHOWN));
  return lines.join('\n');
}

function whole(count: number): string {
  return Math.round(count).toLocaleString('en');
}

function sizeText(bytes: number): string {
  const units = ['B', 'KB', 'MB', 'GB', 'TB', 'PB'];
  const power = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log10(Math.max(1, bytes)) / 3)));
  return `${(bytes / 1000 ** power).toPrecision(3)} ${units[power]}`;
}
