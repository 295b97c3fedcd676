import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { wordTokenizer } from '../test/words';
import type { Document } from './document';
import { Faults } from './faults';
import { ImageDecoder } from './image-decoder';
import { imageLoader } from './media';
import { Mixture } from './mixture';
import { readManifest, ShardDataset, verifyShards } from './shard-reader';
import { ShardWriter } from './shard-writer';
import { isInside, listTar, TAR_END, tarMember } from './tar';

const root = mkdtempSync(join(tmpdir(), 'shards-'));
const images: Buffer[] = [];
const tar = (...args: string[]) => execFileSync('tar', args, { encoding: 'utf8' });
let folders = 0;
const fresh = () => join(root, `folder-${folders++}`);

beforeAll(async () => {
  for (const [i, background] of ['#ff0000', '#00ff00', '#0000ff'].entries()) {
    const plain = sharp({ create: { width: 20 + i, height: 10, channels: 3, background } });
    images.push(await (i === 1 ? plain.png() : plain.jpeg()).toBuffer());
  }
});
afterAll(() => rmSync(root, { recursive: true }));

const page = (n: number): Document => ({
  kind: 'page',
  parts: [
    { text: `Page ${n}. ` },
    { media: { image: images[n % 3]!, name: `red-${n}.jpg`, alt: 'a color' } },
    { text: 'Question?', learn: false },
    { media: { image: images[1]! } },
    { text: ` Grün – ${n}` },
  ],
  about: { url: `http://example.org/${n}` },
});
const clip = (): Document => ({
  kind: 'clip',
  parts: [{ media: { frames: [images[0]!, images[2]!] } }, { text: 'flash' }],
});

async function written(folder: string, count: number, maxDocuments = 4): Promise<ShardDataset> {
  const writer = await ShardWriter.create(folder, { prefix: 'pages', maxDocuments });
  for (let i = 0; i < count; i++) await writer.add(i === 5 ? clip() : page(i));
  writer.drop('no image', 3);
  await writer.close();
  return ShardDataset.open(folder);
}

/** Every document, or why it is rejected. */
async function all(dataset: ShardDataset) {
  return Promise.all(Array.from({ length: dataset.length }, (_, i) => dataset.get(i)));
}

