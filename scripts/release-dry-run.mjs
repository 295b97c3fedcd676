// Tries a release without publishing it: copies the workspace to .cache/release, sets the versions from the changesets,
// builds, and packs every package as `npm publish` would. `scripts/check-packages.ts` then checks the tarballs.
//
//   node scripts/release-dry-run.mjs
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import path from 'node:path';

const root = path.resolve(import.meta.dirname, '..');
const copy = path.join(root, '.cache', 'release');

function run(command, args, options = {}) {
  try {
    return execFileSync(command, args, { cwd: copy, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], ...options });
  } catch (error) {
    console.error(`${error.stdout}${error.stderr}`);
    throw new Error(`release-dry-run: \`${command} ${args.join(' ')}\` failed, see its output above.`, {
      cause: error,
    });
  }
}

/** Copies the files that git tracks or would track. Node finds everything else in node_modules above the copy. */
function copyWorkspace() {
  rmSync(copy, { recursive: true, force: true });
  const listed = run('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], { cwd: root });
  for (const file of listed.split('\0').filter((file) => file && existsSync(path.join(root, file)))) {
    cpSync(path.join(root, file), path.join(copy, file));
  }
  const scope = path.join('node_modules', '@flamingo-ts');
  mkdirSync(path.join(copy, scope), { recursive: true });
  for (const folder of workspaces()) {
    const { name } = manifest(folder);
    symlinkSync(path.join(copy, folder), path.join(copy, scope, path.basename(name)), 'junction');
    const own = path.join(root, folder, 'node_modules');
    if (existsSync(own) && lstatSync(own).isDirectory())
      symlinkSync(own, path.join(copy, folder, 'node_modules'), 'junction');
  }
}

function workspaces() {
  return ['packages', 'apps'].flatMap((parent) =>
    readdirSync(path.join(copy, parent)).map((name) => `${parent}/${name}`),
  );
}

function manifest(folder) {
  return JSON.parse(readFileSync(path.join(copy, folder, 'package.json'), 'utf8'));
}

copyWorkspace();
const before = manifest('packages/kernels').version;
run('npx', ['changeset', 'version']);
const published = workspaces().filter((folder) => !manifest(folder).private);
const versions = new Set(published.map((folder) => manifest(folder).version));
if (versions.size !== 1) throw new Error(`release-dry-run: expected one version, got ${[...versions].join(', ')}.`);
const [version] = versions;
const changesets = readdirSync(path.join(root, '.changeset')).filter((file) => file.endsWith('.md'));
if (changesets.length > 0 && version === before) {
  throw new Error(`release-dry-run: ${changesets.length} changesets did not change the version ${before}.`);
}
// The Nx daemon and its cache belong to the original workspace.
run('npm', ['run', '-s', 'build'], { env: { ...process.env, NX_DAEMON: 'false', NX_TUI: 'false' } });
for (const folder of published) {
  const output = run('npm', ['publish', '--dry-run', '--json', '--ignore-scripts'], { cwd: path.join(copy, folder) });
  // npm 10 prints the package, npm 11 an object with the package under its name.
  const result = JSON.parse(output);
  const { id, files, size } = result.id ? result : Object.values(result)[0];
  console.log(`${id}: ${files.length} files, ${(size / 1024).toFixed(0)} KiB`);
}
