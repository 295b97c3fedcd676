import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ShardWriter, type Document } from '@flamingo-ts/data-mixtures';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readMetrics } from '../src/stages/metrics';
import { flamingo, TINY, writeConfig } from './command';

// From shards on disk to losses, using only the command.
const folder = mkdtempSync(join(tmpdir(), 'flamingo-shards-run-'));
const short = <T extends { train: object }>(stage: T) => ({ ...stage, train: { ...stage.train, steps: 4 } });
const { pages, pairs, clips } = TINY.flamingo.datasets;
const config = writeConfig(folder, {
  ...TINY,
  data: { kind: 'shards', pages: 'pages', pairs: 'pairs', clips: 'clips' },
  vision: short(TINY.vision),
  lm: short(TINY.lm),
  flamingo: { ...short(TINY.flamingo), datasets: { pages, pairs, clips } },
});
afterAll(() => rmSync(folder, { recursive: true }));

async function write(name: string, count: number, make: (i: number) => Document): Promise<void> {
  const writer = await ShardWriter.create(join(folder, name), { maxDocuments: 5 });
  for (let i = 0; i < count; i++) await writer.add(make(i));
  writer.drop('image too small', 2);
  await writer.close();
}

beforeAll(async () => {
  const colors = ['red', 'green', 'blue', 'gold'];
  const square = (background: string) =>
    sharp({ create: { width: 60, height: 40, channels: 3, background } })
      .png()
      .toBuffer();
  const images = await Promise.all(colors.map(square));
  const media = (i: number) => ({ media: { image: images[i % 4]! } });
  await write('pairs', 12, (i) => ({ kind: 'pair', parts: [media(i), { text: `a ${colors[i % 4]} square` }] }));
  await write('pages', 8, (i) => ({
    kind: 'page',
    parts: [{ text: 'Squares. ' }, media(i), { text: `This is ${colors[i % 4]}.` }, media(i + 1), { text: 'Another.' }],
  }));
  await write('clips', 6, (i) => ({
    kind: 'clip',
    parts: [{ media: { frames: images.slice(0, 2 + (i % 2)) } }, { text: 'it changes' }],
  }));
  // One damaged image, which training skips and names.
  const file = join(folder, 'pairs', 'shard-000000.tar');
  const bytes = readFileSync(file);
  bytes[bytes.indexOf(images[2]!) + 50]! ^= 1;
  writeFileSync(file, bytes);
});

describe('training from shards', () => {
  it('runs all three stages, and names what it skipped', { timeout: 240_000 }, async () => {
    for (const stage of ['pretrain-vision', 'pretrain-lm', 'train']) {
      const outcome = await flamingo(folder, stage, config);
      expect(outcome.stderr).toContain('shard-000000.tar, document 2');
      expect(outcome.status).toBe(0);
    }
    const metrics = readMetrics(join(folder, 'run', 'flamingo', 'metrics.jsonl'));
    expect(metrics).toHaveLength(4);
    for (const { loss } of metrics) expect(Number.isFinite(loss)).toBe(true);
    // Four steps of two samples each.
    const summary = JSON.parse(readFileSync(join(folder, 'run', 'flamingo', 'summary.json'), 'utf8')) as object;
    const epochs = { 'epochs of pages': 8 / 8, 'epochs of pairs': 8 / 12, 'epochs of clips': 8 / 6 };
    expect(summary).toMatchObject({ measured: epochs });
  });

  it('mixes the datasets by the configured strategy', { timeout: 120_000 }, async () => {
    const train = (...set: string[]) =>
      flamingo(folder, 'train', config, '--fresh', ...set.flatMap((value) => ['--set', `flamingo.${value}`]));
    const names = () =>
      readMetrics(join(folder, 'run', 'flamingo', 'metrics.jsonl')).map(({ losses }) => Object.keys(losses));
    expect(await train('strategy=round-robin')).toMatchObject({ status: 0 });
    expect(names()).toEqual([['pages'], ['pairs'], ['clips'], ['pages']]);
    expect((await train('strategy=merged')).stderr).toMatch(
      /strategy merged .* clips have 4 frames\. Set .*framesPerClip/,
    );
    expect((await train('strategy=merged', 'framesPerClip=1')).stderr).toMatch(
      /"pairs" must have the weight of the others/,
    );
    const weights = ['pairs', 'clips'].map((name) => `datasets.${name}.weight=1`);
    expect(await train('strategy=merged', 'framesPerClip=1', ...weights)).toMatchObject({ status: 0 });
    expect(names()).toEqual(Array(4).fill(['merged']));
  });

  it('names missing datasets', async () => {
    const bad = writeConfig(folder, { ...TINY, out: 'bad', data: { kind: 'shards', pages: 'pages' } }, 'bad.yaml');
    const outcome = await flamingo(folder, 'pretrain-vision', bad);
    expect(outcome.status).toBe(1);
    expect(outcome.stderr).toContain('data must name pairs or descriptions');
  });
});