describe('shards of ShardWriter', () => {
  it('return what was written, and the manifest describes it', async () => {
    const folder = fresh();
    const dataset = await written(folder, 10);
    expect(await all(dataset)).toEqual(Array.from({ length: 10 }, (_, i) => (i === 5 ? clip() : page(i))));
    expect(dataset.faults.counts).toEqual({});
    const manifest = (await readManifest(folder))!;
    expect(manifest).toMatchObject({ documents: 10, images: 20, dropped: { 'no image': 3 } });
    // "Page 3 ." "Question ?" "Grün – 3": eight each, and one word of the clip.
    expect(manifest.tokens).toBe(9 * 8 + 1);
    expect(manifest.shards.map((s) => [s.name, s.documents])).toEqual([
      ['pages-000000.tar', 4],
      ['pages-000001.tar', 4],
      ['pages-000002.tar', 2],
    ]);
    for (const shard of manifest.shards) {
      const bytes = readFileSync(join(folder, shard.name));
      expect([bytes.length, createHash('sha256').update(bytes).digest('hex')]).toEqual([shard.bytes, shard.sha256]);
    }
    expect(await verifyShards(folder, manifest)).toEqual([]);
    expect(readdirSync(folder).filter((name) => name.startsWith('.'))).toEqual([]);
  });

  it('are readable with tar', async () => {
    const folder = fresh();
    await written(folder, 6);
    expect(tar('tf', join(folder, 'pages-000001.tar')).trim().split('\n')).toEqual([
      '00000000.json',
      '00000000.0.png',
      '00000001.json',
      '00000001.0.jpg',
      '00000001.1.jpg',
    ]);
    mkdirSync(join(folder, 'out'));
    tar('xf', join(folder, 'pages-000000.tar'), '-C', join(folder, 'out'));
    expect(readFileSync(join(folder, 'out', '00000002.0.jpg')).equals(images[2]!)).toBe(true);
  });

  it('are equal bytes for equal documents', async () => {
    const [a, b] = [fresh(), fresh()];
    await written(a, 4);
    await written(b, 4);
    expect(await readManifest(b)).toEqual(await readManifest(a));
    expect(readFileSync(join(b, 'pages-000000.tar'))).toEqual(readFileSync(join(a, 'pages-000000.tar')));
  });

  it('appear only when complete', async () => {
    const folder = fresh();
    const writer = await ShardWriter.create(folder, { maxDocuments: 2 });
    for (const n of [0, 1, 2]) await writer.add(page(n));
    expect(readdirSync(folder).sort()).toEqual(['.shard-000001.tar.partial', 'shard-000000.tar']);
    await writer.abort();
    expect(readdirSync(folder)).toEqual(['shard-000000.tar']);
  });

  it('hold each image once; documents share it, and damage to it is counted for each', async () => {
    const folder = fresh();
    const writer = await ShardWriter.create(folder, { maxDocuments: 3 });
    const pair = (n: number, i: number): Document => ({
      kind: 'pair',
      parts: [{ media: { image: images[i]!, name: `${n}.jpg` } }, { text: `pair ${n}` }],
    });
    const documents = [
      pair(0, 0),
      pair(1, 1),
      { ...page(2), parts: [...page(2).parts, ...pair(2, 0).parts] },
      pair(3, 0),
    ];
    for (const document of documents) await writer.add(document);
    expect(await writer.close()).toMatchObject({ documents: 4, images: 6 });
    const first = join(folder, 'shard-000000.tar');
    expect(tar('tf', first).trim().split('\n')).toEqual([
      '00000000.json',
      '00000000.0.jpg',
      '00000001.json',
      '00000001.0.png',
      '00000002.json',
      '00000002.0.jpg',
    ]);
    expect(await all(await ShardDataset.open(folder))).toEqual(documents);
    expect((await listTar(join(folder, 'shard-000001.tar'), new Faults())).map((m) => m.name)).toContain(
      '00000000.0.jpg',
    );

    const bytes = readFileSync(first);
    bytes[bytes.indexOf(images[0]!) + 100]! ^= 1;
    writeFileSync(first, bytes);
    const dataset = await ShardDataset.open(folder);
    expect((await all(dataset)).map((d) => 'parts' in d && d.parts.filter((p) => 'media' in p).length)).toEqual([
      0, 1, 2, 1,
    ]);
    expect(dataset.faults.counts).toEqual({ 'wrong image checksum': 2 });
  });

  it('can be concatenated by cat; each archive has its own documents and images', async () => {
    const [a, b, both] = [fresh(), fresh(), fresh()];
    await written(a, 3);
    const writer = await ShardWriter.create(b);
    for (const n of [7, 8]) await writer.add(page(n));
    await writer.close();
    mkdirSync(both);
    const [first, second] = [join(a, 'pages-000000.tar'), join(b, 'shard-000000.tar')].map((f) => readFileSync(f));
    // GNU tar pads archives to 10 KiB.
    writeFileSync(join(both, '0.tar'), Buffer.concat([first!, Buffer.alloc(10_240), second!]));
    const dataset = await ShardDataset.open(both);
    expect(await all(dataset)).toEqual([page(0), page(1), page(2), page(7), page(8)]);
    expect(dataset.faults.counts).toEqual({});
  });

  it('are not mixed with finished ones; wrong options are named', async () => {
    const folder = fresh();
    await written(folder, 1);
    await expect(ShardWriter.create(folder)).rejects.toThrow(/already has finished shards/);
    await expect(ShardWriter.create(fresh(), { prefix: '../x' })).rejects.toThrow(/prefix must be/);
    await expect(ShardWriter.create(fresh(), { maxDocuments: NaN })).rejects.toThrow(
      'maxDocuments must be a whole number of at least 1, got NaN',
    );
    await expect(ShardWriter.create(fresh(), { maxBytes: '1' as never })).rejects.toThrow(/maxBytes must be/);
  });
});

