import { Option, type Command } from 'commander';
import type { PresetName } from '@flamingo-ts/data-extraction';

const PRESETS = ['m3w', 'obelics', 'mmc4'] as const satisfies readonly PresetName[];

interface ExtractFlags {
  readonly out: string;
  readonly preset: PresetName;
  readonly workers?: number;
  readonly benchmark?: string;
  readonly explicitHook?: string;
  readonly json?: boolean;
}

/** Adds `flamingo data extract`. */
export function addExtractCommand(data: Command): void {
  data
    .command('extract')
    .description('extracts documents of text and pictures from web pages: HTML folders, mirrors, WARC files')
    .argument('<input...>', 'folders and files')
    .requiredOption('--out <folder>', 'folder for the documents; repeated after a stop, the command goes on')
    .addOption(new Option('--preset <name>', 'whose filters').choices(PRESETS).default('m3w'))
    .option('--workers <n>', 'threads; by default one less than the cores', Number)
    .option('--benchmark <folder>', 'texts and pictures of tests, whose copies are dropped')
    .option('--explicit-hook <module>', 'JavaScript module whose functions text and picture say what is explicit')
    .option('--json', 'print JSON')
    .action(extract);
}

async function extract(inputs: string[], flags: ExtractFlags): Promise<void> {
  const { extractPages } = await import('@flamingo-ts/data-extraction');
  const started = Date.now();
  const manifest = await extractPages({
    ...flags,
    inputs,
    onProgress: ({ units, ofUnits, pages }) => {
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
    ...Object.entries(dropped).map(([reason, count]) => `${String(count).padStart(8)}  ${reason}`),
    ...failures.map((failure) => `failed: ${failure}`),
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
}
