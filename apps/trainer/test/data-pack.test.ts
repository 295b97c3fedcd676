import { execSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import {
  buildSample,
  ImageDecoder,
  imageLoader,
  Mixture,
  openDataset,
  readManifest,
  ShardWriter,
  verifyShards,
  type Dataset,
  type Document,
  type MixtureCursor,
  type Sample,
} from '@flamingo-ts/data-mixtures';
import { trainByteLevelBPE } from '@flamingo-ts/lm-core';
import { seededStream } from '@flamingo-ts/random';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { loadConfig } from '../src/config/config';
import { checkData, formatCheck } from '../src/data/data-check';
import { defaultInspectConfig, inspectData, inspectConfigOf } from '../src/data/data-inspect';
import { packData } from '../src/data/data-pack';
import { measureData } from '../src/data/data-stats';
import { readableTokenizer, wordTokenizer } from '../src/data/word-tokenizer';
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
  for (const color of ['red', 'green', 'blue']) {
    const plain = sharp({ create: { width: 60, height: 40, channels: 3, background: color } });
    await plain.png().toFile(at('my-data', 'p', `${color}.png`));
    await plain.resize(30, 30).toFile(at('my-data', 'p', `${color}-2.png`));
  }
  writeFileSync(at('my-data', 'p', 'cut.png'), readFileSync(at('my-data', 'p', 'red.png')).subarray(0, 60));
});

describe('packing', () => {
  it('drops and counts what training would skip; the result has no problems', async () => {
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
      textOnly: 1,
      images: 4,
      shards: 2,
    });
    // Documents with the first image of an earlier one follow it.
    expect(await textsOf('mixed')).toEqual(['a*b', '*red', '*a clip', 'text alone']);
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
    expect(await checkData(at('mixed'))).toMatchObject({ counts: {}, textOnly: 1, documents: 4, images: 4 });
    const [page] = await all(await openDataset(at('mixed')));
    expect(page).toMatchObject({ about: { url: 'http://example.org/' } });

    // Packing the shards again changes nothing.
    const again = await packData(at('mixed'), { out: at('again'), maxDocuments: 3 });
    expect({ ...again, path: file, format: 'jsonl', out: packed.out }).toEqual(packed);
    expect(await readManifest(at('again'))).toEqual(await readManifest(at('mixed')));
  });

  it('adds what extraction dropped, for its folder or pages but not for its pairs', async () => {
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
    // The manifest of another program has no such counts.
    writeFileSync(at('extracted', 'manifest.json'), '{"name": "a web application"}');
    expect(await pack('extracted', 'of-other')).toEqual(outside);
  });

  it('requires an empty folder and at least one usable document', async () => {
    const file = lines('one.jsonl', { parts: [{ text: 'one' }] });
    await packData(file, { out: at('one') });
    await expect(packData(file, { out: at('one') })).rejects.toThrow(
      /one: expected a new or empty folder for the shards, got one with manifest\.json, shard-000000\.tar\. Remove the folder or/,
    );
    const writer = await ShardWriter.create(at('stopped'), { maxDocuments: 1 });
    await writer.add({ kind: 'page', parts: [{ text: 'x' }] });
    await expect(packData(file, { out: at('stopped') })).rejects.toThrow(
      /An interrupted run leaves shards without a manifest\. Remove the folder or change --out/,
    );
    await expect(packData(file, { out: file })).rejects.toThrow(/one\.jsonl: expected a folder for the shards/);
    const bad = lines('bad.jsonl', 'x', '1');
    await expect(packData(bad, { out: at('bad') })).rejects.toThrow(
      /expected at least one valid line, got 0 of 2: not JSON \(1\), unexpected format \(1\)\. The first: .*bad\.jsonl, line 1: not JSON/,
    );
    const unreadable = lines('my-data/unreadable.jsonl', { image: 'p/cut.png', text: 'x' });
    await expect(packData(unreadable, { out: at('bad') })).rejects.toThrow(
      /expected at least one document to pack, got 1 and none of them usable: unreadable image \(1\), no readable image \(1\)\. Run: flamingo data check/,
    );
    expect(readdirSync(at('bad'))).toEqual([]);
    rmSync(unreadable);
  });

  it('counts tokens with a tokenizer without special tokens', async () => {
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
    expect(wrong.stderr).toContain('It must be a whole number of at least 1.');
  });
});

