import { execSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { openDataset, readManifest, ShardWriter, type Dataset } from '@flamingo-ts/data-mixtures';
import { trainByteLevelBPE } from '@flamingo-ts/lm-core';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { loadConfig } from '../src/config/config';
import { checkData } from '../src/data/data-check';
import { packData } from '../src/data/data-pack';
import { flamingo, TINY, writeConfig } from './command';

const folder = mkdtempSync(join(tmpdir(), 'flamingo-pack-'));
const at = (...names: string[]) => join(folder, ...names);
const lines = (name: string, ...values: unknown[]) => {
  mkdirSync(dirname(at(name)), { recursive: true });
  writeFileSync(at(name), values.map((v) => `${typeof v === 'string' ? v : JSON.stringify(v)}\n`).join(''));
  return at(name);
};
const all = (set: Dataset) => Promise.all(Array.from({ length: set.length }, (_, i) => set.get(i)));
const textsOf = async (name: string) =>
  (await all(await openDataset(at(name)))).map((d) =>
    'rejected' in d ? d.rejected : d.parts.map((part) => ('text' in part ? part.text : '*')).join(''),
  );

afterAll(() => rmSync(folder, { recursive: true }));
beforeAll(async () => {
  mkdirSync(at('my-data', 'p'), { recursive: true });
  for (const colour of ['red', 'green', 'blue']) {
    const plain = sharp({ create: { width: 60, height: 40, channels: 3, background: colour } });
    await plain.png().toFile(at('my-data', 'p', `${colour}.png`));
    await plain.resize(30, 30).toFile(at('my-data', 'p', `${colour}-2.png`));
  }
  writeFileSync(at('my-data', 'p', 'cut.png'), readFileSync(at('my-data', 'p', 'red.png')).subarray(0, 60));
});

describe('packing', () => {
  it('leaves out what training would, counted by reason, and what is left has no problems', async () => {
    const file = lines(
      'my-data/mixed.jsonl',
      {
        url: 'http://example.org/',
        parts: [{ text: 'a' }, { image: 'p/red.png' }, { image: 'p/cut.png' }, { text: 'b' }],
      },
      { parts: [{ image: 'p/cut.png' }, { text: 'its only image is cut' }] },
      { parts: [{ text: 'text alone' }] },
      { parts: [{ image: 'p/red.png' }, { text: ' ' }] },
      '{"image":',
      { image: 'p/gone.png', text: 'no such file' },
      { image: '../red.png', text: 'outside' },
      { image: 'p/red.png', text: 'red' },
      { frames: ['p/red.png', 'p/cut.png'], text: 'a frame is cut' },
      { frames: ['p/red.png', 'p/blue.png'], text: 'a clip' },
      { parts: Array.from({ length: 10_001 }, () => ({ text: 'x' })) },
    );
    const packed = await packData(file, { out: at('mixed'), maxDocuments: 3 });
    expect(packed).toMatchObject({
      documents: 4,
      kinds: { page: 2, pair: 1, clip: 1 },
      textAlone: 1,
      images: 4,
      shards: 2,
    });
    expect(await textsOf('mixed')).toEqual(['a*b', 'text alone', '*red', '*a clip']);
    const dropped = {
      'unreadable image': 4,
      'no readable image': 3,
      'no text': 1,
      'not JSON': 1,
      'file outside the folder': 1,
      'too many parts': 1,
    };
    expect(packed.dropped).toEqual(dropped);
    expect((await readManifest(at('mixed')))!.dropped).toEqual(dropped);
    expect(await checkData(at('mixed'))).toMatchObject({ counts: {}, textAlone: 1, documents: 4, images: 4 });
    const [page] = await all(await openDataset(at('mixed')));
    expect(page).toMatchObject({ about: { url: 'http://example.org/' } });

    // Packed again it is the same, with the counts of before.
    const again = await packData(at('mixed'), { out: at('again'), maxDocuments: 3 });
    expect({ ...again, path: file, format: 'jsonl', out: packed.out }).toEqual(packed);
    expect(await readManifest(at('again'))).toEqual(await readManifest(at('mixed')));
  });

  it('carries on what extraction left out: of its folder or its pages, not of its pairs', async () => {
    lines(
      'extracted/pages.jsonl',
      { parts: [{ image: '../my-data/p/red.png' }, { text: 'outside' }] },
      { parts: [{ text: 'x' }] },
    );
    lines('extracted/pairs.jsonl', { image: 'p/red.png', text: 'a pair' });
    writeFileSync(
      at('extracted', 'manifest.json'),
      JSON.stringify({ preset: 'm3w', dropped: { 'page: no images': 7 } }),
    );
    const images = at('my-data');
    const pack = async (name: string, out: string) => (await packData(at(name), { images, out: at(out) })).dropped;
    const outside = { 'file outside the folder': 1 };
    expect(await pack('extracted', 'of-folder')).toEqual({ 'page: no images': 7, ...outside });
    expect(await pack('extracted/pages.jsonl', 'of-pages')).toEqual({ 'page: no images': 7, ...outside });
    expect(await pack('extracted/pairs.jsonl', 'of-pairs')).toEqual({});
    // A manifest of something else is nobody's business.
    writeFileSync(at('extracted', 'manifest.json'), '{"name": "a web application"}');
    expect(await pack('extracted', 'of-other')).toEqual(outside);
  });

  it('writes over nothing, mixes nothing with what a stopped run left, and says when nothing is left', async () => {
    const file = lines('one.jsonl', { parts: [{ text: 'one' }] });
    await packData(file, { out: at('one') });
    await expect(packData(file, { out: at('one') })).rejects.toThrow(
      /one: expected a new or empty folder for the shards, got one with manifest\.json, shard-000000\.tar\. Remove it or/,
    );
    const writer = await ShardWriter.create(at('stopped'), { maxDocuments: 1 });
    await writer.add({ kind: 'page', parts: [{ text: 'x' }] });
    await expect(packData(file, { out: at('stopped') })).rejects.toThrow(
      /packing was stopped its shards lie there without/,
    );
    await expect(packData(file, { out: file })).rejects.toThrow(/one\.jsonl: expected a folder for the shards/);
    const bad = lines('bad.jsonl', 'x', '1');
    await expect(packData(bad, { out: at('bad') })).rejects.toThrow(
      /expected at least one good line, got 2 and none of them good \(not JSON 1, unknown form 1\)\. The first: .*bad\.jsonl, line 1: not JSON/,
    );
    const unreadable = lines('my-data/unreadable.jsonl', { image: 'p/cut.png', text: 'x' });
    await expect(packData(unreadable, { out: at('bad') })).rejects.toThrow(
      /expected at least one whole document, got 1 and none of them whole \(unreadable image 1, no readable image 1\)\. Look with: flamingo data check/,
    );
    expect(readdirSync(at('bad'))).toEqual([]);
    rmSync(unreadable);
  });

  it('is a command; tokens are counted by a tokenizer that knows no marks', async () => {
    lines('texts.jsonl', ...Array.from({ length: 5 }, (_, i) => ({ parts: [{ text: `line ${i}` }] })));
    writeFileSync(at('tokenizer.json'), JSON.stringify(trainByteLevelBPE(['line'], { vocabSize: 300 })));
    const flags = ['--tokenizer', 'tokenizer.json', '--max-documents', '2', '--json'];
    const { status, stdout } = await flamingo(folder, 'data', 'pack', 'texts.jsonl', '--out', 'texts', ...flags);
    expect(status).toBe(0);
    // "line", " " and a digit.
    expect(JSON.parse(stdout)).toMatchObject({ documents: 5, shards: 3, tokens: 15, dropped: {} });
    expect((await readManifest(at('texts')))!.tokensAre).toMatch(/\/tokenizer\.json$/);
    const wrong = await flamingo(folder, 'data', 'pack', 'texts.jsonl', '--out', 'no', '--max-documents', '0');
    expect(wrong.status).toBe(1);
    expect(wrong.stderr).toContain('It must be a whole number from 1.');
  });
});

describe('checking', () => {
  it('takes a page of text alone for good, and one that lost its images for what it is', async () => {
    const file = lines('alone.jsonl', { parts: [{ text: 'a' }] }, { parts: [{ text: ' ' }] });
    expect(await checkData(file)).toMatchObject({ textAlone: 1, counts: { 'gives no sample': 1 } });
    const out = at('damaged');
    await packData(lines('my-data/1.jsonl', { parts: [{ image: 'p/red.png' }, { text: 'red' }] }), { out });
    const shard = join(out, 'shard-000000.tar');
    const bytes = readFileSync(shard);
    bytes[bytes.indexOf('IDAT') + 5]! ^= 1;
    writeFileSync(shard, bytes);
    expect(await checkData(out)).toMatchObject({
      textAlone: 0,
      counts: { 'shard differs': 1, 'wrong checksum of an image': 1, 'gives no sample': 1 },
    });
  });

  it('does not call nothing good', async () => {
    expect((await checkData(lines('empty.jsonl'))).counts).toEqual({ 'no documents': 1 });
    writeFileSync(at('noise.tar'), Buffer.alloc(5000, 7));
    const counts = { 'broken header': 1, 'shard without documents': 1, 'no documents': 1 };
    expect((await checkData(at('noise.tar'))).counts).toEqual(counts);
  });
});

// The page is run from its first line to its last, in a folder where only its images are.
describe('docs/your-own-data.md', () => {
  const root = join(import.meta.dirname, '..', '..', '..');
  const text = readFileSync(join(root, 'docs', 'your-own-data.md'), 'utf8');
  const blocks = Array.from(text.matchAll(/^```(\w+)\n(.*?)^```$/gms), ([, language, code]) => ({
    language: language!,
    code: code!,
  }));

  it('is true, word by word', { timeout: 300_000 }, async () => {
    for (const [, file, content] of text.matchAll(/`(my-data\/\w+\.jsonl)`:[^`]+```json\n(.*?)```/gs)) {
      writeFileSync(at(file!), content!);
    }
    rmSync(at('my-data', 'mixed.jsonl'), { force: true });
    rmSync(at('my-data', '1.jsonl'), { force: true });
    const { pages, pairs, clips } = TINY.flamingo.datasets;
    const yaml = blocks.find((block) => block.language === 'yaml')!;
    const few = <T extends { train: object }>(stage: T) => ({ ...stage, train: { ...stage.train, steps: 4 } });
    const small = { ...TINY, vision: few(TINY.vision), lm: few(TINY.lm) };
    const edits = parse(yaml.code) as object;
    writeConfig(
      folder,
      { ...small, flamingo: { ...few(TINY.flamingo), datasets: { pages, pairs, clips } }, ...edits },
      'my.yaml',
    );

    let said = '';
    let ran = 0;
    for (const { language, code } of blocks) {
      if (language === 'text') {
        // Shown once more after the correction, without the command.
        if (said === '') said = await correctAndCheck();
        expect(said.trim()).toBe(code.trim());
        said = '';
      }
      if (language !== 'sh' || code.startsWith('npm install')) continue;
      said = '';
      for (const command of code.trim().split('\n')) {
        if (!command.startsWith('npx flamingo ')) {
          execSync(command, { cwd: folder });
          continue;
        }
        const { stdout, stderr, status } = await flamingo(folder, ...command.slice('npx flamingo '.length).split(' '));
        // The first meets the line that is wrong.
        expect(status, `${command}\n${stderr}`).toBe(ran === 0 ? 1 : 0);
        said += stdout + stderr;
        ran++;
      }
    }
    expect(ran).toBe(13);

    async function correctAndCheck(): Promise<string> {
      const file = at('my-data', 'pairs.jsonl');
      writeFileSync(file, readFileSync(file, 'utf8').replace('"txt"', '"text"'));
      return (await flamingo(folder, 'data', 'check', 'my-data')).stdout;
    }
  });

  it('and what it changes in quickstart.yaml fits', () => {
    const yaml = blocks.find((block) => block.language === 'yaml')!.code;
    const shipped = readFileSync(join(root, 'apps/trainer/configs/quickstart.yaml'), 'utf8');
    const [out, data] = yaml.trim().split('\n');
    const mine = shipped
      .replace(/^out:.*$/m, out!)
      .replace(/^data:\n {2}kind: emoji$/m, data!)
      .replace(/^ {4}descriptions:.*\n/m, '');
    writeFileSync(at('copy.yaml'), mine);
    const { flamingo: settings, data: named } = loadConfig(at('copy.yaml'));
    expect(Object.keys(settings.datasets)).toEqual(['pages', 'pairs', 'clips']);
    expect(named).toMatchObject({ kind: 'shards', pages: at('shards', 'pages') });
  });
});
