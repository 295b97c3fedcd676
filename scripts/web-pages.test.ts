import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readManifest } from '@flamingo-ts/data-mixtures';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { redisServer, TestRedis } from '../packages/data-extraction/test/redis';
import { pageOf, image } from '../packages/data-extraction/test/sample-pages';
import { flamingo } from '../apps/trainer/test/command';
import { blocksOf, root } from './readme-blocks';

const folder = mkdtempSync(join(tmpdir(), 'flamingo-web-'));
beforeAll(async () => {
  mkdirSync(join(folder, 'pages'));
  for (let i = 0; i < 3; i++) writeFileSync(join(folder, 'pages', `p${i}.png`), await image(i));
  for (let i = 0; i < 20; i++) writeFileSync(join(folder, 'pages', `${i}.html`), pageOf(i, `p${i % 3}.png`));
});
afterAll(() => rmSync(folder, { recursive: true }));

/** The commands of the block of docs/web-pages.md that starts with `first`. */
function commandsFrom(first: string): string[] {
  const { code } = blocksOf(join(root, 'docs/web-pages.md')).find((block) => block.code.startsWith(first))!;
  return code.trim().split('\n');
}

const run = (command: string) => flamingo(folder, ...command.replace('npx flamingo ', '').split(' '));

it('the commands of docs/web-pages.md turn pages into shards', { timeout: 120_000 }, async () => {
  const commands = commandsFrom('npm install').slice(1);
  expect(commands).toHaveLength(6);
  const outputs: string[] = [];
  for (const command of commands) {
    const { status, stdout, stderr } = await run(command);
    expect(status, `${command}\n${stderr}`).toBe(0);
    outputs.push(stdout);
  }
  expect(outputs[0]).toMatch(
    /^20 pages in 2 units; 20 pages of 2 units sampled\.\nA page takes [\d.]+ ms of one core .* yields 1\.00 documents with 1\.00 images/,
  );
  expect(outputs[1]).toMatch(/^20 documents from 20 pages: 20 images, \d+ words; 20 pairs of image and text\./);
  expect(existsSync(join(folder, 'inspect.html')) && existsSync(join(folder, 'stats.svg'))).toBe(true);
  expect(await readManifest(join(folder, 'shards/pages'))).toMatchObject({ documents: 20, images: 20 });
  expect(await readManifest(join(folder, 'shards/pairs'))).toMatchObject({ documents: 20, images: 20 });
});

it.skipIf(!redisServer)('the commands for several machines work through Redis', { timeout: 120_000 }, async () => {
  const [server, extract, work] = commandsFrom('redis-server');
  const redis = await TestRedis.start(...server!.split(' ').slice(1));
  const here = (command: string) =>
    command
      .replaceAll('/shared/', '')
      .replace('documents', 'elsewhere')
      .replace('queue:6379', `127.0.0.1:${redis.port}`);
  const done = await Promise.all([run(here(extract!)), run(here(work!))]);
  await redis.kill();
  expect(done).toMatchObject([
    { status: 0 },
    { status: 0, stdout: expect.stringMatching(/^\d units processed by this worker\.$/m) },
  ]);
  const documents = (name: string) => readFileSync(join(folder, name, 'pages.jsonl'), 'utf8');
  expect(documents('elsewhere')).toBe(documents('documents'));
});

it('a command fails if no Redis server responds', { timeout: 60_000 }, async () => {
  const { status, stderr } = await run('data extract pages --out nowhere --redis redis://127.0.0.1:1');
  expect([status, stderr]).toEqual([
    1,
    expect.stringMatching(/^Redis at 127.* does not respond \(.*\)\. Start it.*\n$/),
  ]);
});
