import { defineConfig, type Options } from 'tsup';

/** The one place where build settings live: every package's tsup.config.ts calls this with its entries. */
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