describe('documents beyond the limits of readers', () => {
  it.each<[string, Document]>([
    ['too many parts', { kind: 'page', parts: Array.from({ length: 10_001 }, () => ({ text: 'x' })) }],
    [
      'too many parts',
      { kind: 'clip', parts: [{ media: { frames: new Array<Buffer>(10_001).fill(Buffer.of(1)) } }, { text: 'x' }] },
    ],
    ['text too large', { kind: 'page', parts: [{ text: 'x'.repeat(2 ** 26) }] }],
    ['image too large', { kind: 'pair', parts: [{ media: { image: new Uint8Array(2 ** 28 + 1) } }, { text: 'x' }] }],
  ])('are rejected: %s', async (reason, document) => {
    const folder = fresh();
    const writer = await ShardWriter.create(folder, { maxDocuments: 1 });
    await writer.add(page(0));
    await expect(writer.add(document)).rejects.toMatchObject({ name: 'Error', reason });
    // It leaves nothing behind, not even an empty shard.
    expect((await writer.close()).shards.map((shard) => shard.name)).toEqual(['shard-000000.tar']);
    expect(readdirSync(folder).sort()).toEqual(['manifest.json', 'shard-000000.tar']);
    expect(await all(await ShardDataset.open(folder))).toEqual([page(0)]);
  });
});

