import { availableParallelism } from 'node:os';
import { Option, type Command } from 'commander';
import type { ExtractionEstimate, ExtractPagesOptions, PresetName } from '@flamingo-ts/data-extraction';
import { reasonLines, wholeNumberFrom } from './command-text';

const PRESETS = ['m3w', 'obelics', 'mmc4'] as const satisfies readonly PresetName[];
/** Flamingo (Alayrac et al., 2022), appendix A.3.1: documents of M3W. */
const M3W_DOCUMENTS = 43.3e6;
const REASONS_SHOWN = 12;
/** Progress that is asked for by nobody's eyes need not come more often. */
const PROGRESS_MS = 1000;

type ExtractFlags = Omit<ExtractPagesOptions, 'inputs' | 'onProgress'> & { readonly json?: boolean };

/** Adds `flamingo data extract`, `data work` and `data plan`. */
export function addExtractCommands(data: Command): void {
  const preset = () => new Option('--preset <name>', 'whose filters').choices(PRESETS).default('m3w');
  data
    .command('extract')
    .description('extracts documents of text and images from web pages: HTML folders, mirrors, WARC files')
    .argument('<input...>', 'folders and files')
    .requiredOption('--out <folder>', 'folder for the documents; repeated after a stop, the command goes on')
    .addOption(preset())
    .option('--workers <n>', 'threads; by default one less than the cores', wholeNumberFrom(1))
    .option('--redis <url>', 'hand the work out to machines that run `flamingo data work`')
    .option('--fetch-images', 'ask servers for images that the input does not hold')
    .option('--benchmark <folder>', 'texts and images of tests, whose copies are dropped')
    .option('--explicit-hook <module>', 'JavaScript module whose functions text and image say what is explicit')
    .option('--skip-failed', 'leave out, and count, what failed three times, rather than end with an error')
    .option('--json', 'print JSON')
    .action(extract);

  data
    .command('work')
    .description('does work that `flamingo data extract --redis` hands out, until all is done')
    .argument('<folder>', 'the --out of that command; all machines see it and the input at the same path')
    .requiredOption('--redis <url>', 'the same Redis server')
    .option('--workers <n>', 'threads; by default as many as cores', wholeNumberFrom(1))
    .action(work);

  data
    .command('plan')
    .description('extracts a sample, and tells what a page costs, this input, and a set as large as the paper’s')
    .argument('<input...>', 'folders and files')
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
  let said = 0;
  const manifest = await extractPages({
    ...flags,
    inputs,
    onProgress: ({ units, ofUnits, pages, trouble }) => {
      if (trouble) return void process.stderr.write(`${trouble}\n`);
      if (units < ofUnits && Date.now() - said < PROGRESS_MS) return;
      said = Date.now();
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
    `${documents} documents of ${pages} pages: ${images} images, ${words} words; ${pairs} pairs of image and text.`,
    'Left out:',
    ...reasonLines(dropped),
    ...failures.map((failure) => `failed: ${failure}`),
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
}

async function work(out: string, { redis, workers }: { redis: string; workers?: number }): Promise<void> {
  const { workOnPages } = await import('@flamingo-ts/data-extraction');
  const stop = new AbortController();
  // Once: the units at hand are finished, and a second signal ends the process.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort());
  const units = await workOnPages({
    out,
    redis,
    ...(workers !== undefined && { workers }),
    signal: stop.signal,
    onProgress: (message) => process.stderr.write(`${message}\n`),
  });
  process.stdout.write(`${units} units done here.\n`);
}

/** For people. @param cores that would do the work here */
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
    `${whole(pages)} pages in ${whole(units)} units; ${whole(sampledPages)} pages of ${sampledUnits} units were tried.`,
    `A page costs ${(cpuSeconds * 1000).toPrecision(3)} ms of a core (${(1 / cpuSeconds).toFixed(0)} pages/s) and gives ` +
      `${documents.toPrecision(3)} documents with ${images.toPrecision(3)} images.`,
    'This input:',
    ...cost(pages),
    `  about ${whole(pages * documents)} documents; copies are found in the sample alone, so that it will be somewhat fewer`,
  ];
  if (documents > 0) {
    const needed = M3W_DOCUMENTS / documents;
    lines.push(
      `As many documents as the paper's M3W (43.3 million), from ${whole(needed)} such pages:`,
      ...cost(needed),
    );
  } else lines.push('No page of the sample became a document: nothing can be said of a set like the paper’s.');
  lines.push('Left out of the sample, the most frequent reasons:');
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
