// Checks the packages as they would be published: packs every package, checks the tarballs with publint and arethetypeswrong,
// installs all of them into an empty project, and runs the example of each README there, as an ES module and as CommonJS.
// Also bundles packages that do not require Node for the browser.
//
//   node --import tsx scripts/check-packages.ts [--node OTHER_NODE_BINARY]
//
// The packages must be built. Prints a line for each check, and `N passed, N failed` at the end.
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { checkPackage, createPackageFromTarballData } from '@arethetypeswrong/core';
import { build } from 'esbuild';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';
import ts from 'typescript';
import { blocksOf, onlyLacksOneDnn, root } from './readme-blocks';

interface Manifest {
  readonly name: string;
  readonly version: string;
  readonly private?: boolean;
  readonly bin?: Record<string, string>;
  readonly nx?: { readonly tags: readonly string[] };
  readonly peerDependencies?: Record<string, string>;
  readonly peerDependenciesMeta?: Record<string, { optional?: boolean }>;
  readonly devDependencies?: Record<string, string>;
}

interface Packed {
  readonly folder: string;
  readonly json: Manifest;
  readonly tarball: string;
  /** Paths inside the tarball. */
  readonly files: readonly string[];
}

/** Layers that require Node: FFI, image decoding, the command line. */
const nodeOnly = ['backend', 'data', 'app'];

/** Backends are optional peers, and the test project has no tfjs-node-gpu. */
const missingBackend = `
  import { useBackend } from '@flamingo-ts/kernels';
  const message = await useBackend('tensorflow').then(() => 'the backend started', (error) => error.message);
  if (!/@tensorflow\\/tfjs-node-gpu is not installed. To fix this: npm install/.test(message)) throw new Error(message);
  console.log((await useBackend('auto')).summary);
`;

/** tfjs-core by itself registers no gradients; kernels registers them. */
const registeredGradients = `
  import '@flamingo-ts/kernels';
  import * as tf from '@tensorflow/tfjs-core';
  const count = Object.values(tf).filter((name) => typeof name === 'string' && tf.getGradient(name)).length;
  if (count < 101) throw new Error('expected the 101 gradients of TensorFlow.js 4.22, got ' + count);
`;

let passed = 0;
let failed = 0;

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { node: { type: 'string', multiple: true, default: [] } } });
  // Node reports real paths of modules, and on some systems the temporary folder is a link.
  const work = realpathSync(mkdtempSync(path.join(tmpdir(), 'flamingo-packages-')));
  try {
    const packages = publishable().map((folder) => pack(folder, work));
    for (const p of packages) await checkTarball(p);

    const project = path.join(work, 'project');
    report('all packages install in an empty project', install(packages, project));
    for (const { json } of packages) {
      if (!nodeOnly.includes(layerOf(json)))
        report(`${json.name}: can be bundled for the browser`, await bundle(json.name, project));
    }
    for (const node of [process.execPath, ...values.node.map((node) => path.resolve(node))])
      runEverything(packages, project, node);
    checkWithPnpm(packages, work);
    checkOtherRuntimes(packages, project);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed === 0 ? 0 : 1;
}

function report(name: string, problems: readonly string[]): void {
  if (problems.length === 0) passed++;
  else failed++;
  console.log(`${problems.length === 0 ? 'pass' : 'FAIL'}  ${name}`);
  for (const problem of problems) console.log(`      ${problem.trimEnd().replaceAll('\n', '\n      ')}`);
}

function manifest(folder: string): Manifest {
  return JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8')) as Manifest;
}

function publishable(): string[] {
  return ['packages', 'apps']
    .flatMap((parent) => readdirSync(path.join(root, parent)).map((name) => path.join(root, parent, name)))
    .filter((folder) => existsSync(path.join(folder, 'package.json')) && !manifest(folder).private);
}

function pack(folder: string, destination: string): Packed {
  const { stdout, stderr, status } = npm(['pack', '--json', '--pack-destination', destination], folder);
  if (status !== 0) throw new Error(`npm pack failed in ${folder}:\n${stderr}`);
  const [packed] = JSON.parse(stdout) as [{ filename: string; files: { path: string }[] }];
  return {
    folder,
    json: manifest(folder),
    tarball: path.join(destination, packed.filename),
    files: packed.files.map((file) => file.path),
  };
}

