// The whole check, from a fresh clone to the finish: installs, sets up the backends that can be had, builds, checks
// types, lint and format, runs the tests on every backend, the reference cases and the packed packages.
//
// The last line is `N passed, N failed`: tests, reference cases and package checks, and one for each other step.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { installed } from './installed.mjs';

const root = path.resolve(import.meta.dirname, '..');
const work = path.join(root, '.cache', 'verify');
const source = ['--conditions=@flamingo-ts/source', '--import', 'tsx'];
const rows = [];

async function main() {
  rmSync(work, { recursive: true, force: true });
  mkdirSync(work, { recursive: true });

  if (!installed(root) && !(await step('install', 'npm', ['ci']))) return;
  const backends = ['cpu', 'wasm'];
  if (await optional('setup:onednn', 'node', ['tools/setup-onednn.mjs'])) backends.push('native');
  if (await optional('setup:tensorflow', 'npm', ['run', '-s', 'setup:tensorflow', '--', '--download']))
    backends.push('tensorflow');
  await optional('setup:redis', 'node', ['tools/setup-redis.mjs']);
  const node24 = await otherNode();

  await step('build', 'npm', ['run', '-s', 'build'], { env: { NX_DAEMON: 'false', NX_TUI: 'false' } });
  await Promise.all([step('types', 'npm', ['run', '-s', 'typecheck']), step('lint', 'npm', ['run', '-s', 'lint'])]);
  await step('format', 'npm', ['run', '-s', 'format:check']);

  await tests(process.execPath, backends);
  // What may differ between versions of Node is the native code; examples run on both below, from the packages.
  const native = backends.filter((name) => name === 'native' || name === 'tensorflow');
  if (node24) await tests(node24, native.length > 0 ? native : ['wasm'], ['--exclude', 'tools/readme.test.ts']);
  if (backends.includes('native')) {
    await step("TensorFlow.js' own tests on native", 'npm', ['run', '-s', 'conformance', '--', 'native'], {
      count: lastCount,
    });
  }
  await step('reference cases', 'node', [...source, 'tools/goldens/main.ts', ...references()], { count: lastCount });
  const nodes = node24 ? ['--node', node24] : [];
  await step('packed packages', 'node', ['--import', 'tsx', 'tools/check-packages.ts', ...nodes], {
    env: { FLAMINGO_TEST_BACKENDS: backends.join(',') },
    count: lastCount,
  });
}

/** The whole suite on one Node, with the suites of the models on each of the backends. */
function tests(node, backends, more = []) {
  const version = spawnSync(node, ['--version'], { encoding: 'utf8' }).stdout.trim();
  const report = path.join(work, `vitest-${version}.json`);
  const args = ['run', '--reporter=dot', '--reporter=json', `--outputFile.json=${report}`, ...more];
  // Without its library the backend cannot be tested at all.
  if (!backends.includes('native')) args.push('--exclude', 'packages/backend-native/**');
  return step(`tests on Node ${version}: ${backends.join(', ')}`, node, ['node_modules/vitest/vitest.mjs', ...args], {
    env: { FLAMINGO_TEST_BACKENDS: backends.join(','), TF_CPP_MIN_LOG_LEVEL: '2', NO_COLOR: '1' },
    count: () => countTests(report),
    minutes: 30,
  });
}

/** Runs a command, keeps what it prints for the end of the step, and counts it: as one, or by what `count` reads. */
async function step(name, command, args, { env, count, minutes } = {}) {
  const { status, seconds, output } = await run(name, command, args, { env, minutes });
  const ok = status === 0;
  const counted = count?.(output) ?? { passed: ok ? 1 : 0, failed: ok ? 0 : 1 };
  // A command that fails without a failure among what it counts has broken down: that is one more.
  if (!ok && counted.failed === 0) counted.failed = 1;
  rows.push({ name, seconds, ...counted });
  return ok;
}

/** A step that this machine may not be able to do, which is no failure; five minutes are for a slow download. */
async function optional(name, command, args) {
  const { status, seconds } = await run(name, command, args, { minutes: 5 });
  rows.push({ name, seconds, note: status === 0 ? 'ready' : 'cannot be had here' });
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
      if (output.trim())
        console.log(
          output
            .trimEnd()
            .split('\n')
            .slice(status === 0 ? -15 : -400)
            .join('\n'),
        );
      resolve({ status, seconds, output });
    };
    child.on('error', (error) => end(error.message));
    child.on('close', (status, signal) => end(status ?? signal));
  });
}

/** `N passed, N failed`, as the last line that says so. */
function lastCount(output) {
  const line = output.split('\n').findLast((text) => /^\d+ passed, \d+ failed$/.test(text));
  const [passed, failed] = line?.match(/\d+/g).map(Number) ?? [0, 1];
  return { passed, failed };
}

/** Tests by vitest's report; a file that could not even be loaded has no tests and counts as one failure. */
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

/** The reference data beside the clone where it is there, otherwise the whole cases that packages carry for their tests. */
function references() {
  const shared = path.join(root, '..', 'shared', 'goldens');
  if (existsSync(shared)) {
    const tokenizers = ['byte-level-bpe', 'bpe-byte-fallback', 'unigram'].map((name) => `tokenizers/${name}`);
    return ['flamingo', 'vision', 'lm/chinchilla', 'lm/decode', ...tokenizers].map((area) => path.join(shared, area));
  }
  return ['data-mixtures', 'evaluation', 'gated-xattn', 'perceiver-resampler'].map((name) =>
    path.join('packages', name, 'test', 'reference'),
  );
}

/** A Node 24 to try the packages on too, as npm's packages carry it; nothing where this is one. */
async function otherNode() {
  if (Number(process.versions.node.split('.')[0]) >= 24) return undefined;
  const name = `node-${process.platform}-${process.arch}`;
  const prefix = path.join(root, '.cache', 'node24');
  const binary = path.join(prefix, 'node_modules', name, 'bin', 'node');
  if (existsSync(binary)) return binary;
  mkdirSync(prefix, { recursive: true });
  const args = ['install', '--prefix', prefix, '--no-save', '--no-package-lock', '--ignore-scripts', `${name}@24`];
  return (await optional('Node 24', 'npm', args)) && existsSync(binary) ? binary : undefined;
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
// Whoever sees only the end of a long output still learns what failed.
for (const failure of rows.flatMap((row) => row.failures ?? [])) console.log(`failed: ${failure}\n`);
const [passed, failed] = ['passed', 'failed'].map((key) => rows.reduce((sum, row) => sum + (row[key] ?? 0), 0));
console.log(`${((performance.now() - started) / 1000).toFixed(1).padStart(9)}${' '.repeat(20)}in all\n`);
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