describe('broken shards', () => {
  /** Flips one bit of a shard, `by` bytes after the start of the first occurrence of a text. */
  const damage = (file: string, text: string | Buffer, by = 0) => {
    const bytes = readFileSync(file);
    bytes[bytes.indexOf(text) + by]! ^= 1;
    writeFileSync(file, bytes);
  };

  it('lose what is damaged, counted by reason, and nothing else', async () => {
    const folder = fresh();
    await written(folder, 8);
    const first = join(folder, 'pages-000000.tar');
    damage(first, 'Page 1.');
    damage(first, images[2]!, 100);
    const dataset = await ShardDataset.open(folder);
    const documents = await all(dataset);
    expect(documents[0]).toEqual(page(0));
    expect(documents[1]).toEqual({ rejected: 'wrong checksum' });
    expect((documents[2] as Document).parts).toEqual(page(2).parts.filter((_, i) => i !== 1));
    expect(dataset.faults.counts).toEqual({ 'wrong checksum': 1, 'wrong image checksum': 1 });
    expect(dataset.faults.examples.map(({ where }) => where)).toContain(`${first}, document 1`);
    const problems = await verifyShards(folder, dataset.manifest!);
    expect(problems).toEqual([expect.stringMatching(/pages-000000\.tar: sha256 must be [0-9a-f]{64}, got/)]);
  });

  it('are read up to a truncation, and past a broken header', async () => {
    const folder = fresh();
    await written(folder, 4);
    const file = join(folder, 'pages-000000.tar');
    const whole = readFileSync(file);
    writeFileSync(file, whole.subarray(0, whole.indexOf('00000003.json') + 600));
    const cut = await ShardDataset.open(folder);
    expect(await all(cut)).toEqual([page(0), page(1), page(2), { rejected: 'missing document' }]);
    expect(cut.faults.counts).toEqual({ 'truncated member': 1, 'missing document': 1 });

    writeFileSync(file, whole);
    damage(file, '00000002.0.jpg', 3);
    const dataset = await ShardDataset.open(folder);
    expect((await dataset.get(3)) as Document).toEqual(page(3));
    expect(((await dataset.get(2)) as Document).parts).toHaveLength(4);
    expect(dataset.faults.counts).toEqual({ 'broken header': 1, 'missing image': 1 });
  });

  it('without readable documents, or not in the manifest, are named', async () => {
    const folder = fresh();
    mkdirSync(folder);
    const broken = join(folder, '00000.tar');
    writeFileSync(broken, Buffer.alloc(5000, 7));
    const dataset = await ShardDataset.open(folder);
    expect([dataset.length, dataset.faults.counts]).toEqual([0, { 'broken header': 1, 'shard without documents': 1 }]);
    const ours = fresh();
    await written(ours, 1);
    writeFileSync(join(ours, 'stale.tar'), TAR_END);
    expect(await verifyShards(ours, (await readManifest(ours))!)).toEqual([
      `${join(ours, 'stale.tar')}: not listed in manifest.json, so it is not read`,
    ]);
  });

  it('that are missing are counted', async () => {
    const folder = fresh();
    await written(folder, 8);
    rmSync(join(folder, 'pages-000001.tar'));
    const dataset = await ShardDataset.open(folder);
    expect((await all(dataset)).slice(4)).toEqual(Array(4).fill({ rejected: 'missing shard' }));
    expect(await verifyShards(folder, dataset.manifest!)).toEqual([
      expect.stringContaining('listed in manifest.json, but missing'),
    ]);
  });

  it('an invalid manifest is named', async () => {
    const folder = fresh();
    await written(folder, 1);
    const file = join(folder, 'manifest.json');
    const text = readFileSync(file, 'utf8');
    writeFileSync(file, text.replace('pages-000000.tar', '../pages.tar'));
    await expect(ShardDataset.open(folder)).rejects.toThrow(/manifest\.json: shards\.0\.name/);
    writeFileSync(file, text.slice(0, 20));
    await expect(ShardDataset.open(folder)).rejects.toThrow(/manifest\.json: expected JSON/);
  });

  it('never crash, hang or return what was not written', { timeout: 3_600_000 }, async () => {
    const folder = fresh();
    await written(folder, 4);
    const whole = readFileSync(join(folder, 'pages-000000.tar'));
    const expected = new Set(Array.from({ length: 4 }, (_, i) => JSON.stringify(page(i).parts[4])));
    const file = join(root, 'mutated.tar');
    const places = { at: fc.nat(whole.length - 1), length: fc.integer({ min: 1, max: 700 }) };
    const change = fc.oneof(
      fc.record({ kind: fc.constant('flip' as const), ...places }),
      fc.record({ kind: fc.constant('cut' as const), ...places }),
      fc.record({ kind: fc.constant('repeat' as const), ...places }),
      fc.record({ kind: fc.constant('end' as const), ...places }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 5 }), async (changes) => {
        let bytes = Buffer.from(whole);
        for (const { kind, at, length } of changes) {
          const end = Math.min(bytes.length, at + length);
          if (kind === 'flip') for (let i = at; i < end; i += 97) bytes[i]! ^= 1 + (i % 255);
          else if (kind === 'cut') bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(end)]);
          else if (kind === 'repeat') bytes = Buffer.concat([bytes.subarray(0, end), bytes.subarray(at)]);
          else bytes = bytes.subarray(0, at);
        }
        // Once without a manifest, and once with the manifest of the whole shard.
        for (const place of [file, join(folder, 'pages-000000.tar')]) {
          writeFileSync(place, bytes);
          const dataset = await ShardDataset.open(place);
          for (const document of await all(dataset)) {
            if ('rejected' in document || document.about === undefined) continue;
            expect(expected).toContain(JSON.stringify(document.parts.at(-1)));
          }
        }
      }),
      { numRuns: Number(process.env['FLAMINGO_FUZZ_RUNS'] ?? 100) },
    );
  });
});

