import { libraryConfig } from '../../tsup.base';

/** The worker is an entry of its own: `extractPages` starts it by its file name, beside itself. */
export default libraryConfig({
  entry: { index: 'src/index.ts', worker: 'src/job/worker.ts' },
  dts: { entry: 'src/index.ts' },
});