describe('images that documents share', () => {
  const shared = () =>
    lines(
      'my-data/shared.jsonl',
      ...Array.from({ length: 40 }, (_, i) => ({
        image: `p/${['red', 'green', 'blue'][i % 3]}.png`,
        text: `text ${i}`,
      })),
    );

  it('are stored once per shard; documents with one image go to one shard', async () => {
    const file = shared();
    const packed = await packData(file, { out: at('shared'), maxDocuments: 14 });
    expect(packed).toMatchObject({ documents: 40, images: 40, shards: 3, dropped: {} });
    const stored = readdirSync(at('shared')).map((name) =>
      name.endsWith('.tar') ? readFileSync(at('shared', name), 'latin1').split('\x89PNG').length - 1 : 0,
    );
    // 14 documents of red, then 13 of green and 13 of blue: a shard of 14 cuts one group.
    expect(stored).toEqual([0, 1, 2, 1]);
    const written = await all(await openDataset(at('shared')));
    const images = written.map((d) =>
      'parts' in d && 'media' in d.parts[0]! && 'image' in d.parts[0].media ? d.parts[0].media.image : '',
    );
    const texts = written.map((d) => ('parts' in d && 'text' in d.parts[1]! ? Number(d.parts[1].text.slice(5)) : -1));
    expect([...texts].sort((a, b) => a - b)).toEqual(Array.from({ length: 40 }, (_, i) => i));
    texts.forEach((i, place) => {
      expect(Buffer.from(images[place] as Uint8Array)).toEqual(
        readFileSync(at('my-data', 'p', `${['red', 'green', 'blue'][i % 3]}.png`)),
      );
    });
    const manifest = (await readManifest(at('shared')))!;
    expect(await verifyShards(at('shared'), manifest)).toEqual([]);
    rmSync(file);
  });

  it('do not change how a mixture resumes', async () => {
    await packData(shared(), { out: at('resume'), maxDocuments: 14 });
    rmSync(at('my-data/shared.jsonl'));
    const source = await openDataset(at('resume'));
    const decoder = new ImageDecoder({ size: 4, fit: 'pad', mean: [0, 0, 0], std: [1, 1, 1] }, { workers: 1 });
    const dataset = { name: 'x', weight: 1, batchSize: 7, maxTokens: 16, source, media: imageLoader(decoder) };
    const config = { seed: 5, tokenizer: wordTokenizer().tokenizer, datasets: [dataset] };
    const whole = new Mixture(config);
    const steps = [];
    for (let i = 0; i < 8; i++) steps.push(await whole.next());
    const resumed = new Mixture(config, JSON.parse(JSON.stringify(steps[4]!.cursor)) as MixtureCursor);
    for (const i of [5, 6, 7]) expect(await resumed.next()).toEqual(steps[i]);
    await decoder.close();
  });
});

describe('counts', () => {
  it('of check, stats, pack and the packed dataset agree', async () => {
    const file = lines(
      'my-data/counts.jsonl',
      { parts: [{ text: 'Two images: ' }, { image: 'p/red.png' }, { image: 'p/cut.png' }, { text: 'one is cut.' }] },
      { parts: [{ text: 'text only' }] },
      { image: 'p/red.png', text: 'red' },
      { image: 'p/cut.png', text: 'cut' },
      { frames: ['p/red.png', 'p/blue.png'], text: 'a clip' },
      { parts: [{ image: 'p/red.png' }] },
      '{"image":',
    );
    const words = wordTokenizer();
    const checked = await checkData(file);
    const stats = await measureData(file, words, { limit: Infinity });
    const packed = await packData(file, { out: at('counts') });
    const after = [await checkData(at('counts')), await measureData(at('counts'), words, { limit: Infinity })];
    const counts = { documents: 4, kinds: { page: 2, pair: 1, clip: 1 }, textOnly: 1, images: 4 };
    for (const result of [checked, stats, packed, ...after]) expect(result).toMatchObject(counts);
    expect([stats.tokens, packed.tokens, (after[1] as typeof stats).tokens]).toEqual(Array(3).fill(12));
    const problems = { 'unreadable image': 2, 'no readable image': 1, 'no text': 1, 'not JSON': 1 };
    const bars = stats.distributions.at(-1)!.bars.map(({ label, count }) => [label, count]);
    expect(checked.counts).toEqual(problems);
    expect(packed.dropped).toEqual(problems);
    expect(Object.fromEntries(bars)).toEqual(problems);
    rmSync(file);
  });
});

