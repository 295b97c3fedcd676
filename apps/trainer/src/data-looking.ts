import { writeFileSync } from 'node:fs';
import type { Command } from 'commander';

interface LookingFlags {
  readonly images?: string;
  readonly tokenizer?: string;
  readonly out: string;
  readonly json?: boolean;
}

/** `data check`, `data inspect` and `data stats`, under the group `data`. */
export function addLookingCommands(data: Command): void {
  onData(data, 'check', 'reads all documents and pictures, and names the first bad line')
    .option('--json', 'print JSON')
    .action(async (path: string, flags: LookingFlags) => {
      const { checkData, formatCheck } = await import('./data-check');
      const check = await checkData(path, flags);
      const text = flags.json ? JSON.stringify(check, null, 2) : formatCheck(check);
      const isGood = Object.keys(check.counts).length === 0;
      if (isGood || flags.json) process.stdout.write(`${text}\n`);
      if (!isGood) throw new Error(flags.json ? 'There are problems.' : text);
    });

  onData(data, 'inspect', 'writes samples as the model is shown them, as one page of HTML')
    .option('--out <file>', 'the page', 'inspect.html')
    .option('--samples <n>', 'documents shown', Number, 20)
    .option('--from <n>', 'number of the first', Number, 0)
    .option('--tokens <n>', 'longest sample', Number, 256)
    .option('--seed <n>', 'seed of windows and marks', Number, 0)
    .option('--tokenizer <file>', 'tokenizer.json of a language model; words where left out')
    .action(
      async (path: string, flags: LookingFlags & { samples: number; from: number; tokens: number; seed: number }) => {
        const { inspectData } = await import('./data-inspect');
        const { tokens: maxTokens, ...options } = flags;
        writeFileSync(flags.out, await inspectData(path, await tokenizerOf(flags), { ...options, maxTokens }));
        process.stdout.write(`${flags.out}\n`);
      },
    );

  onData(data, 'stats', 'draws how pictures, tokens, sizes and reasons are distributed, as SVG')
    .option('--out <file>', 'the picture', 'stats.svg')
    .option('--limit <n>', 'read the first so many documents only', Number, Infinity)
    .option('--tokenizer <file>', 'tokenizer.json of a language model; words where left out')
    .option('--json', 'print the numbers too')
    .action(async (path: string, flags: LookingFlags & { limit: number }) => {
      const { measureData, statsSvg } = await import('./data-stats');
      const stats = await measureData(path, await tokenizerOf(flags), flags);
      writeFileSync(flags.out, statsSvg(stats));
      process.stdout.write(`${flags.json ? JSON.stringify(stats, null, 2) : flags.out}\n`);
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
    .option('--images <folder>', 'where the pictures are that the data name');
}

async function tokenizerOf({ tokenizer }: LookingFlags) {
  const { readableTokenizer, wordTokenizer } = await import('./word-tokenizer');
  return tokenizer ? readableTokenizer(tokenizer) : wordTokenizer();
}