async function checkTarball({ json, folder, tarball, files }: Packed): Promise<void> {
  const data = readFileSync(tarball);
  const license = readFileSync(path.join(root, 'LICENSE'), 'utf8');
  report(`${json.name}: contains license, README, both module formats with types and source maps, and no sources`, [
    ...['LICENSE', 'README.md', ...['js', 'cjs'].flatMap((ext) => [`dist/index.${ext}`, `dist/index.${ext}.map`])]
      .concat('dist/index.d.ts', 'dist/index.d.cts')
      .filter((file) => !files.includes(file))
      .map((file) => `${file} is missing from the tarball`),
    ...files.filter((file) => /^(src|test)\//.test(file)).map((file) => `${file} should not be in the tarball`),
    ...(readFileSync(path.join(folder, 'LICENSE'), 'utf8') === license
      ? []
      : ['LICENSE differs from that of the workspace']),
  ]);

  const array = data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength) as ArrayBuffer;
  const { messages, pkg } = await publint({ pack: { tarball: array }, strict: true });
  report(
    `${json.name}: publint`,
    messages.map((message) => formatMessage(message, pkg, { color: false }) ?? message.code),
  );

  const types = await checkPackage(createPackageFromTarballData(new Uint8Array(data)));
  report(
    `${json.name}: arethetypeswrong`,
    types.types ? types.problems.map((problem) => JSON.stringify(problem)) : ['the package has no types'],
  );
}

/** Installs the tarballs and their peer dependencies in a new project, without running scripts. */
function install(packages: readonly Packed[], project: string): string[] {
  mkdirSync(project);
  writeFileSync(path.join(project, 'package.json'), '{ "private": true }\n');
  const { status, stdout, stderr } = npm(
    [
      'install',
      '--ignore-scripts',
      '--prefer-offline',
      '--no-audit',
      '--no-fund',
      ...packages.map(({ tarball }) => tarball),
      ...peersOf(packages).map((name) => `${name}@${versionOf(name)}`),
    ],
    project,
  );
  return status === 0 ? [] : [`${stdout}${stderr}`];
}

/** The required peer dependencies of the packages, and two backends. */
function peersOf(packages: readonly Packed[]): string[] {
  const peers = new Set(['@tensorflow/tfjs-backend-cpu', '@tensorflow/tfjs-backend-wasm']);
  for (const { json } of packages) {
    for (const name of Object.keys(json.peerDependencies ?? {})) {
      if (!json.peerDependenciesMeta?.[name]?.optional && !packages.some((p) => p.json.name === name)) peers.add(name);
    }
  }
  return [...peers];
}

/** The version that this workspace is tested with. */
function versionOf(name: string): string {
  return manifest(root).devDependencies?.[name] ?? 'latest';
}

function runEverything(packages: readonly Packed[], project: string, node: string): void {
  const version = spawnSync(node, ['--version'], { encoding: 'utf8' }).stdout.trim();
  for (const [form, file, code] of forms(registeredGradients)) {
    writeFileSync(path.join(project, file), code);
    report(`gradients of TensorFlow.js are registered, ${form} on Node ${version}`, run(node, project, [file]));
  }
  for (const [form, file, code] of forms(missingBackend)) {
    writeFileSync(path.join(project, file), code);
    report(`the error names a backend that is not installed, ${form} on Node ${version}`, run(node, project, [file]));
  }
  for (const { json, folder } of packages) {
    if (json.bin) {
      for (const name of Object.keys(json.bin)) {
        const bin = path.join(project, 'node_modules', json.name, json.bin[name]!);
        report(`${json.name}: command ${name} starts on Node ${version}`, run(node, project, [bin, '--help']));
      }
    }
    const example = exampleOf(folder) ?? (json.bin && loading(json.name));
    if (example === undefined) {
      report(`${json.name}: README example`, ['README.md has no ts block']);
      continue;
    }
    for (const [form, file, code] of forms(example)) {
      writeFileSync(path.join(project, file), code);
      report(`${json.name}: README example, ${form} on Node ${version}`, run(node, project, [file]));
    }
  }
}

/** A product on the backend that depends most on the runtime: native if oneDNN is available, otherwise WebAssembly. */
const product = `
  import { linear, useBackend } from '@flamingo-ts/kernels';
  import * as tf from '@tensorflow/tfjs-core';
  const { name } = await useBackend('auto');
  const y = linear(tf.tensor2d([[1, 2]]), { weight: tf.tensor2d([[3, 4]]) });
  if ((await y.data())[0] !== 11) throw new Error(name + ' gave ' + y);
  console.log(name);
`;

/** pnpm hides undeclared dependencies and runs no install scripts. */
function checkWithPnpm(packages: readonly Packed[], work: string): void {
  const folder = path.join(work, 'pnpm');
  mkdirSync(folder);
  const tarballs = Object.fromEntries(packages.map(({ json, tarball }) => [json.name, `file:${tarball}`]));
  const peers = Object.fromEntries(peersOf(packages).map((name) => [name, versionOf(name)]));
  writeFileSync(
    path.join(folder, 'package.json'),
    JSON.stringify({ private: true, dependencies: { ...tarballs, ...peers }, pnpm: { overrides: tarballs } }),
  );
  const pnpm = spawnSync('npx', ['--yes', 'pnpm@10', 'install', '--ignore-scripts', '--reporter=append-only'], {
    cwd: folder,
    encoding: 'utf8',
    env: { ...process.env, CI: 'true' },
  });
  report('all packages install with pnpm', pnpm.status === 0 ? [] : [`${pnpm.stdout}${pnpm.stderr}`]);
  writeFileSync(path.join(folder, 'product.mjs'), product);
  report('computes a product after installation with pnpm', run(process.execPath, folder, ['product.mjs']));
}

