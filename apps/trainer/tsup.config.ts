import { libraryConfig } from '../../tsup.base';

/** The command is a separate entry, so that importing the package does not run it. */
export default libraryConfig({
  entry: ['src/index.ts', 'src/cli.ts'],
  // The command imports its modules on demand.
  splitting: true,
});
