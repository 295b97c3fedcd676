import { libraryConfig } from '../../tsup.base';

/** The workers are separate entries, because they are started by their file names in the same folder. */
export default libraryConfig({
  entry: ['src/index.ts', 'src/decode-worker.js', 'src/parquet-worker.js'],
});
