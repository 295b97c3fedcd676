import { defineConfig, type Options } from 'tsup';

/** The build configuration of every package, whose tsup.config.ts calls this with its entries. */
export const libraryConfig = (options: Partial<Options> = {}) =>
  defineConfig({
    entry: ['src/index.ts'],
    format: ['esm', 'cjs'],
    target: 'node20',
    dts: { compilerOptions: { composite: false, incremental: false } },
    sourcemap: true,
    clean: true,
    splitting: false,
    shims: true,
    ...options,
  });
