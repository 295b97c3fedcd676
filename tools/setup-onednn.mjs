#!/usr/bin/env node
/**
 * Brings oneDNN without root on Debian and Ubuntu: downloads the distribution's own packages and unpacks their libraries
 * into .cache/onednn/lib of this workspace, where @flamingo-ts/backend-native looks. Does nothing when a library is there.
 */
import { copyFileSync, existsSync, mkdtempSync, readdirSync, realpathSync, renameSync, rmSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { filesIn, withPackages } from './debian-packages.mjs';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const home = join(root, '.cache', 'onednn');
const lib = join(home, 'lib');

/** The libraries wanted, under any name that ends in a version. */
const LIBRARY = /\blib(dnnl|gomp|OpenCL)\.so\.[0-9.]+$/;

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

/** The run-time package, as `libdnnl2`, `libdnnl3`, `libdnnl3.6`, and what its library asks for. */
const bring = () =>
  withPackages(home, '^libdnnl[0-9.]+$', ['libgomp1', 'ocl-icd-libopencl1'], (unpacked) => {
    const fresh = mkdtempSync(join(home, 'lib-'));
    const names = readdirSync(unpacked, { recursive: true }).filter((path) => LIBRARY.test(path));
    // Libraries ask for each other by the shortest of their names, which are links here: each file once, under that name.
    const files = new Map();
    for (const path of names.sort((a, b) => b.length - a.length)) files.set(realpathSync(join(unpacked, path)), path);
    for (const [file, path] of files) copyFileSync(file, join(fresh, basename(path)));
    if (!filesIn(fresh, /^libdnnl\.so/).length) throw new Error('the package holds no libdnnl');
    rmSync(lib, { recursive: true, force: true });
    renameSync(fresh, lib);
    return filesIn(lib, /^libdnnl\.so/)[0];
  });

const present = found();
if (present) {
  console.log(`setup:onednn: oneDNN is here already: ${present}`);
} else {
  try {
    console.log(`setup:onednn: oneDNN is ready: ${bring()}`);
  } catch (error) {
    fail(error.message);
  }
}