describe('inspecting shards', () => {
  it('check finds damage and its location', async () => {
    const good = await flamingo(folder, 'data', 'check', 'pages');
    expect(good).toMatchObject({
      status: 0,
      stdout: 'pages (shards): 8 documents (8 pages), 16 images. No problems.\n',
    });
    const bad = await flamingo(folder, 'data', 'check', 'pairs');
    expect(bad.status).toBe(1);
    expect(bad.stderr).toMatch(/shard differs \(1\), wrong image checksum \(1\), no readable image \(1\)/);
    expect(bad.stderr).toMatch(/pairs\/shard-000000\.tar, document 2: wrong image checksum/);
    const lines = join(folder, 'my.jsonl');
    writeFileSync(lines, '{"parts":[{"text":"no image"}]}\n{"image":"x.png","txt":"y"}\n{"image":"x.png","text":"y"}');
    const own = JSON.parse((await flamingo(folder, 'data', 'check', lines, '--json')).stdout) as Record<
      string,
      unknown
    >;
    expect(own).toMatchObject({
      textOnly: 1,
      counts: { 'unexpected format': 1, 'unreadable image': 1, 'no readable image': 1 },
    });
    expect(own['problems']).toMatchObject([
      { where: `${lines}, line 2`, detail: expect.stringMatching(/^text: /) as string },
      { where: `${lines}, line 3`, detail: expect.stringMatching(/^x\.png: .*no such file/) as string },
      { where: `${lines}, line 3`, reason: 'no readable image' },
    ]);
  });

  it('inspect writes a self-contained page that runs no scripts of the data', async () => {
    const evil = '<script>alert(1)</script><img src=x onerror=alert(2)>';
    const image = await sharp({ create: { width: 9, height: 9, channels: 3, background: 'red' } })
      .png()
      .toBuffer();
    await write('evil', 1, () => ({
      kind: 'page',
      parts: [{ text: evil }, { media: { image, name: evil, alt: `"${evil}` } }, { text: ' after' }],
      about: { url: evil },
    }));
    expect((await flamingo(folder, 'data', 'inspect', 'evil/shard-000000.tar', '--out', 'evil.html')).status).toBe(0);
    const page = readFileSync(join(folder, 'evil.html'), 'utf8');
    expect(page).toContain('src="data:image/png;base64,');
    expect(page).not.toMatch(/<script|<img src=x|(src|href)="(?!data:)/);
    expect(page).toMatch(/<span class="m1 special given"[^>]*>&lt;image&gt;<sub>1<\/sub>/);
    expect(page).toMatch(
      /<span class="m1 t\d learned" title="token \d+, id \d+, attends to image 1, in the loss"> after</,
    );
  });

  it('stats shows counts of the manifest and the documents', async () => {
    const outcome = await flamingo(folder, 'data', 'stats', 'clips', '--out', 'stats.svg', '--json');
    const stats = JSON.parse(outcome.stdout) as { distributions: { bars: unknown; mean?: number }[] };
    expect(stats).toMatchObject({ documents: 6, images: 15, tokens: 12 });
    expect(stats.distributions.map((d) => d.bars)).toEqual([
      [
        { label: '2', count: 3 },
        { label: '3', count: 3 },
      ],
      [{ label: '2–3', count: 6 }],
      [{ label: '32–63', count: 15 }],
      [{ label: 'image too small', count: 2 }],
    ]);
    const svg = readFileSync(join(folder, 'stats.svg'));
    // sharp can only draw a well-formed file.
    expect((await sharp(svg).metadata()).width).toBe(560);
  });
});