/** Checks Deno, Bun and the newest TypeScript, installed from npm. */
function checkOtherRuntimes(packages: readonly Packed[], project: string): void {
  const deno = '@deno/linux-x64-glibc';
  const bun = '@oven/bun-linux-x64';
  if (process.platform !== 'linux' || process.arch !== 'x64') return;
  const tools = path.join(root, '.cache', 'runtimes');
  mkdirSync(tools, { recursive: true });
  const names = [`${deno}@2`, `${bun}@1`, 'typescript@7'];
  const installed = npm(
    ['install', '--prefix', tools, '--no-save', '--prefer-offline', '--ignore-scripts', ...names],
    tools,
  );
  report('Deno, Bun and TypeScript 7 install', installed.status === 0 ? [] : [installed.stderr]);
  if (installed.status !== 0) return;
  const binary = (...parts: string[]) => path.join(tools, 'node_modules', ...parts);

  writeFileSync(path.join(project, 'product.mjs'), product);
  report('computes a product on Deno', run(binary(deno, 'deno'), project, ['run', '--allow-all', 'product.mjs']));
  report('computes a product on Bun', run(binary(bun, 'bin', 'bun'), project, ['product.mjs']));

  const examples = packages.flatMap(({ json, folder }) => {
    const file = `${path.basename(json.name)}.mts`;
    const code = exampleOf(folder);
    if (code !== undefined) writeFileSync(path.join(project, file), code);
    return code === undefined ? [] : [file];
  });
  const types = path.resolve(createRequire(import.meta.url).resolve('@types/node/package.json'), '../..');
  const options = '--noEmit --strict --skipLibCheck --module nodenext --target es2022 --lib es2023 --types node';
  const tsc = binary('typescript', 'bin', 'tsc');
  report(
    'README examples type-check with TypeScript 7',
    run(process.execPath, project, [tsc, ...options.split(' '), '--typeRoots', types, ...examples]),
  );
}

function layerOf({ nx }: Manifest): string {
  return nx?.tags[0]?.replace('layer:', '') ?? '';
}

/** Bundling fails on modules that browsers lack, such as node:fs, and on peers that should be optional. */
async function bundle(name: string, project: string): Promise<string[]> {
  const contents = `import * as all from '${name}';\nconsole.log(all);\n`;
  try {
    const { metafile } = await build({
      stdin: { contents, resolveDir: project },
      bundle: true,
      metafile: true,
      write: false,
      format: 'esm',
      platform: 'browser',
      logLevel: 'silent',
    });
    const layers = Object.keys(metafile.inputs).find((file) => file.includes('tfjs-layers'));
    return layers ? [`${layers} is in the bundle, but only its gradients are required, which kernels includes`] : [];
  } catch (error) {
    return [(error as Error).message];
  }
}

/** The first TypeScript example of a package's README. */
function exampleOf(folder: string): string | undefined {
  const readme = path.join(folder, 'README.md');
  return existsSync(readme) ? blocksOf(readme).find(({ language }) => language === 'ts')?.code : undefined;
}

/** Example for an application, whose README has only commands: loads its module. */
function loading(name: string): string {
  return `import * as all from '${name}';\nif (Object.keys(all).length === 0) throw new Error('no exports');\n`;
}

/** The same code in both module formats: [name of the format, file, JavaScript]. */
function forms(code: string): [string, string, string][] {
  return [
    ['ES module', 'example.mjs', asModule(code)],
    ['CommonJS', 'example.cjs', asCommonJs(code)],
  ];
}

function asModule(code: string): string {
  return ts.transpile(code, { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext });
}

/** CommonJS has no top-level await, so the code runs inside an async function. */
function asCommonJs(code: string): string {
  const options = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.CommonJS, esModuleInterop: true };
  return `(async () => {\n${ts.transpile(code, options)}\n})().catch((error) => {\n  console.error(error);\n  process.exit(1);\n});\n`;
}

function run(node: string, cwd: string, args: string[]): string[] {
  const { status, signal, error, stdout, stderr } = spawnSync(node, args, { cwd, encoding: 'utf8', timeout: 120_000 });
  if (error) return [error.message];
  return status === 0 || onlyLacksOneDnn(stderr)
    ? []
    : [`ended with ${signal ?? `status ${status}`}\n${stdout}${stderr}`];
}

function npm(args: string[], cwd: string) {
  // npm passes the root of this workspace to its child processes; the test project must not inherit it.
  const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => key !== 'npm_config_local_prefix'));
  return spawnSync('npm', args, { cwd, env, encoding: 'utf8', maxBuffer: 1 << 28 });
}

await main();
