import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { chromium } from 'playwright-core';
import { build, defaultClientConditions, preview, type PreviewServer } from 'vite';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { flamingo, TINY, writeConfig } from '../../apps/trainer/test/command';
import { findChromium } from '../../scripts/setup-chromium';

const folder = path.resolve(import.meta.dirname, '..');

/** Runs an example as a reader does. @returns what it prints */
async function run(name: string, ...more: string[]): Promise<string> {
  const args = ['--conditions=@flamingo-ts/source', '--import', 'tsx', path.join(folder, name), ...more];
  return (await promisify(execFile)(process.execPath, args, { encoding: 'utf8' })).stdout;
}

it('one-package.ts learns', async () => {
  const accuracy = /accuracy on new images: ([\d.]+)/.exec(await run('one-package.ts'));
  expect(Number(accuracy?.[1])).toBeGreaterThan(0.9);
}, 60_000);

it('own-language-model.ts names the color of each image', async () => {
  const output = await run('own-language-model.ts');
  expect(output).toContain('closed gates change nothing: true');
  for (const color of ['red', 'green', 'blue']) expect(output).toContain(`the ${color} image: ${color}\n`);
}, 60_000);

const CHROMIUM = findChromium();

it('few-shot-answer.ts asks a trained run', async () => {
  const work = mkdtempSync(path.join(tmpdir(), 'flamingo-examples-'));
  try {
    const config = writeConfig(work, TINY);
    for (const stage of ['pretrain-vision', 'pretrain-lm', 'train']) {
      expect(await flamingo(work, stage, config)).toMatchObject({ status: 0 });
    }
    const output = await run('few-shot-answer.ts', path.join(work, TINY.out));
    const [, red, green] = /^answer: (?:red|green)\n\w+: ([\d.]+)\n\w+: ([\d.]+)\n$/.exec(output) ?? [];
    expect(Number(red) + Number(green)).toBeCloseTo(1, 2);
  } finally {
    rmSync(work, { recursive: true });
  }
}, 120_000);

describe.runIf(CHROMIUM)('browser', () => {
  let server: PreviewServer;
  beforeAll(async () => {
    const configFile = path.join(folder, 'browser', 'vite.config.ts');
    // From the sources, as all tests; a copy of the example resolves the published packages.
    const conditions = ['@flamingo-ts/source', ...defaultClientConditions];
    await build({ configFile, logLevel: 'error', resolve: { conditions } });
    server = await preview({ configFile, logLevel: 'error', preview: { port: 0, host: '127.0.0.1' } });
  }, 120_000);
  afterAll(() => server?.close());

  it('computes latents on WebAssembly, without a warning in the console', async () => {
    const browser = await chromium.launch({
      executablePath: CHROMIUM,
      args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'],
    });
    try {
      const page = await browser.newPage();
      const problems: string[] = [];
      page.on('console', (message) => {
        if (message.type() !== 'log' && message.type() !== 'info') problems.push(message.text());
      });
      page.on('pageerror', (error) => problems.push(String(error)));
      await page.goto(server.resolvedUrls!.local[0]!);
      await page.waitForFunction("document.getElementById('status').textContent !== 'Loading ...'");
      expect(await page.textContent('#status')).toMatch(/^wasm: 16 x 64 latents in \d+ ms, all finite$/);
      expect(problems).toEqual([]);
    } finally {
      await browser.close();
    }
  }, 120_000);
});
