/**
 * Downloads and unpacks packages of Debian and Ubuntu without root. If the system's package lists do not have a package,
 * it fetches private lists.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';

const run = (command, args, cwd) =>
  execFileSync(command, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], timeout: 300_000 });

const has = (command) => {
  try {
    run(command, ['--version']);
    return true;
  } catch {
    return false;
  }
};

/** Full paths of files in a folder whose names match; none if the folder does not exist. */
export const filesIn = (folder, pattern) =>
  existsSync(folder)
    ? readdirSync(folder)
        .filter((name) => pattern.test(name))
        .map((name) => join(folder, name))
    : [];

/** Options that make apt use private folders, so that it needs neither root nor the system's lists. */
const privateLists = (home) => {
  const state = join(home, 'apt', 'lists');
  const cache = join(home, 'apt', 'cache');
  mkdirSync(join(state, 'partial'), { recursive: true });
  mkdirSync(join(cache, 'archives', 'partial'), { recursive: true });
  return ['-o', `Dir::State::Lists=${state}`, '-o', `Dir::Cache=${cache}`];
};

/** The newest package whose name matches in the lists that `options` select. */
const newest = (pattern, options) => {
  try {
    const names = run('apt-cache', [...options, 'search', '--names-only', pattern])
      .split('\n')
      .map((line) => line.split(' ')[0])
      .filter((name) => new RegExp(pattern).test(name ?? ''));
    return names.sort((a, b) => b.localeCompare(a, 'en', { numeric: true }))[0];
  } catch {
    return undefined;
  }
};

/**
 * Downloads and unpacks packages, calls `use` with their folder, and removes it.
 *
 * @param home    folder for temporary files
 * @param pattern name of the first package as a regular expression; the newest match is used
 * @param others  names of the packages that it requires
 * @throws Error saying what is missing
 */
export function withPackages(home, pattern, others, use) {
  if (process.platform !== 'linux') {
    throw new Error(`this script supports Debian and Ubuntu only, and this is ${process.platform}`);
  }
  for (const tool of ['apt-get', 'apt-cache', 'dpkg']) {
    if (!has(tool)) throw new Error(`${tool} is not installed: this script supports Debian and Ubuntu only`);
  }
  mkdirSync(home, { recursive: true });
  const work = mkdtempSync(join(home, 'unpack-'));
  try {
    // Otherwise apt warns about a folder that its user _apt cannot write to.
    let options = process.getuid?.() === 0 ? ['-o', 'APT::Sandbox::User=root'] : [];
    let name = newest(pattern, options);
    if (!name) {
      console.log(`fetching package lists (the system has none with a package ${pattern})`);
      options = [...options, ...privateLists(home)];
      apt([...options, 'update'], home);
      name = newest(pattern, options);
    }
    if (!name) throw new Error(`the configured package sources have no package ${pattern}`);
    console.log(`downloading ${[name, ...others].join(', ')}`);
    apt([...options, 'download', name, ...others], work);
    for (const deb of filesIn(work, /\.deb$/)) run('dpkg', ['-x', deb, join(work, 'root')]);
    return use(join(work, 'root'));
  } finally {
    rmSync(work, { recursive: true, force: true });
    rmSync(join(home, 'apt'), { recursive: true, force: true });
  }
}

function apt(args, cwd) {
  try {
    run('apt-get', args, cwd);
  } catch (error) {
    throw new Error(`apt-get ${args.at(-1)} failed: ${String(error.stderr || error.message).trim()}`, { cause: error });
  }
}
