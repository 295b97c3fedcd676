#!/usr/bin/env node
// From a fresh clone to a trained Flamingo and its report: installs what is missing, then runs the recipe.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const started = Date.now();

function run(title, command, args, { optional = false } = {}) {
  console.error(`\n== ${title}`);
  const { status, signal } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  if (status === 0 || optional) return status === 0;
  process.exit(status ?? (signal ? 130 : 1));
}

const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  console.error(
    `The quickstart needs Node 20.19 or later, this is ${process.version}. Install a newer Node and try again.`,
  );
  process.exit(1);
}

if (!installed()) run('Installing packages', 'npm', ['ci']);
run('Looking for oneDNN', process.execPath, [join(root, 'tools/setup-onednn.mjs')], { optional: true });
const args = [
  '--conditions=@flamingo-ts/source',
  '--import',
  'tsx',
  join(root, 'apps/trainer/src/cli.ts'),
  'quickstart',
];
run('Running the recipe', process.execPath, [...args, '--started', String(started), ...process.argv.slice(2)]);

/** Whether node_modules was installed from the lock file as it stands. */
function installed() {
  const lock = join(root, 'node_modules/.package-lock.json');
  if (!existsSync(lock)) return false;
  if (statSync(lock).mtimeMs >= statSync(join(root, 'package-lock.json')).mtimeMs) return true;
  const versions = (file) =>
    Object.entries(JSON.parse(readFileSync(file, 'utf8')).packages)
      .filter(([path, p]) => path && !p.link && !p.optional)
      .map(([path, p]) => `${path}@${p.version}`);
  const have = new Set(versions(lock));
  return versions(join(root, 'package-lock.json')).every((p) => have.has(p) || !p.startsWith('node_modules/'));
}
