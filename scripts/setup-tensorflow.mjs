// Sets up backend 'tensorflow': builds the native addon of @tensorflow/tfjs-node-gpu from the package's own sources
// against a current TensorFlow library. The package's install script can only download one of 2022.
//
//   npm run setup:tensorflow                  uses the library of an installed Python TensorFlow
//   npm run setup:tensorflow -- DIR           uses the library in DIR: an unpacked wheel, or lib/ and include/ of libtensorflow
//   npm run setup:tensorflow -- --download    downloads a wheel with pip (270 MB) and unpacks its library into .cache/
//
// Running it again only adds what is missing.
import { spawnSync } from 'node:child_process';
import { existsSync, lstatSync, mkdirSync, readdirSync, realpathSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const root = path.resolve(import.meta.dirname, '..');
const cache = path.join(root, '.cache', 'tensorflow');
// Python imports modules from its working directory, so all calls run in /, which only root can write to.
const python = process.env.PYTHON?.includes('/') ? path.resolve(process.env.PYTHON) : (process.env.PYTHON ?? 'python3');
const headers = ['tensorflow/c/c_api.h', 'tensorflow/c/eager/c_api.h', 'tensorflow/core/platform/ctstring_internal.h'];

function main() {
  if (process.platform !== 'linux') {
    fail(
      `this script supports Linux only, and this is ${process.platform}.`,
      "Use the package's own install: npm rebuild @tensorflow/tfjs-node-gpu",
    );
  }
  const addon = packageFolder();
  const library = findLibrary(process.argv.slice(2), addon);
  console.log(`TensorFlow library: ${library.main}`);

  const changed = linkLibrary(addon, library);
  if (changed || !builtAddon(addon)) build(addon);
  else console.log('The addon is built already.');
  check();
}

/** The package's folder. */
function packageFolder() {
  try {
    return path.dirname(createRequire(import.meta.url).resolve('@tensorflow/tfjs-node-gpu/package.json'));
  } catch {
    return fail('@tensorflow/tfjs-node-gpu is not installed.', 'Run npm ci first.');
  }
}

function findLibrary(args, addon) {
  if (args.length > 1 || args.some((arg) => arg.startsWith('-') && arg !== '--download')) {
    fail(`unknown arguments: ${args.join(' ')}.`, 'Expected nothing, a folder, or --download.');
  }
  const [arg] = args;
  if (arg === '--download') return libraryIn(downloaded()) ?? fail(`the wheel in ${cache} has no TensorFlow library.`);
  if (arg) {
    const library = libraryIn(path.resolve(arg));
    if (library) return library;
    return fail(
      `${path.resolve(arg)} has no TensorFlow library with its headers.`,
      'Expected libtensorflow_cc.so.2 (or libtensorflow.so.2) and libtensorflow_framework.so.2, in it or in its lib/ or',
      `tensorflow/, and in the include/ folder next to them: ${headers.join(', ')}`,
    );
  }
  const installed = installedTensorFlow();
  // Falls back to the library of an earlier run.
  const library = (installed && libraryIn(installed)) ?? libraryIn(cache) ?? libraryIn(path.join(addon, 'deps'));
  if (library) return library;
  return fail(
    installed
      ? `the TensorFlow at ${installed} has no library with headers.`
      : `${python} has no TensorFlow installed.`,
    'Choose one:',
    '  pip install tensorflow-cpu              then run this again (tensorflow[and-cuda] for an NVIDIA card)',
    '  npm run setup:tensorflow -- DIR         to use the libtensorflow in a folder',
    '  npm run setup:tensorflow -- --download  to have pip download tensorflow-cpu for this clone only (270 MB)',
  );
}

/** Finds the two libraries and the headers in the layout of a wheel or of a release archive. */
function libraryIn(folder) {
  for (const base of [folder, path.join(folder, 'tensorflow')]) {
    for (const lib of [base, path.join(base, 'lib')]) {
      const main = ['libtensorflow_cc.so.2', 'libtensorflow.so.2', 'libtensorflow.so']
        .map((name) => path.join(lib, name))
        .find((file) => existsSync(file));
      const framework = path.join(lib, 'libtensorflow_framework.so.2');
      const include = path.join(base, 'include');
      if (main && existsSync(framework) && headers.every((file) => existsSync(path.join(include, file)))) {
        // The CUDA libraries of a GPU wheel are in the folder nvidia, next to that of the library.
        const nvidia = path.join(base, '..', 'nvidia');
        return { main, framework, include, nvidia: existsSync(nvidia) ? nvidia : undefined };
      }
    }
  }
  return undefined;
}

/** Asks Python for TensorFlow's folder without importing it, which would take seconds. */
function installedTensorFlow() {
  const script =
    'import importlib.util as u; s = u.find_spec("tensorflow"); print(s.submodule_search_locations[0] if s else "")';
  const { stdout } = spawnSync(python, ['-c', script], { encoding: 'utf8', cwd: '/' });
  return stdout?.trim() || undefined;
}

function downloaded() {
  if (libraryIn(cache)) return cache;
  const part = `${cache}.part`;
  rmSync(part, { recursive: true, force: true });
  mkdirSync(part, { recursive: true });
  console.log('Downloading the tensorflow-cpu wheel with pip (270 MB, 850 MB unpacked into .cache/tensorflow)');
  run(
    python,
    ['-m', 'pip', 'download', '--quiet', '--no-deps', '--only-binary=:all:', '--dest', part, 'tensorflow-cpu'],
    { cwd: '/' },
  );
  const wheel = readdirSync(part).find((file) => file.endsWith('.whl'));
  if (!wheel) fail('pip downloaded no wheel.');
  const unpack = [
    'import sys, zipfile',
    'z = zipfile.ZipFile(sys.argv[1])',
    'wanted = ("tensorflow/libtensorflow", "tensorflow/include/tensorflow/", "tensorflow/include/tsl/", "tensorflow/include/xla/")',
    'z.extractall(sys.argv[2], [n for n in z.namelist() if n.startswith(wanted)])',
  ].join('\n');
  run(python, ['-c', unpack, path.join(part, wheel), part], { cwd: '/' });
  rmSync(path.join(part, wheel));
  rmSync(cache, { recursive: true, force: true });
  renameSync(part, cache); // renamed last, so that an interrupted download leaves no incomplete library
  return cache;
}

/** Links the library and the headers to where binding.gyp expects them. Returns whether anything changed. */
function linkLibrary(addon, library) {
  const deps = path.join(addon, 'deps');
  const links = {
    include: library.include,
    // One name for the linker, and the library's own name for the loader.
    'lib/libtensorflow.so': library.main,
    [`lib/${path.basename(library.main)}`]: library.main,
    'lib/libtensorflow_framework.so': library.framework,
    'lib/libtensorflow_framework.so.2': library.framework,
    ...(library.nvidia && { nvidia: library.nvidia }),
  };
  const wrong = Object.entries(links).filter(([name, target]) => !pointsTo(path.join(deps, name), target));
  if (wrong.length === 0) return false;
  rmSync(deps, { recursive: true, force: true });
  mkdirSync(path.join(deps, 'lib'), { recursive: true });
  for (const [name, target] of Object.entries(links)) symlinkSync(target, path.join(deps, name));
  return true;
}

function pointsTo(link, target) {
  return existsSync(link) && lstatSync(link).isSymbolicLink() && realpathSync(link) === realpathSync(target);
}

function builtAddon(addon) {
  const lib = path.join(addon, 'lib');
  return existsSync(lib) && readdirSync(lib).some((abi) => existsSync(path.join(lib, abi, 'tfjs_binding.node')));
}

/** The package's documented build from source; shows the compiler's output only if it fails. */
function build(addon) {
  for (const tool of ['make', 'g++', python]) {
    if (spawnSync(tool, ['--version']).status !== 0) {
      fail(
        `${tool} is missing, which is required to compile the addon.`,
        'Debian, Ubuntu: apt-get install build-essential python3',
      );
    }
  }
  // Node's own headers if installed, so that nothing is downloaded. Any version will do: the addon uses Node-API.
  const prefix = path.resolve(process.execPath, '..', '..');
  const env = { ...process.env };
  if (!env.npm_config_nodedir && existsSync(path.join(prefix, 'include/node/node_api.h')))
    env.npm_config_nodedir = prefix;

  console.log('Building the addon from its sources');
  const preGyp = createRequire(path.join(addon, 'package.json')).resolve('@mapbox/node-pre-gyp/bin/node-pre-gyp');
  run(process.execPath, [preGyp, 'install', '--build-from-source'], { cwd: addon, env });
}

/** Runs the backend as users do: a product, a gradient, and an operation that depends on an API that Node 23 removed. */
function check() {
  const script = `
    import * as tf from '@tensorflow/tfjs-core';
    import { useBackend } from '@flamingo-ts/kernels';
    await useBackend('tensorflow');
    const x = tf.tensor2d([[1, 2], [3, 4]]);
    const gradient = tf.grad((x) => tf.sum(tf.matMul(x, x)))(x).dataSync().join();
    if (gradient !== '7,11,9,13') throw new Error('wrong gradient: ' + gradient);
    const top = tf.topk(x, 1).values.dataSync().join();
    if (top !== '2,4') throw new Error('wrong topk: ' + top);
    console.log("Backend 'tensorflow' works, on the " + (tf.backend().isUsingGpuDevice ? 'graphics card.' : 'processor.'));
  `;
  const flags = ['--conditions=@flamingo-ts/source', '--import', 'tsx', '--input-type=module', '--eval', script];
  const env = { TF_CPP_MIN_LOG_LEVEL: '2', ...process.env };
  run(process.execPath, flags, { cwd: root, env, show: true });
}

function run(command, args, { show, ...options } = {}) {
  const result = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 1 << 28, ...options });
  if (result.error) fail(`cannot run ${command}: ${result.error.message}`);
  if (result.status !== 0) {
    const output = `${result.stdout}${result.stderr}`.trimEnd().split('\n').slice(-40).join('\n');
    fail(`${path.basename(command)} failed (status ${result.status}):`, output);
  }
  if (show) process.stdout.write(result.stdout);
}

function fail(what, ...lines) {
  console.error([`setup:tensorflow: ${what}`, ...lines].join('\n'));
  process.exit(1);
}

main();
