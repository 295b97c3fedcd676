#!/usr/bin/env node
// Published, the command is the built one. In a clone of the repository the sources run as they are, built or not.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';

const source = fileURLToPath(new URL('../src/cli.ts', import.meta.url));
if (existsSync(source)) {
  const tsx = import.meta.resolve('tsx');
  const args = ['--conditions=@flamingo-ts/source', '--import', tsx, source, ...process.argv.slice(2)];
  const child = spawn(process.execPath, args, { stdio: 'inherit' });
  // Ctrl-C reaches the child too, which saves and ends; this process waits for it. SIGTERM reaches this one alone.
  process.on('SIGINT', () => undefined);
  process.on('SIGTERM', () => child.kill('SIGTERM'));
  child.on('close', (status, signal) => {
    process.exitCode = status ?? 128 + constants.signals[signal];
  });
} else {
  await import('../dist/cli.js');
}
