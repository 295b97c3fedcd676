import { libraryConfig } from '../../tsup.base';

/** The command is an entry of its own, so that importing the package starts nothing. */
export default libraryConfig({
  entry: ['src/index.ts', 'src/cli.ts'],
  dts: { entry: 'src/index.ts' },
  // The command imports what it needs when it needs it.
  splitting: true,
});
