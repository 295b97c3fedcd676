import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { useBackend, type BackendName } from '@flamingo-ts/kernels';
import { Option, type Command } from 'commander';
import { wholeNumberFrom } from '../cli/command-text';
import { BACKENDS, FRESH, print, SET } from '../cli/commands';
import { StopSignal } from '../cli/stop-signal';
import { CONFIGS } from '../configs';
import { STYLES } from './emoji/concepts';
import type { QuickstartResults } from './quickstart';

interface QuickstartFlags {
  readonly config?: string;
  readonly set?: Record<string, unknown>;
  readonly seed?: number;
  readonly seeds: number;
  readonly unseenStyle?: string;
  readonly backend: BackendName | 'auto';
  readonly fresh?: boolean;
  readonly started?: number;
}

/** Adds `flamingo quickstart`. */
export function addQuickstartCommand(program: Command): void {
  program
    .command('quickstart')
    .description('Run the whole recipe in miniature on emoji images: data, three stages, evaluation, report')
    .option('--config <file>', 'YAML file (default: the bundled configuration that suits the backend)')
    .option(...SET)
    .option(
      '--seed <n>',
      'seed of the splits, the images and the weights (default: that of the configuration)',
      wholeNumberFrom(0),
    )
    .option(
      '--seeds <n>',
      'number of runs, with consecutive seeds; the report shows the spread of their results',
      wholeNumberFrom(1),
      1,
    )
    .addOption(
      new Option('--unseen-style <name>', 'exclude one style from training and evaluate on it separately').choices(
        STYLES,
      ),
    )
    .addOption(
      new Option('--backend <name>', 'backend; auto selects the fastest that works').choices(BACKENDS).default('auto'),
    )
    .option(...FRESH)
    .addOption(
      new Option('--started <ms>', 'start of the set-up, in milliseconds since 1970').argParser(Number).hideHelp(),
    )
    .action(runQuickstart);
}

async function runQuickstart(flags: QuickstartFlags): Promise<void> {
  const { quickstart, readResults } = await import('./quickstart');
  const { loadConfig } = await import('../config/config');
  const { usePrecision } = await import('../config/precision');
  const backend = await useBackend(flags.backend);
  process.stderr.write(`${backend.summary}\n`);
  const isSlow = backend.name === 'wasm' || backend.name === 'cpu';
  if (isSlow && !flags.config) {
    process.stderr.write(
      `The ${backend.name} backend is much slower than native, so the quickstart runs a smaller recipe: fewer concepts, smaller ` +
        'models and fewer steps. It shows that everything works, but not how well the full models do. For the full recipe, install oneDNN: npm run setup:onednn.\n',
    );
  }
  const file = flags.config ?? join(CONFIGS, isSlow ? 'quickstart-small.yaml' : 'quickstart.yaml');
  const base = loadConfig(file, flags.set);
  const first = flags.seed ?? base.seed;
  const stop = new StopSignal();
  try {
    const others: QuickstartResults[] = [];
    // The first seed runs last, because its report includes the results of the others.
    for (let seed = first + flags.seeds - 1; seed >= first; seed--) {
      const unseen = flags.unseenStyle ? `-without-${flags.unseenStyle}` : '';
      const out = `${base.out}${unseen}${seed === first ? '' : `-seed-${seed}`}`;
      const config = loadConfig(file, {
        ...flags.set,
        seed,
        out,
        ...(flags.unseenStyle && { 'data.unseenStyle': flags.unseenStyle }),
      });
      if (seed !== first && !flags.fresh && existsSync(join(out, 'results.json'))) {
        others.push(readResults(out));
        continue;
      }
      await usePrecision(config.precision, backend.name);
      const startedAt = seed === first + flags.seeds - 1 ? flags.started : Date.now();
      const { results, report } = await quickstart({ config, backend, stop, fresh: flags.fresh, startedAt, others });
      others.unshift(results);
      print(`Finished in ${results.seconds['total']!.toFixed(0)} s. Report: ${report}`);
    }
  } finally {
    stop.dispose();
  }
}
