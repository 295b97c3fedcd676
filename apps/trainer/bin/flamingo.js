#!/usr/bin/env node
// The published package runs the built command. A clone of the repository runs the sources, in this process: signals reach
// the training directly, and no child process can outlive it.
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
