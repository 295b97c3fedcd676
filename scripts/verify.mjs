// Checks everything from a fresh clone: installs, sets up backends, builds, checks types, lint and format, and runs the tests
// on every backend, TensorFlow.js' own tests, the reference cases and the packed packages.
//
//   npm run verify -- [--reference DIR]
//
// --reference names a folder of reference cases; by default, those in the packages are used.
// The last line is `N passed, N failed`: it counts tests, cases and package checks, and one for each other step.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { installed } from './installed.mjs';

const root = path.resolve(import.meta.dirname, '..');
const work = path.join(root, '.cache', 'verify');
const source = ['--conditions=@flamingo-ts/source', '--import', 'tsx'];
const rows = [];

/** Tests of features that can differ between versions of Node: native calls, threads, sockets, compression, file mapping. */
const NODE_DEPENDENT = [
  'packages/backend-native/src/native-backend.test.ts',
  'packages/backend-native/src/machine-code',
  'packages/backend-native/src/onednn',
  'packages/backend-native/src/shared',
  'packages/checkpoint',
  'packages/kernels/src/backend.test.ts',
  'packages/data-mixtures/src/image-decoder.test.ts',
  'packages/data-mixtures/src/open-dataset.test.ts',
  'packages/data-mixtures/src/prefetch.test.ts',
  'packages/data-mixtures/src/shards.test.ts',
  'packages/data-extraction/src/images/image-fetcher.test.ts',
  'packages/data-extraction/src/job',
  'packages/data-extraction/test/job.test.ts',
  'apps/trainer/test/killed.test.ts',
];

async function main() {
  const { values } = parseArgs({ options: { reference: { type: 'string' } } });
  rmSync(work, { recursive: true, force: true });
  mkdirSync(work, { recursive: true });
  if (!installed(root) && !(await step('install', 'npm', ['ci']))) return;

  // Most of these steps use one core, so two sequences run in parallel.
  const backends = ['cpu', 'wasm'];
  let node24;
  await Promise.all([
    (async () => {
      if (await setUp('setup:onednn', 'node', ['scripts/setup-onednn.mjs'], { required: Boolean(process.env.CI) }))
        backends.push('native');
      if (await setUp('setup:tensorflow', 'npm', ['run', '-s', 'setup:tensorflow', '--', '--download']))
        backends.push('tensorflow');
      await setUp('setup:redis', 'node', ['scripts/setup-redis.mjs']);
      await setUp('setup:chromium', 'node', ['--import', 'tsx', 'scripts/setup-chromium.ts']);
      node24 = await otherNode();
      await step('types', 'npm', ['run', '-s', 'typecheck']);
    })(),
    (async () => {
      // Builds in a copy of the workspace, as a release does.
      await step('release dry run', 'node', ['scripts/release-dry-run.mjs']);
      await step('lint', 'npm', ['run', '-s', 'lint']);
      await step('documentation site', 'npm', ['run', '-s', 'docs']);
      await step('format', 'npm', ['run', '-s', 'format:check']);
    })(),
  ]);

  await tests(process.execPath, backends);
  await Promise.all([
    node24 && tests(node24, [backends.includes('native') ? 'native' : 'wasm'], NODE_DEPENDENT),
    (async () => {
      if (backends.includes('native')) {
        await step("TensorFlow.js' own tests on native", 'npm', ['run', '-s', 'conformance', '--', 'native'], {
          count: lastCount,
        });
      }
      const cases = references(values.reference);
      await step('reference cases', 'node', [...source, 'scripts/goldens/main.ts', ...cases], { count: lastCount });
      const nodes = node24 ? ['--node', node24] : [];
      const check = '.cache/release/scripts/check-packages.ts';
      await step('packed packages', 'node', ['--import', 'tsx', check, ...nodes], {
        env: { FLAMINGO_TEST_BACKENDS: backends.join(',') },
        count: lastCount,
      });
    })(),
  ]);
}

/** Runs test files (all by default), with model tests on each of the backends. */
function tests(node, backends, files = []) {
  const version = spawnSync(node, ['--version'], { encoding: 'utf8' }).stdout.trim();
  const report = path.join(work, `vitest-${version}.json`);
  const args = ['run', '--reporter=dot', '--reporter=json', `--outputFile.json=${report}`, ...files];
  // Without its library the backend cannot be tested at all.
  if (!backends.includes('native')) args.push('--exclude', 'packages/backend-native/**');
  return step(`tests on Node ${version}: ${backends.join(', ')}`, node, ['node_modules/vitest/vitest.mjs', ...args], {
    env: { FLAMINGO_TEST_BACKENDS: backends.join(','), TF_CPP_MIN_LOG_LEVEL: '2', NO_COLOR: '1' },
    count: () => countTests(report),
    minutes: 30,
  });
}

