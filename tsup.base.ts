import path from 'node:path';
import { defineConfig, type Options } from 'tsup';

/**
 * The declarations of this package's entry, from the one run of the compiler that serves all packages:
 * `nx run flamingo-ts-workspace:types`.
 */
const declarations = path.resolve('../../.cache/types', path.relative('../..', '.'), 'src/index.d.ts');

/** The build configuration of every package, whose tsup.config.ts calls this with its entries. */
export const libraryConfig = (options: Partial<Options> = {}) =>
  defineConfig({
    entry: ['src/index.ts'],
    format: ['esm', 'cjs'],
    target: 'node20',
    dts: { entry: { index: declarations } },
    sourcemap: true,
    clean: true,
    splitting: false,
    shims: true,
    ...options,
  });
