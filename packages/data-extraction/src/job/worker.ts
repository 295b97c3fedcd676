import { parentPort, workerData } from 'node:worker_threads';
import type { Unit } from './sources';
import type { ThreadData } from './threads';
import { UnitExtractor } from './unit';
import { WorkFolder } from './work-folder';

/** Processes the units that `UnitThreads` sends, one after the other. */
const { config, work, explicitHook } = workerData as ThreadData;
const opened = UnitExtractor.open(config, new WorkFolder(work), { explicitHook });

parentPort!.on('message', async ({ unit, file }: { unit: Unit; file: string }) => {
  try {
    parentPort!.postMessage({ report: await (await opened).extract(unit, file) });
  } catch (error) {
    parentPort!.postMessage({ error: (error as Error).message });
  }
});
