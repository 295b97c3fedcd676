import { libraryConfig } from '../../tsup.base';

/** The worker is a separate entry, because `extractPages` starts it by its file name in the same folder. */
export default libraryConfig({
  entry: { index: 'src/index.ts', worker: 'src/job/worker.ts' },
});
