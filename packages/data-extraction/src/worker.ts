import { parentPort, workerData } from 'node:worker_threads';
import type { Unit } from './sources';
import { UnitExtractor, type UnitSettings } from './unit';

/** One unit after the other, as `extractPages` hands them out. */
const opened = UnitExtractor.open(workerData as UnitSettings);

parentPort!.on('message', async ({ unit, file }: { unit: Unit; file: string }) => {
  try {
    parentPort!.postMessage({ report: await (await opened).extract(unit, file) });
  } catch (error) {
    parentPort!.postMessage({ error: (error as Error).message });
  }
});
