import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readManifest } from '@flamingo-ts/data-mixtures';
import { afterAll, expect, it } from 'vitest';
import { pageOf, picture } from '../packages/data-extraction/test/sample-pages';
import { flamingo } from '../apps/trainer/test/command';

const folder = mkdtempSync(join(tmpdir(), 'flamingo-web-'));
afterAll(() => rmSync(folder, { recursive: true }));

it('the commands of docs/web-pages.md lead from pages to shards', { timeout: 120_000 }, async () => {
  mkdirSync(join(folder, 'pages'));
  for (let i = 0; i < 3; i++) writeFileSync(join(folder, 'pages', `p${i}.png`), await picture(i));
  for (let i = 0; i < 20; i++) writeFileSync(join(folder, 'pages', `${i}.html`), pageOf(i, `p${i % 3}.png`));
  const page = readFileSync(join(import.meta.dirname, '../docs/web-pages.md'), 'utf8');
  const [, first] = /```sh\n(.*?)```/s.exec(page)!;
  const commands = first!.trim().split('\n').slice(1);
  expect(commands).toHaveLength(6);
  const said: string[] = [];
  for (const command of commands) {
    const { status, stdout, stderr } = await flamingo(folder, ...command.replace('npx flamingo ', '').split(' '));
    expect(status, `${command}\n${stderr}`).toBe(0);
    said.push(stdout);
  }
  expect(said[0]).toMatch(
    /^20 pages in 2 units; 20 pages of 2 units were tried\.\nA page costs [\d.]+ ms of a core .* gives 1\.00 documents with 1\.00 images/,
  );
  expect(said[1]).toMatch(/^20 documents of 20 pages: 20 images, \d+ words; 20 pairs of image and text\./);
  expect(existsSync(join(folder, 'inspect.html')) && existsSync(join(folder, 'stats.svg'))).toBe(true);
  expect(await readManifest(join(folder, 'shards/pages'))).toMatchObject({ documents: 20, images: 20 });
  expect(await readManifest(join(folder, 'shards/pairs'))).toMatchObject({ documents: 20, images: 20 });
});
