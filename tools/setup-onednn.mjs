#!/usr/bin/env node
/**
 * Brings oneDNN without root on Debian and Ubuntu: downloads the distribution's own packages and unpacks their libraries
 * into .cache/onednn/lib of this workspace, where @flamingo-ts/backend-native looks. Does nothing when a library is there.
 */
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const home = join(root, '.cache', 'onednn');
const lib = join(home, 'lib');

/** The libraries wanted, under any name that ends in a version. */
const LIBRARY = /\blib(dnnl|gomp|OpenCL)\.so\.[0-9.]+$/;

/** Full paths of files in a folder whose names match; an absent folder has none. */
const filesIn = (folder, pattern) =>
  existsSync(folder)
    ? readdirSync(folder)
        .filter((name) => pattern.test(name))
        .map((name) => join(folder, name))
    : [];

const systemFolders = () => {
  const folders = (process.env.LD_LIBRARY_PATH ?? '').split(':').filter(Boolean);
  for (const base of ['/usr/lib', '/lib', '/usr/local/lib']) {
    folders.push(base, `${base}64`);
    if (existsSync(base)) folders.push(...filesIn(base, /-linux-gnu/));
  }
  return folders;
};

const found = () => {
  if (process.env.FLAMINGO_ONEDNN && existsSync(process.env.FLAMINGO_ONEDNN)) return process.env.FLAMINGO_ONEDNN;
  return [lib, ...systemFolders()].flatMap((folder) => filesIn(folder, /^libdnnl\.so\.[23]/))[0];
};

const fail = (why) => {
  console.error(`setup:onednn: could not bring oneDNN: ${why}`);
  console.error('The WASM backend serves without it. To have it: install oneDNN 2.6 or later by your package manager');
  console.error('(Debian and Ubuntu: apt-get install libdnnl2 or libdnnl3; macOS: brew install onednn),');
  console.error('or set FLAMINGO_ONEDNN to the path of a libdnnl.');
  process.exit(1);
};

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

/** The newest oneDNN run-time package that the lists named by `options` know, as `libdnnl2`, `libdnnl3`, `libdnnl3.6`. */
const packageName = (options) => {
  try {
    const names = run('apt-cache', [...options, 'search', '--names-only', '^libdnnl[0-9.]+$'])
      .split('\n')
      .map((line) => line.split(' ')[0])
      .filter((name) => /^libdnnl[0-9.]+$/.test(name ?? ''));
    return names.sort((a, b) => b.localeCompare(a, 'en', { numeric: true }))[0];
  } catch {
    return undefined;
  }
};

/** Options that make apt work in folders of ours, so that neither root nor the system's lists are needed. */
const privateLists = () => {
  const state = join(home, 'apt', 'lists');
  const cache = join(home, 'apt', 'cache');
  mkdirSync(join(state, 'partial'), { recursive: true });
  mkdirSync(join(cache, 'archives', 'partial'), { recursive: true });
  return ['-o', `Dir::State::Lists=${state}`, '-o', `Dir::Cache=${cache}`];
};

const bring = () => {
  if (process.platform !== 'linux') fail(`this script knows Debian and Ubuntu, and this is ${process.platform}`);
  for (const tool of ['apt-get', 'apt-cache', 'dpkg']) {
    if (!has(tool)) fail(`${tool} is not there: this script knows Debian and Ubuntu`);
  }
  // Downloading as root into a folder that the _apt user cannot write only earns a warning otherwise.
  let options = process.getuid?.() === 0 ? ['-o', 'APT::Sandbox::User=root'] : [];
  let name = packageName(options);
  if (!name) {
    console.log('setup:onednn: fetching package lists into .cache/onednn (the system has none that name oneDNN)');
    options = [...options, ...privateLists()];
    try {
      run('apt-get', [...options, 'update']);
    } catch (error) {
      fail(`apt-get update failed: ${String(error.stderr || error.message).trim()}`);
    }
    name = packageName(options);
  }
  if (!name) fail('the configured package sources have no libdnnl package');

  const work = mkdtempSync(join(home, 'unpack-'));
  try {
    const packages = [name, 'libgomp1', 'ocl-icd-libopencl1'];
    console.log(`setup:onednn: downloading ${packages.join(', ')}`);
    try {
      run('apt-get', [...options, 'download', ...packages], work);
    } catch (error) {
      fail(`apt-get download failed: ${String(error.stderr || error.message).trim()}`);
    }
    for (const deb of filesIn(work, /\.deb$/)) run('dpkg', ['-x', deb, join(work, 'root')]);
    const fresh = join(work, 'lib');
    mkdirSync(fresh);
    const names = readdirSync(join(work, 'root'), { recursive: true }).filter((path) => LIBRARY.test(path));
    // Libraries ask for each other by the shortest of their names, which are links here: each file once, under that name.
    const files = new Map();
    for (const path of names.sort((a, b) => b.length - a.length))
      files.set(realpathSync(join(work, 'root', path)), path);
    for (const [file, path] of files) copyFileSync(file, join(fresh, basename(path)));
    if (!filesIn(fresh, /^libdnnl\.so/).length) fail(`package ${name} holds no libdnnl`);
    rmSync(lib, { recursive: true, force: true });
    renameSync(fresh, lib);
  } finally {
    rmSync(work, { recursive: true, force: true });
    rmSync(join(home, 'apt'), { recursive: true, force: true });
  }
  return filesIn(lib, /^libdnnl\.so/)[0];
};

const present = found();
if (present) {
  console.log(`setup:onednn: oneDNN is here already: ${present}`);
} else {
  mkdirSync(home, { recursive: true });
  console.log(`setup:onednn: oneDNN is ready: ${bring()}`);
}