describe('shards of img2dataset', () => {
  it('are pairs of image and caption', async () => {
    const folder = fresh();
    mkdirSync(join(folder, 'made'), { recursive: true });
    const put = (name: string, bytes: string | Buffer) => writeFileSync(join(folder, 'made', name), bytes);
    put('000000000.jpg', images[0]!);
    put('000000000.txt', ' a red field\n');
    put('000000000.json', '{"caption":"not this one","url":"http://example.org/1.jpg","sha256":"of another file"}');
    put('000000001.png', images[1]!);
    put('000000001.json', '{"caption":"a green field"}');
    put('000000002.json', '{"caption":"nothing to see"}');
    put('000000003.jpg', images[2]!);
    put(`${'long-'.repeat(40)}.jpg`, images[2]!);
    put(`${'long-'.repeat(40)}.txt`, 'a blue field');
    const made = readdirSync(join(folder, 'made')).sort();
    for (const format of ['ustar', 'pax', 'gnu']) {
      const file = join(folder, `${format}.tar`);
      const names = format === 'ustar' ? made.filter((name) => name.length < 100) : made;
      tar('cf', file, `--format=${format}`, '-C', join(folder, 'made'), ...names);
      const dataset = await ShardDataset.open(file);
      const documents = await all(dataset);
      expect(documents.slice(0, 4)).toEqual([
        {
          kind: 'pair',
          parts: [{ media: { image: images[0], name: '000000000.jpg' } }, { text: 'a red field' }],
        },
        { kind: 'pair', parts: [{ media: { image: images[1], name: '000000001.png' } }, { text: 'a green field' }] },
        { rejected: 'no image' },
        { rejected: 'no caption' },
      ]);
      expect(documents).toHaveLength(format === 'ustar' ? 4 : 5);
      if (format !== 'ustar') expect((documents[4] as Document).parts[1]).toEqual({ text: 'a blue field' });
    }
  });

  it('have captions in UTF-8, with or without a byte order mark; others and NaN are counted', async () => {
    const file = join(root, 'captions.tar');
    const members = (key: string, name: string, text: Buffer | string) => [
      tarMember(`${key}.jpg`, images[0]!),
      tarMember(`${key}.${name}`, Buffer.from(text)),
    ];
    writeFileSync(
      file,
      Buffer.concat([
        ...members('0', 'txt', '\ufeffros\u00e9'),
        ...members('1', 'txt', Buffer.from('ros\u00e9', 'latin1')),
        ...members('2', 'json', Buffer.from('{"caption": "ros\u00e9"}', 'latin1')),
        ...members('3', 'json', '{"caption": "red", "width": NaN}'),
        ...members('4', 'json', '\ufeff{"caption": "red"}'),
        ...members('5', 'json', 'null'),
        TAR_END,
      ]),
    );
    const dataset = await ShardDataset.open(file);
    const documents = await all(dataset);
    expect(documents.map((d) => ('rejected' in d ? d.rejected : d.parts[1]))).toEqual([
      { text: 'ros\u00e9' },
      'text is not UTF-8',
      'text is not UTF-8',
      'not JSON',
      { text: 'red' },
      'no caption',
    ]);
    expect(documents[3]).toMatchObject({ detail: expect.stringContaining('JSON has no NaN') });
    expect(dataset.faults.counts).toEqual({ 'text is not UTF-8': 2, 'not JSON': 1, 'no caption': 1 });
  });

  it('must not point outside, contain links, or have wrong sizes', async () => {
    const folder = fresh();
    mkdirSync(folder);
    symlinkSync('/etc/passwd', join(folder, '2.jpg'));
    tar('cf', join(folder, 'links.tar'), '-C', folder, '2.jpg');
    const faults = new Faults();
    expect(await listTar(join(folder, 'links.tar'), faults)).toEqual([]);
    const names = ['../1.jpg', '/etc/3.jpg', 'a/../../4.jpg', 'C:/5.jpg', '..\\6.jpg', './7.jpg', 'a/8.jpg'];
    const file = join(folder, 'names.tar');
    writeFileSync(file, Buffer.concat([...names.map((name) => tarMember(name, images[0]!)), TAR_END]));
    const members = await listTar(file, faults);
    expect(members.map((m) => m.name)).toEqual(['7.jpg', 'a/8.jpg']);
    expect(faults.counts).toEqual({ 'not a regular file': 1, 'unsafe name': 5 });
    expect(names.map(isInside)).toEqual([false, false, false, false, false, true, true]);

    // A header that claims 7 GiB in a file of a few hundred bytes, with a correct checksum.
    const forged = tarMember('1.jpg', Buffer.alloc(10));
    forged.write('70000000000 ', 124, 'latin1');
    forged.fill(' ', 148, 156);
    const sum = forged.subarray(0, 512).reduce((a, b) => a + b, 0);
    forged.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
    writeFileSync(file, Buffer.concat([forged, tarMember('2.jpg', images[0]!), TAR_END]));
    const forgedFaults = new Faults();
    expect((await listTar(file, forgedFaults)).map((m) => m.name)).toEqual(['2.jpg']);
    expect(forgedFaults.counts).toEqual({ 'truncated member': 1 });
  });

  it('end at a mebibyte of zeros, so that a sparse file is counted and not read to its end', async () => {
    const file = join(root, 'holes.tar');
    execFileSync('truncate', ['-s', '4T', file]);
    const faults = new Faults();
    expect(await listTar(file, faults)).toEqual([]);
    expect(faults.counts).toEqual({ 'bytes after the end of the archive': 1 });
    rmSync(file);
  });
});

