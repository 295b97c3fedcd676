/**
 * Runs tfjs' own test suite on a backend, and compares random operations on native with cpu.
 *
 *     npm run conformance -- native
 *     npm run conformance -- native softmax   runs only the tfjs tests whose names contain this text
 *     npm run conformance -- cpu
 */
import { mkdirSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'esbuild';
import { fuzz } from './fuzz';

/** Takes a few seconds. */
const RANDOM_CASES = 600;

const here = dirname(fileURLToPath(import.meta.url));
const root = resolve(here, '../..');
const require = createRequire(import.meta.url);

interface Result {
  readonly fullName: string;
  readonly status: 'passed' | 'failed' | 'excluded' | 'pending' | 'disabled';
  readonly failedExpectations: readonly { readonly message: string }[];
}

interface JasmineEnv {
  configure(options: object): void;
  addReporter(reporter: object): void;
  execute(): Promise<unknown>;
}

/**
 * Bundles the suite, tfjs and the backends into one file, so that they share one engine. Node cannot load the suite directly:
 * its files contain ES modules, but Node treats them as CommonJS.
 */
async function bundle(): Promise<string> {
  const suite = join(root, 'node_modules/@tensorflow/tfjs-core/dist');
  const tests = (readdirSync(suite, { recursive: true }) as string[])
    .filter((name) => name.endsWith('_test.js'))
    .sort();
  const outfile = join(root, '.cache/conformance/suite.mjs');
  mkdirSync(dirname(outfile), { recursive: true });
  await build({
    stdin: {
      // The environment comes first: test files register their tests with it on import.
      contents: ['./environment', ...tests.map((name) => join(suite, name))]
        .map((path) => `import ${JSON.stringify(path)};`)
        .join('\n'),
      resolveDir: here,
    },
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    conditions: ['@flamingo-ts/source'],
    mainFields: ['module', 'main'],
    external: ['koffi'],
    // The package declares that its test files have no side effects, so esbuild would drop them.
    ignoreAnnotations: true,
    banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);" },
    logLevel: 'error',
  });
  return outfile;
}

async function main(): Promise<void> {
  const [backend, filter] = process.argv.slice(2);
  if (backend !== 'native' && backend !== 'cpu') {
    console.error(`conformance: expected a backend, native or cpu, got ${backend ?? 'nothing'}.`);
    process.exit(2);
  }
  process.env['CONFORMANCE_BACKEND'] = backend;
  const env = (require('jasmine-core') as { boot(): { getEnv(): JasmineEnv } }).boot().getEnv();
  env.configure({
    random: false,
    specFilter: (spec: { getFullName(): string }) => !filter || spec.getFullName().includes(filter),
  });
  let passed = 0;
  let failed = 0;
  env.addReporter({
    specDone: ({ fullName, status, failedExpectations }: Result) => {
      if (status === 'passed') passed++;
      if (status !== 'failed') return;
      failed++;
      console.log(`FAILED ${fullName}`);
      for (const { message } of failedExpectations.slice(0, 3)) console.log(`    ${message.split('\n')[0]}`);
    },
  });
  // The suite provokes thousands of warnings on purpose.
  console.warn = () => undefined;
  await import(pathToFileURL(await bundle()).href);
  await env.execute();
  if (backend === 'native' && !filter) {
    const random = await fuzz(1, RANDOM_CASES);
    console.log(`random operations: ${random.passed} equal to cpu, ${random.failed} different`);
    passed += random.passed;
    failed += random.failed;
  }
  console.log(filter ? `excluded: tests whose name does not contain '${filter}'` : 'excluded: none');
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed || !passed ? 1 : 0);
}

await main();
