import { writeFileSync } from 'node:fs';
import type { Command } from 'commander';
import { wholeNumberFrom } from './command-text';

interface LookingFlags {
  readonly images?: string;
  readonly tokenizer?: string;
  readonly out: string;
  readonly json?: boolean;
}

/** `data check`, `data inspect`, `data stats` and `data pack`, under the group `data`. */
export function addLookingCommands(data: Command): void {
  onData(data, 'check', 'reads all documents and images, and names the first bad line')
    .option('--json', 'print JSON')
    .action(async (path: string, flags: LookingFlags) => {
      const { checkData, formatCheck } = await import('../data/data-check');
      const check = await checkData(path, flags);
      const text = flags.json ? JSON.stringify(check, null, 2) : formatCheck(check);
      const isGood = Object.keys(check.counts).length === 0;
      if (isGood || flags.json) process.stdout.write(`${text}\n`);
      if (!isGood) throw new Error(flags.json ? 'There are problems.' : text);
    });

  onData(data, 'inspect', 'writes samples as the model is shown them, as one page of HTML')
    .option('--out <file>', 'the page', 'inspect.html')
    .option('--samples <n>', 'documents shown', wholeNumberFrom(1), 20)
    .option('--from <n>', 'number of the first', wholeNumberFrom(0), 0)
    .option('--tokens <n>', 'longest sample', wholeNumberFrom(4), 256)
    .option('--seed <n>', 'seed of windows and marks', wholeNumberFrom(0), 0)
    .option('--tokenizer <file>', 'tokenizer.json of a language model; words where left out')
    .action(
      async (path: string, flags: LookingFlags & { samples: number; from: number; tokens: number; seed: number }) => {
        const { inspectData } = await import('../data/data-inspect');
        const { tokens: maxTokens, ...options } = flags;
        writeFileSync(flags.out, await inspectData(path, await tokenizerOf(flags), { ...options, maxTokens }));
        process.stdout.write(`${flags.out}\n`);
      },
    );

  onData(data, 'stats', 'draws how images, tokens, sizes and reasons are distributed, as SVG')
    .option('--out <file>', 'the image', 'stats.svg')
    .option('--limit <n>', 'read the first so many documents only', wholeNumberFrom(1), Infinity)
    .option('--tokenizer <file>', 'tokenizer.json of a language model; words where left out')
    .option('--json', 'print the numbers too')
    .action(async (path: string, flags: LookingFlags & { limit: number }) => {
      const { measureData, statsSvg } = await import('../data/data-stats');
      const stats = await measureData(path, await tokenizerOf(flags), flags);
      writeFileSync(flags.out, statsSvg(stats));
      process.stdout.write(`${flags.json ? JSON.stringify(stats, null, 2) : flags.out}\n`);
    });

  onData(data, 'pack', 'writes a data set as shards with a manifest; what is broken is left out and counted')
    .requiredOption('--out <folder>', 'a new or empty folder for the shards')
    .option('--tokenizer <file>', 'tokenizer.json to count tokens by; words where left out')
    .option('--max-documents <n>', 'documents of a shard, at most; 1000 where left out', wholeNumberFrom(1))
    .option('--json', 'print JSON')
    .action(async (path: string, flags: LookingFlags & { maxDocuments?: number }) => {
      const { formatPacked, packData } = await import('../data/data-pack');
      const onProgress = (done: number, of: number) => process.stderr.write(`${done} of ${of} documents\n`);
      const packed = await packData(path, { ...flags, onProgress });
      process.stdout.write(`${flags.json ? JSON.stringify(packed, null, 2) : formatPacked(packed)}\n`);
    });
}

function onData(data: Command, name: string, description: string): Command {
  return data
    .command(name)
    .description(description)
    .argument(
      '<path>',
      'shards (.tar), .jsonl, OBELICS .parquet, COCO or VQAv2 .json, or a folder of these or of videos',
    )
    .option('--images <folder>', 'where the images are that the data name');
}

async function tokenizerOf({ tokenizer }: LookingFlags) {
  const { readableTokenizer, wordTokenizer } = await import('../data/word-tokenizer');
  return tokenizer ? readableTokenizer(tokenizer) : wordTokenizer();
}