describe('order of shards', () => {
  it('is a permutation that stays within sixteen shards at a time and differs by epoch', async () => {
    const folder = fresh();
    const shards = [];
    const sizes = Array.from({ length: 40 }, (_, i) => 1 + (i % 5));
    for (const [i, size] of sizes.entries()) {
      const writer = await ShardWriter.create(folder, { prefix: `s${i}` });
      for (let n = 0; n < size; n++) await writer.add({ kind: 'page', parts: [{ text: 'x' }] });
      shards.push(await writer.close());
      rmSync(join(folder, 'manifest.json'));
    }
    const manifest = { ...shards[0]!, shards: shards.flatMap((m) => m.shards) };
    writeFileSync(join(folder, 'manifest.json'), JSON.stringify(manifest));
    const dataset = await ShardDataset.open(folder);
    const shardOf = (index: number) => dataset.where(index).split(',')[0]!;
    const epochs = [0, 1].map((epoch) =>
      Array.from({ length: dataset.length }, (_, i) => dataset.shuffled(i, 7, 'x', epoch)),
    );
    for (const order of epochs) {
      expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: 120 }, (_, i) => i));
      expect(new Set(order.slice(0, 30).map(shardOf)).size).toBeLessThanOrEqual(16);
      // Neighbors come from many shards, not one after the other.
      expect(new Set(order.slice(0, 12).map(shardOf)).size).toBeGreaterThan(4);
    }
    expect(epochs[0]).not.toEqual(epochs[1]);
    expect(dataset.shuffled(100, 7, 'x', 0)).toBe(epochs[0]![100]);
  });

  it('is used by a mixture, whose batches resume', async () => {
    const dataset = await written(fresh(), 11);
    const decoder = new ImageDecoder({ size: 4, fit: 'pad', mean: [0, 0, 0], std: [1, 1, 1] }, { workers: 1 });
    const config = {
      seed: 1,
      tokenizer: wordTokenizer(),
      datasets: [{ name: 'p', weight: 1, batchSize: 3, maxTokens: 32, source: dataset, media: imageLoader(decoder) }],
    };
    const mixture = new Mixture(config);
    const steps = [await mixture.next(), await mixture.next(), await mixture.next()];
    const cursor = JSON.parse(JSON.stringify(steps[0]!.cursor)) as (typeof steps)[0]['cursor'];
    expect(await new Mixture(config, cursor).next()).toEqual(steps[1]);
    await decoder.close();
  });
});
