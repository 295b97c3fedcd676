import { defineConfig } from 'vite';

export default defineConfig({
  root: import.meta.dirname,
  // Top-level await, which the page uses, needs browsers of 2022 or later.
  build: { target: 'es2022', outDir: 'dist', emptyOutDir: true },
});
