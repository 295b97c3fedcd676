import { libraryConfig } from '../../tsup.base';

/** The workers are entries of their own: they are started by their file names, beside what starts them. */
export default libraryConfig({
  entry: ['src/index.ts', 'src/decode-worker.js', 'src/parquet-worker.js'],
  dts: { entry: 'src/index.ts' },
});
