#!/usr/bin/env node
/**
 * Installs oneDNN without root on Debian and Ubuntu: downloads the distribution's own packages and unpacks their libraries
 * into the user's cache folder, where @flamingo-ts/backend-native looks. Does nothing if the backend finds a library.
 */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { basename, isAbsolute, join, resolve } from 'node:path';
import { filesIn, withPackages } from './debian-packages.mjs';

const root = resolve(import.meta.dirname, '..');
const xdgCache = process.env.XDG_CACHE_HOME;
const home = join(xdgCache && isAbsolute(xdgCache) ? xdgCache : join(homedir(), '.cache'), 'flamingo-ts', 'onednn');
const lib = join(home, 'lib');

/** The libraries to unpack, under any name that ends in a version. */
const LIBRARY = /\blib(dnnl|gomp|OpenCL)\.so\.[0-9.]+$/;

/** Loads oneDNN as the backend does, in a separate process. Returns the library or the error. */
function load() {
  const script = `
    const { nativeLibrary } = await import('@flamingo-ts/backend-native');
    const { version, path } = nativeLibrary();
    console.log(version + ' from ' + path);`;
  const flags = ['--conditions=@flamingo-ts/source', '--import', 'tsx', '--input-type=module', '--eval', script];
  const { status, stdout, stderr } = spawnSync(process.execPath, flags, { cwd: root, encoding: 'utf8' });
  const error = stderr.split('\n').find((line) => /^\w*Error/.test(line)) ?? stderr.trim();
  return status === 0 ? { library: stdout.trim() } : { error };
}

/** Installs the run-time package, named `libdnnl2`, `libdnnl3` or `libdnnl3.6`, and the libraries that it requires. */
function install() {
  mkdirSync(home, { recursive: true, mode: 0o700 });
  withPackages(home, '^libdnnl[0-9.]+$', ['libgomp1', 'ocl-icd-libopencl1'], (unpacked) => {
    const fresh = mkdtempSync(join(home, 'lib-'));
    // The backend loads nothing from a folder that others can write to.
    chmodSync(fresh, 0o700);
    const names = readdirSync(unpacked, { recursive: true }).filter((path) => LIBRARY.test(path));
    // Libraries refer to each other by the shortest of their names, which are links here: copy each file under that name.
    const files = new Map();
    for (const path of names.sort((a, b) => b.length - a.length)) files.set(realpathSync(join(unpacked, path)), path);
    for (const [file, path] of files) copyFileSync(file, join(fresh, basename(path)));
    if (!filesIn(fresh, /^libdnnl\.so/).length) throw new Error('the package contains no libdnnl');
    rmSync(lib, { recursive: true, force: true });
    renameSync(fresh, lib);
  });
}

const present = load();
if (present.library) {
  console.log(`setup:onednn: the backend already loads oneDNN ${present.library}`);
} else {
  try {
    install();
    const { library, error } = load();
    if (!library) throw new Error(error);
    console.log(`setup:onednn: installed oneDNN ${library}`);
  } catch (error) {
    console.error(`setup:onednn: could not install oneDNN: ${error.message}`);
    console.error('Without it, use the WASM backend. To get it, install oneDNN 2.6 or later with your package manager');
    console.error('(Debian and Ubuntu: apt-get install libdnnl2 or libdnnl3; macOS: brew install onednn),');
    console.error('or set FLAMINGO_ONEDNN to the path of a libdnnl.');
    process.exit(1);
  }
}
