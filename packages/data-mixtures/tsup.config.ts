import { libraryConfig } from '../../tsup.base';

/** The decoding worker is an entry of its own: ImageDecoder starts it by its file name, beside itself. */
export default libraryConfig({ entry: ['src/index.ts', 'src/decode-worker.js'], dts: { entry: 'src/index.ts' } });