describe('questions', () => {
  it('of eval.jsonl are checked with their folder and alone; equal answers are a warning', async () => {
    lines('asked/pairs.jsonl', { image: 'p/red.png', text: 'red' });
    const file = lines(
      'asked/eval.jsonl',
      { image: 'p/red.png', answer: 'red' },
      { image: 'p/green.png', answer: '<image>red' },
      { image: 'p/cut.png', answer: 'red' },
      { image: 'p/red.png', text: 'an answer by another name' },
      { image: 'p/red.png', question: 'x' },
    );
    const images = at('my-data');
    const folder = await checkData(at('asked'), { images });
    expect(folder).toMatchObject({ documents: 1, questions: 3, warnings: [] });
    expect(folder.counts).toEqual({ 'unreadable image': 1, 'unexpected format': 1, 'not a question': 1 });
    expect(folder.problems.map(({ where }) => where)).toContain(`${file}, line 5`);
    const alone = await checkData(file, { images });
    expect(alone).toMatchObject({ documents: 0, questions: 3, counts: folder.counts });

    lines('asked/eval.jsonl', { image: 'p/red.png', answer: 'red' }, { image: 'p/green.png', answer: 'red' });
    const same = await checkData(at('asked'), { images });
    expect(same.warnings).toEqual([
      'All questions have the answer "red", so every score is 1. Add questions with other answers.',
    ]);
    expect(formatCheck(same)).toMatch(
      /1 document \(1 pair\), 1 image, 2 questions\. No problems\.\nWarning: All questions/,
    );
    expect(formatCheck(await checkData(file, { images }))).toMatch(/eval\.jsonl \(jsonl\): 2 questions\. No problems/);
    await expect(packData(file, { images, out: at('asked-packed') })).rejects.toThrow(/question for evaluation \(2\)/);
  });
});

