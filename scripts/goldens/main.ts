import { parseArgs } from 'node:util';
import { useBackend, type BackendName } from '@flamingo-ts/kernels';
import { flamingoHandlers } from './flamingo';
import { runGoldens } from './frame';
import { lmHandlers } from './lm';
import { textHandlers } from './texts';
import { visionHandlers } from './vision';

const usage = 'usage: npm run goldens -- [--backend auto|tensorflow|native|wasm|cpu] DIR...';

async function main(): Promise<boolean> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { backend: { type: 'string', default: 'auto' } },
  });
  if (positionals.length === 0) throw new Error(`no folder given. ${usage}`);
  const { summary } = await useBackend(values.backend as BackendName | 'auto');
  console.error(summary);
  const handlers = [...flamingoHandlers, ...visionHandlers, ...lmHandlers, ...textHandlers];
  return runGoldens(positionals, handlers, console.log);
}

main().then(
  (passed) => process.exit(passed ? 0 : 1),
  (error: Error) => {
    console.error(`goldens: ${error.message}`);
    process.exit(1);
  },
);