/** Runs a command, prints the end of its output, and adds to the count: one, or what `count` reads from the output. */
async function step(name, command, args, { env, count, minutes } = {}) {
  const { status, seconds, output } = await run(name, command, args, { env, minutes });
  const ok = status === 0;
  const counted = count?.(output) ?? { passed: ok ? 1 : 0, failed: ok ? 0 : 1 };
  // A command that fails without reporting a failure counts as one.
  if (!ok && counted.failed === 0) counted.failed = 1;
  rows.push({ name, seconds, ...counted });
  return ok;
}

/** Runs a step that may be impossible on this machine. Only a required one can fail. */
async function setUp(name, command, args, { required = false } = {}) {
  if (required) return step(name, command, args);
  // Five minutes leave time for a slow download.
  const { status, seconds } = await run(name, command, args, { minutes: 5 });
  rows.push({ name, seconds, note: status === 0 ? 'ready' : 'not available on this machine' });
  return status === 0;
}

function run(name, command, args, { env, minutes = 15 }) {
  const started = performance.now();
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: root,
      // `npm run --silent verify` must not silence the commands below it.
      env: { ...process.env, npm_config_loglevel: 'error', ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: minutes * 60_000,
    });
    let output = '';
    child.stdout.on('data', (text) => (output += text));
    child.stderr.on('data', (text) => (output += text));
    const end = (status) => {
      const seconds = (performance.now() - started) / 1000;
      console.log(`== ${name}: ${status === 0 ? 'ok' : `failed (${status})`}, ${seconds.toFixed(1)} s`);
      if (output.trim()) {
        const lines = output.trimEnd().split('\n');
        console.log(lines.slice(status === 0 ? -15 : -400).join('\n'));
      }
      resolve({ status, seconds, output });
    };
    child.on('error', (error) => end(error.message));
    child.on('close', (status, signal) => end(status ?? signal));
  });
}

/** Reads the last line of the form `N passed, N failed`. */
function lastCount(output) {
  const line = output.split('\n').findLast((text) => /^\d+ passed, \d+ failed$/.test(text));
  const [passed, failed] = line?.match(/\d+/g).map(Number) ?? [0, 1];
  return { passed, failed };
}

/** Counts tests in vitest's report; a file that does not load has no tests and counts as one failure. */
function countTests(file) {
  if (!existsSync(file)) return { passed: 0, failed: 1 };
  const { numPassedTests, testResults } = JSON.parse(readFileSync(file, 'utf8'));
  const failures = testResults.flatMap(({ name, status, message, assertionResults }) => {
    const from = path.relative(root, name);
    if (status === 'failed' && assertionResults.length === 0) return [`${from}: ${message}`];
    const failed = assertionResults.filter((test) => test.status === 'failed');
    return failed.map((test) => `${from} > ${test.fullName}\n${test.failureMessages.join('\n')}`);
  });
  return { passed: numPassedTests, failed: failures.length, failures };
}

/** Folders of reference cases: those in `folder`, or by default those that packages contain for their tests. */
function references(folder) {
  if (folder === undefined) {
    return ['data-mixtures', 'evaluation', 'gated-xattn', 'perceiver-resampler'].map((name) =>
      path.join('packages', name, 'test', 'reference'),
    );
  }
  const tokenizers = ['byte-level-bpe', 'bpe-byte-fallback', 'unigram'].map((name) => `tokenizers/${name}`);
  return ['flamingo', 'vision', 'lm/chinchilla', 'lm/decode', ...tokenizers].map((area) => path.resolve(folder, area));
}

/** Installs Node 24 from npm for more tests. Returns its path; undefined if this process runs on Node 24 or later. */
async function otherNode() {
  if (Number(process.versions.node.split('.')[0]) >= 24) return undefined;
  const name = `node-${process.platform}-${process.arch}`;
  const prefix = path.join(root, '.cache', 'node24');
  const binary = path.join(prefix, 'node_modules', name, 'bin', 'node');
  if (existsSync(binary)) return binary;
  mkdirSync(prefix, { recursive: true });
  const args = ['install', '--prefix', prefix, '--no-save', '--no-package-lock', '--ignore-scripts', `${name}@24`];
  return (await setUp('Node 24', 'npm', args)) && existsSync(binary) ? binary : undefined;
}

const started = performance.now();
await main();
console.log('\n  seconds   passed   failed  step');
for (const { name, seconds, passed = '', failed = '', note } of rows) {
  console.log(
    [seconds.toFixed(1), passed, failed].map((x) => String(x).padStart(9)).join('') +
      `  ${name}${note ? ` (${note})` : ''}`,
  );
}
// Repeats the failures, for readers who see only the end of a long output.
for (const failure of rows.flatMap((row) => row.failures ?? [])) console.log(`failed: ${failure}\n`);
const [passed, failed] = ['passed', 'failed'].map((key) => rows.reduce((sum, row) => sum + (row[key] ?? 0), 0));
console.log(`${((performance.now() - started) / 1000).toFixed(1).padStart(9)}${' '.repeat(20)}total\n`);
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
