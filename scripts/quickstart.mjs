#!/usr/bin/env node
// From a fresh clone to a trained Flamingo and its report: installs what is missing, then runs the recipe.
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { installed } from './installed.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const started = Date.now();
// Ctrl-C also reaches the recipe, which saves and exits; this process waits for it.
process.on('SIGINT', () => undefined);

function run(title, command, args, { optional = false } = {}) {
  console.error(`\n== ${title}`);
  const { status, signal } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  if (status === 0 || optional) return status === 0;
  process.exit(status ?? (signal ? 130 : 1));
}

// Help requires only the trainer itself.
const isHelp = process.argv.slice(2).some((arg) => arg === '--help' || arg === '-h');

const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  console.error(
    `The quickstart requires Node 20.19 or later, got ${process.version}. Install a newer Node and try again.`,
  );
  process.exit(1);
}

if (!installed(root)) run('Installing packages', 'npm', ['ci']);
if (!isHelp) run('Looking for oneDNN', process.execPath, [join(root, 'scripts/setup-onednn.mjs')], { optional: true });
const command = [join(root, 'apps/trainer/bin/flamingo.js'), 'quickstart', '--started', String(started)];
run('Running the recipe', process.execPath, [...command, ...process.argv.slice(2)]);
