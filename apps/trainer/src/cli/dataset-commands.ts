import { writeFileSync } from 'node:fs';
import type { Command } from 'commander';
import { wholeNumberFrom } from './command-text';

interface DatasetFlags {
  readonly images?: string;
  readonly tokenizer?: string;
  readonly out: string;
  readonly json?: boolean;
}

interface InspectFlags extends DatasetFlags {
  readonly config?: string;
  readonly dataset?: string;
  readonly samples: number;
  readonly from: number;
  readonly tokens?: number;
  readonly seed?: number;
}

/** Adds `data check`, `data inspect`, `data stats` and `data pack`. */
export function addDatasetCommands(data: Command): void {
  datasetCommand(data, 'check', 'Read all documents and images, and report problems with file and line')
    .option('--json', 'print JSON')
    .action(async (path: string, flags: DatasetFlags) => {
      const { checkData, formatCheck } = await import('../data/data-check');
      const check = await checkData(path, flags);
      const text = flags.json ? JSON.stringify(check, null, 2) : formatCheck(check);
      const isGood = Object.keys(check.counts).length === 0;
      if (isGood || flags.json) process.stdout.write(`${text}\n`);
      if (!isGood) throw new Error(flags.json ? `${path} has problems.` : text);
    });

  datasetCommand(data, 'inspect', 'Write an HTML page that shows documents as the model sees them')
    .option('--config <file>', 'configuration whose dataset options, image size and tokenizer to use')
    .option('--dataset <name>', 'dataset in flamingo.datasets of the configuration (default: the file name of <path>)')
    .option('--out <file>', 'output file', 'inspect.html')
    .option('--samples <n>', 'number of samples to show', wholeNumberFrom(1), 20)
    .option('--from <n>', 'index of the first document', wholeNumberFrom(0), 0)
    .option(
      '--tokens <n>',
      'maximum length of a sample (default: 256, or that of the configuration)',
      wholeNumberFrom(4),
    )
    .option('--seed <n>', 'seed of random choices (default: 0, or that of the configuration)', wholeNumberFrom(0))
    .option('--tokenizer <file>', 'tokenizer.json of a language model (default: that of the configuration, or words)')
    .action(async (path: string, { out, config: file, dataset, tokens, seed, tokenizer, ...options }: InspectFlags) => {
      const { defaultInspectConfig, inspectConfigOf, inspectData } = await import('../data/data-inspect');
      if (dataset !== undefined && file === undefined) throw new Error('--dataset requires --config FILE.');
      const config = file
        ? inspectConfigOf((await import('../config/config')).loadConfig(file), file, path, dataset)
        : defaultInspectConfig();
      const page = await inspectData(
        path,
        {
          ...config,
          sample: { ...config.sample, ...(tokens !== undefined && { maxTokens: tokens }) },
          ...(seed !== undefined && { seed }),
          ...(tokenizer !== undefined && { tokenizer: await tokenizerOf(tokenizer) }),
        },
        options,
      );
      writeFileSync(out, page);
      process.stdout.write(`${out}\n`);
    });

  datasetCommand(data, 'stats', 'Write a chart of images, tokens, image sizes and problems as SVG')
    .option('--out <file>', 'output file', 'stats.svg')
    .option('--limit <n>', 'read only the first n documents (default: all)', wholeNumberFrom(1))
    .option('--tokenizer <file>', 'tokenizer.json of a language model (default: count words and punctuation marks)')
    .option('--json', 'also print the numbers as JSON')
    .action(async (path: string, flags: DatasetFlags & { limit?: number }) => {
      const { measureData, statsSvg } = await import('../data/data-stats');
      const { images, limit = Infinity } = flags;
      const options = { limit, ...(images !== undefined && { images }) };
      const stats = await measureData(path, await tokenizerOf(flags.tokenizer), options);
      writeFileSync(flags.out, statsSvg(stats));
      process.stdout.write(`${flags.json ? JSON.stringify(stats, null, 2) : flags.out}\n`);
    });

  datasetCommand(data, 'pack', 'Write a dataset as shards with a manifest; drop and count broken documents and images')
    .requiredOption('--out <folder>', 'new or empty folder for the shards')
    .option('--tokenizer <file>', 'tokenizer.json to count tokens with (default: count words and punctuation marks)')
    .option('--max-documents <n>', 'maximum number of documents per shard (default: 10000)', wholeNumberFrom(1))
    .option('--json', 'print JSON')
    .action(async (path: string, flags: DatasetFlags & { maxDocuments?: number }) => {
      const { formatPacked, packData } = await import('../data/data-pack');
      const onProgress = (done: number, total: number) => process.stderr.write(`${done} of ${total} documents\n`);
      const packed = await packData(path, { ...flags, onProgress });
      process.stdout.write(`${flags.json ? JSON.stringify(packed, null, 2) : formatPacked(packed)}\n`);
    });
}

function datasetCommand(data: Command, name: string, description: string): Command {
  return data
    .command(name)
    .description(description)
    .argument(
      '<path>',
      'shards (.tar), .jsonl, OBELICS .parquet, COCO or VQAv2 .json, or a folder of these or of videos',
    )
    .option('--images <folder>', 'folder that image names are relative to');
}

async function tokenizerOf(file: string | undefined) {
  const { readableTokenizer, wordTokenizer } = await import('../data/word-tokenizer');
  return file === undefined ? wordTokenizer() : readableTokenizer(file);
}
