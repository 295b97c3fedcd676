#!/usr/bin/env node
// Published, this runs the built command. In a clone of the repository it runs the sources, in this same process: a
// signal to it reaches the training itself, and no child can survive it.
import { existsSync } from 'node:fs';
import { register } from 'node:module';
import { fileURLToPath } from 'node:url';

if (existsSync(fileURLToPath(new URL('../src/cli.ts', import.meta.url)))) {
  (await import('tsx/esm/api')).register();
  register('./source-condition.js', import.meta.url);
  await import('../src/cli.ts');
} else {
  await import('../dist/cli.js');
}