describe('inspecting', () => {
  it('uses the dataset options, image size and frames of the configuration', async () => {
    const config = loadConfig(
      writeConfig(
        folder,
        {
          ...TINY,
          data: { kind: 'folder', path: 'my-data' },
          flamingo: {
            ...TINY.flamingo,
            datasets: {
              pages: { ...TINY.flamingo.datasets.pages, maxTokens: 12, maxMedia: 1, pNext: 1 },
              clips: { ...TINY.flamingo.datasets.clips, leadingSpace: 1 },
            },
          },
        },
        'inspect.yaml',
      ),
    );
    const pages = lines('my-data/pages.jsonl', {
      parts: [
        { text: 'before' },
        { image: 'p/red.png' },
        { text: 'between' },
        { image: 'p/blue.png' },
        { text: 'after' },
      ],
    });
    const options = { samples: 5, from: 0 };
    const html = await inspectData(pages, inspectConfigOf(config, 'inspect.yaml', pages), options);
    // With pNext 1 the text before the only image attends to it; maxMedia 1 ends the sample there.
    expect(html).toMatch(/attends to image 1, in the loss">before</);
    expect(html).not.toContain('between');
    const { imageSize } = config.vision.model;
    expect(html).toContain(`images of ${imageSize} x ${imageSize} pixels`);
    const png = Buffer.from(/data:image\/png;base64,([^"]+)/.exec(html)![1]!, 'base64');
    expect(await sharp(png).metadata()).toMatchObject({ width: imageSize, height: imageSize });
    expect(html).toContain('Configuration of dataset pages in inspect.yaml. There is no');

    const clips = lines('my-data/clips.jsonl', { frames: Array(9).fill('p/red.png'), text: 'a clip' });
    const shown = await inspectData(clips, inspectConfigOf(config, 'inspect.yaml', clips), options);
    expect(shown.match(/<img /g)).toHaveLength(config.flamingo.framesPerClip);
    expect(shown).toContain('> a<');
    const other = lines('my-data/other.jsonl', { image: 'p/red.png', text: 'x' });
    expect(() => inspectConfigOf(config, 'inspect.yaml', other)).toThrow(
      /expected --dataset to be one of pages, clips, the datasets of inspect\.yaml, got nothing/,
    );
    for (const file of [pages, clips, other]) rmSync(file);
  });

  it('states the defaults without a configuration, and shows special tokens in text as text', async () => {
    const file = lines('my-data/plain.jsonl', { image: 'p/red.png', text: 'spells <image> and <EOC>' });
    const config = defaultInspectConfig();
    const html = await inspectData(file, config, { samples: 1, from: 0 });
    expect(html).toMatch(/Defaults\. Pass --config FILE.*maxTokens 256, maxMedia 5, pNext 0\.5, leadingSpace 0\.5/s);
    const specials = (page: string) => page.match(/class="m\d special/g)!.length;
    // <BOS>, <image>, <EOC> and <EOS>.
    expect(specials(html)).toBe(4);
    const trained = trainByteLevelBPE(['spells and'], { vocabSize: 300, specialTokens: ['<EOS>', '<image>', '<EOC>'] });
    writeFileSync(at('special.json'), JSON.stringify(trained));
    const tokenizer = readableTokenizer(at('special.json'));
    expect(specials(await inspectData(file, { ...config, tokenizer }, { samples: 1, from: 0 }))).toBe(3);
    const document = (await (await openDataset(file)).get(0)) as Document;
    const options = { maxTokens: 64, leadingSpace: 0 };
    const sample = buildSample(document, tokenizer.tokenizer, options, seededStream(1)) as Sample;
    expect(Array.from(sample.tokens, (id) => tokenizer.textOf(id)).join('')).toBe(
      '<image>spells <image> and <EOC><EOC><EOS>',
    );
    expect(sample.media).toHaveLength(1);
    rmSync(file);
  });
});

describe('checking', () => {
  it('accepts a page without images, but not one that lost its images', async () => {
    const file = lines('alone.jsonl', { parts: [{ text: 'a' }] }, { parts: [{ text: ' ' }] });
    expect(await checkData(file)).toMatchObject({ textOnly: 1, counts: { 'no text': 1 } });
    const out = at('damaged');
    await packData(lines('my-data/1.jsonl', { parts: [{ image: 'p/red.png' }, { text: 'red' }] }), { out });
    const shard = join(out, 'shard-000000.tar');
    const bytes = readFileSync(shard);
    bytes[bytes.indexOf('IDAT') + 5]! ^= 1;
    writeFileSync(shard, bytes);
    expect(await checkData(out)).toMatchObject({
      documents: 0,
      textOnly: 0,
      counts: { 'shard differs': 1, 'wrong image checksum': 1, 'no readable image': 1 },
    });
  });

  it('reports a dataset without documents', async () => {
    expect((await checkData(lines('empty.jsonl'))).counts).toEqual({ 'no documents': 1 });
    writeFileSync(at('noise.tar'), Buffer.alloc(5000, 7));
    const counts = { 'broken header': 1, 'shard without documents': 1, 'no documents': 1 };
    expect((await checkData(at('noise.tar'))).counts).toEqual(counts);
  });
});

// Runs all commands of the page in a folder that contains only its images.
describe('docs/your-own-data.md', () => {
  const root = join(import.meta.dirname, '..', '..', '..');
  const text = readFileSync(join(root, 'docs', 'your-own-data.md'), 'utf8');
  const blocks = Array.from(text.matchAll(/^```(\w+)\n(.*?)^```$/gms), ([, language, code]) => ({
    language: language!,
    code: code!,
  }));

  it('prints what the page shows', { timeout: 300_000 }, async () => {
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

    let output = '';
    let ran = 0;
    for (const { language, code } of blocks) {
      if (language === 'text') {
        // The page shows the output after the correction without repeating the command.
        if (output === '') output = await correctAndCheck();
        expect(output.trim()).toBe(code.trim());
        output = '';
      }
      if (language !== 'sh' || code.startsWith('npm install')) continue;
      output = '';
      for (const command of code.trim().split('\n')) {
        if (!command.startsWith('npx flamingo ')) {
          execSync(command, { cwd: folder });
          continue;
        }
        const { stdout, stderr, status } = await flamingo(folder, ...command.slice('npx flamingo '.length).split(' '));
        // The first command finds the wrong line.
        expect(status, `${command}\n${stderr}`).toBe(ran === 0 ? 1 : 0);
        output += stdout + stderr;
        ran++;
      }
    }
    expect(ran).toBe(15);

    async function correctAndCheck(): Promise<string> {
      const file = at('my-data', 'pairs.jsonl');
      writeFileSync(file, readFileSync(file, 'utf8').replace('"txt"', '"text"'));
      return (await flamingo(folder, 'data', 'check', 'my-data')).stdout;
    }
  });

  it('shows valid changes of quickstart.yaml', () => {
    const yaml = blocks.find((block) => block.language === 'yaml')!.code;
    const shipped = readFileSync(join(root, 'apps/trainer/configs/quickstart.yaml'), 'utf8');
    const [out, data] = yaml.trim().split('\n');
    const mine = shipped
      .replace(/^out:.*$/m, out!)
      .replace(/^data:\n {2}kind: emoji$/m, data!)
      .replace(/^ {4}descriptions:.*\n/m, '');
    writeFileSync(at('copy.yaml'), mine);
    const { flamingo, data: named } = loadConfig(at('copy.yaml'));
    expect(Object.keys(flamingo.datasets)).toEqual(['pages', 'pairs', 'clips']);
    expect(named).toMatchObject({ kind: 'shards', pages: at('shards', 'pages') });
  });
});
