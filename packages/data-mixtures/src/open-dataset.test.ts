import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { brotliCompressSync, gzipSync } from 'node:zlib';
import * as fc from 'fast-check';
import { parquetWriteBuffer } from 'hyparquet-writer';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Dataset } from './dataset';
import type { Document } from './document';
import { ObelicsDataset } from './obelics';
import { openDataset } from './open-dataset';
import { ParquetReader } from './parquet';
import { ShardWriter } from './shard-writer';

const root = mkdtempSync(join(tmpdir(), 'datasets-'));
const at = (...names: string[]) => join(root, ...names);
const put = (name: string, ...values: unknown[]) => {
  writeFileSync(at(name), values.map((v) => (typeof v === 'string' ? v : JSON.stringify(v))).join('\n'));
  return at(name);
};
let red: Buffer;

beforeAll(async () => {
  red = await sharp({ create: { width: 8, height: 8, channels: 3, background: '#ff0000' } })
    .png()
    .toBuffer();
  mkdirSync(at('p'));
  writeFileSync(at('p', 'red.png'), red);
});
afterAll(() => rmSync(root, { recursive: true }));

const all = (dataset: Dataset) => Promise.all(Array.from({ length: dataset.length }, (_, i) => dataset.get(i)));
const stored = (name: string, from = root) => ({ media: { image: join(from, name), name } });

describe('a JSONL file', () => {
  it('holds pages, pairs and clips, with images relative to its folder', async () => {
    const file = put(
      'own.jsonl',
      { image: 'p/red.png', text: 'a red field' },
      '',
      { parts: [{ text: 'Q:', learn: false }, { image: 'p/red.png', alt: 'red' }, { text: 'grün' }] },
      { frames: ['p/red.png', 'p/red.png'], text: 'nothing moves' },
    );
    const dataset = await openDataset(file);
    expect(await all(dataset)).toEqual([
      { kind: 'pair', parts: [stored('p/red.png'), { text: 'a red field' }] },
      {
        kind: 'page',
        parts: [
          { text: 'Q:', learn: false },
          { media: { image: at('p/red.png'), name: 'p/red.png', alt: 'red' } },
          { text: 'grün' },
        ],
      },
      {
        kind: 'clip',
        parts: [
          { media: { frames: [at('p/red.png'), at('p/red.png')], name: 'p/red.png' } },
          { text: 'nothing moves' },
        ],
      },
    ]);
    expect(dataset.where(2)).toBe(`${file}, line 4`);
  });

  it('keeps the metadata that extraction writes', async () => {
    const image = { image: 'p/red.png', caption: 'A red field.' };
    const file = put('extracted.jsonl', {
      url: 'http://example.org/',
      title: 'Red',
      parts: [image, { text: 'red' }],
    });
    expect(await all(await openDataset(file))).toEqual([
      {
        kind: 'page',
        parts: [{ media: { image: at('p/red.png'), name: 'p/red.png', alt: 'A red field.' } }, { text: 'red' }],
        about: { url: 'http://example.org/', title: 'Red' },
      },
    ]);
  });

  it('skips blank lines and nothing else', async () => {
    const dataset = await openDataset(put('blank.jsonl', '', ' \t\r', '1', '\r', '{"image":"a.png","text":"x"}\r', ''));
    expect((await all(dataset)).map((d) => ('kind' in d ? d.kind : d.rejected))).toEqual(['unexpected format', 'pair']);
    expect([0, 1].map((i) => dataset.where(i))).toEqual([
      `${at('blank.jsonl')}, line 3`,
      `${at('blank.jsonl')}, line 5`,
    ]);
    // Also across the chunks of a long file.
    const line = JSON.stringify({ parts: [{ text: 'x'.repeat(2 ** 19) }] });
    const long = await openDataset(put('long.jsonl', line, '  ', line, '\t', line));
    expect([long.length, long.where(2)]).toEqual([3, `${at('long.jsonl')}, line 5`]);
    expect((await all(long)).every((d) => 'kind' in d)).toBe(true);
  });

  it('names the number and the problem of an invalid line', async () => {
    const dataset = await openDataset(
      put(
        'bad.jsonl',
        { image: 'p/red.png', text: 'good' },
        '{"image":',
        { image: 'p/red.png', txt: 'x' },
        { picture: 'p/red.png' },
        { image: '../../etc/passwd', text: 'x' },
        { image: '/etc/passwd', text: 'x' },
        { parts: [{ text: 3 }] },
      ),
    );
    const documents = (await all(dataset)) as { rejected: string; detail: string }[];
    expect(documents.slice(1).map((d) => d.rejected)).toEqual([
      'not JSON',
      ...Array<string>(2).fill('unexpected format'),
      ...Array<string>(2).fill('file outside the folder'),
      'unexpected format',
    ]);
    expect(documents[2]!.detail).toMatch(/text: .*string.*got nothing/);
    expect(documents[3]!.detail).toMatch(/expected the keys parts, or image and text, .*got \{"picture"/);
    expect(dataset.faults.counts).toEqual({ 'not JSON': 1, 'unexpected format': 3, 'file outside the folder': 2 });
    // Lines are read in parallel, so faults come in any order.
    const places = dataset.faults.examples.map(({ where }) => where);
    expect(places).toContainEqual(expect.stringMatching(/bad\.jsonl, line 2$/));
  });

  it('reads questions of eval.jsonl as documents of their own kind', async () => {
    mkdirSync(at('questions'));
    const file = put('questions/eval.jsonl', { image: 'a.png', answer: 'red' }, { image: '../a.png', answer: 'x' });
    const questions = await openDataset(file);
    expect(await all(questions)).toEqual([
      { kind: 'question', parts: [stored('a.png', at('questions')), { text: 'red' }] },
      { rejected: 'file outside the folder', detail: '../a.png' },
    ]);
    await expect(openDataset(at('questions'))).rejects.toThrow(/expected shards .*got eval\.jsonl/);
  });

  it('skips a UTF-8 byte order mark', async () => {
    const line = JSON.stringify({ image: 'p/red.png', text: 'r\u00e9d' });
    const dataset = await openDataset(put('bom.jsonl', `\ufeff${line}`, `\ufeff${line}`));
    expect(await all(dataset)).toEqual(
      Array(2).fill({ kind: 'pair', parts: [stored('p/red.png'), { text: 'r\u00e9d' }] }),
    );
    const blank = await openDataset(put('bom-blank.jsonl', '\ufeff', line));
    expect([blank.length, blank.where(0)]).toEqual([1, `${at('bom-blank.jsonl')}, line 2`]);
  });

  it('counts lines that are not UTF-8, and names NaN', async () => {
    const file = at('latin1.jsonl');
    const line = JSON.stringify({ image: 'p/red.png', text: 'ros\u00e9' });
    const nan = '{"image": "p/red.png", "text": NaN}';
    writeFileSync(file, Buffer.concat([Buffer.from(`${line}\n`, 'latin1'), Buffer.from(`${line}\n${nan}\n`)]));
    const dataset = await openDataset(file);
    const [first, second, third] = await all(dataset);
    expect(first).toEqual({ rejected: 'text is not UTF-8', detail: 'save the file as UTF-8' });
    expect(second).toMatchObject({ parts: [{}, { text: 'ros\u00e9' }] });
    expect(third).toMatchObject({
      rejected: 'not JSON',
      detail: expect.stringContaining('JSON has no NaN, write null'),
    });
    expect(dataset.faults.counts).toEqual({ 'text is not UTF-8': 1, 'not JSON': 1 });
  });

  it('throws if no line is valid, with the reasons and the first line', async () => {
    const file = put('none.jsonl', 'x', '1', '{"image": "../a.png", "text": "x"}', 'y');
    await expect(openDataset(file)).rejects.toThrow(
      /none\.jsonl: expected at least one valid line, got 0 of 4: not JSON \(2\), unexpected format \(1\), file outside the folder \(1\)\. The first: .*none\.jsonl, line 1: not JSON \(Unexpected token/,
    );
    expect((await openDataset(put('empty.jsonl', ''))).length).toBe(0);
  });

  it('may be one of several in a folder; eval.jsonl is not part of it', async () => {
    mkdirSync(at('folder'));
    put('folder/pairs.jsonl', { image: 'a.png', text: 'x' });
    put('folder/pages.jsonl', { parts: [{ text: 'y' }] }, 'broken');
    put('folder/eval.jsonl', { image: 'a.png', answer: 'x' });
    const dataset = await openDataset(at('folder'));
    expect((await all(dataset)).map((d) => ('kind' in d ? d.kind : d.rejected))).toEqual(['page', 'not JSON', 'pair']);
    expect(dataset.where(2)).toBe(`${at('folder', 'pairs.jsonl')}, line 1`);
    expect(dataset.faults.counts).toEqual({ 'not JSON': 1 });
  });
});

describe('MMC4', () => {
  it('puts each image before the sentence it is matched to', async () => {
    const file = put(
      'docs_no_face_shard_0_v3.jsonl',
      {
        url: 'http://example.org/',
        text_list: ['First.', 'Second.', 'Third.'],
        image_info: [
          { image_name: 'red.png', raw_url: 'http://example.org/b.png', matched_text_index: 2, matched_sim: 0.3 },
          { image_name: null, image_base64: red.toString('base64'), matched_text_index: 0, face_detections: null },
        ],
        similarity_matrix: [[0.1, 0.2, 0.3]],
        could_have_url_duplicate: 0,
      },
      { text_list: ['One.'], image_info: [{ image_name: '../x.png', matched_text_index: 0 }] },
      { text_list: ['One.'], image_info: [{ image_name: 'x.png', matched_text_index: 1 }] },
    );
    const dataset = await openDataset(file, { images: at('p') });
    expect(await all(dataset)).toEqual([
      {
        kind: 'page',
        parts: [
          { media: { image: red, name: 'image of sentence 0' } },
          { text: 'First.' },
          { text: ' Second.' },
          stored('red.png', at('p')),
          { text: ' Third.' },
        ],
        about: { url: 'http://example.org/' },
      },
      { rejected: 'file outside the folder', detail: '../x.png' },
      {
        rejected: 'unexpected format',
        detail: 'image_info.0.matched_text_index: expected a number below 1, the number of sentences, got 1',
      },
    ]);
  });
});

describe('OBELICS', () => {
  const list = (name: string) => [
    { name, repetition_type: 'OPTIONAL', num_children: 1, converted_type: 'LIST' } as const,
    { name: 'list', repetition_type: 'REPEATED', num_children: 1 } as const,
    { name: 'element', type: 'BYTE_ARRAY', converted_type: 'UTF8', repetition_type: 'OPTIONAL' } as const,
  ];
  const urls = ['http://example.org/red.png', 'http://example.org/gone.png'];
  const rows = Array.from({ length: 9 }, (_, i) => ({
    images: i === 4 ? [urls[0]!] : [null, urls[0]!, null, urls[1]!],
    texts: [`Page ${i}.`, null, 'After.', null],
    general_metadata: JSON.stringify({ url: `http://example.org/${i}` }),
  }));
  const write = (name: string, options: Partial<Parameters<typeof parquetWriteBuffer>[0]> = {}) => {
    const buffer = parquetWriteBuffer({
      columnData: (['images', 'texts', 'general_metadata'] as const).map((column) => ({
        name: column,
        data: rows.map((row) => row[column]),
      })),
      schema: [
        { name: 'root', num_children: 3 },
        ...list('images'),
        ...list('texts'),
        { name: 'general_metadata', type: 'BYTE_ARRAY', converted_type: 'UTF8', repetition_type: 'OPTIONAL' },
      ],
      rowGroupSize: 2,
      ...options,
    });
    writeFileSync(at('obelics', name), Buffer.from(buffer));
    return Buffer.from(buffer);
  };

  it('has pages whose images are files named by a hash of their URL; missing ones are counted', async () => {
    mkdirSync(at('obelics', 'images'), { recursive: true });
    const image = at('obelics', 'images', createHash('sha256').update(urls[0]!).digest('hex'));
    writeFileSync(image, red);
    write('train-0.parquet');
    const dataset = await openDataset(at('obelics'));
    const documents = await all(dataset);
    expect(documents).toHaveLength(9);
    expect(documents[3]).toEqual({
      kind: 'page',
      parts: [{ text: 'Page 3.' }, { media: { image, name: urls[0] } }, { text: 'After.' }],
      about: { url: 'http://example.org/3' },
    });
    expect(documents[4]).toMatchObject({ rejected: 'unexpected format' });
    expect(dataset.faults.counts).toEqual({ 'missing image': 8, 'unexpected format': 1 });
    expect(dataset.where(5)).toMatch(/train-0\.parquet, row 5$/);
    const order = documents.map((_, i) => dataset.shuffled!(i, 'seed', 0));
    expect([...order].sort()).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
  });

  it('is read in every compression that Node supports; others are named on opening', async () => {
    const packed = { GZIP: gzipSync, BROTLI: brotliCompressSync, LZ4: gzipSync };
    for (const codec of ['UNCOMPRESSED', 'GZIP', 'BROTLI'] as const) {
      write('train-0.parquet', { codec, compressors: packed });
      expect(await (await openDataset(at('obelics'))).get(3)).toMatchObject({ about: { url: 'http://example.org/3' } });
    }
    write('train-0.parquet', { codec: 'LZ4', compressors: packed });
    await expect(openDataset(at('obelics'))).rejects.toThrow(
      /expected compression .*SNAPPY, GZIP.*got LZ4\. Rewrite it/,
    );
  });

  it('decodes texts of columns without a type, and counts pages that are not UTF-8', async () => {
    const latin1 = Buffer.from('ros\u00e9', 'latin1');
    const texts = [['Page', null, 'ros\u00e9'].map((t) => t && Buffer.from(t)), [latin1, null, null]];
    const images = [null, urls[0]!, null].map((t) => t && Buffer.from(t));
    for (const typed of [false, true]) {
      const columns = (['images', 'texts'] as const).flatMap((name) =>
        list(name).map(({ ...column }) => {
          if (!typed && 'converted_type' in column && column.converted_type === 'UTF8')
            delete (column as never)['converted_type'];
          return column;
        }),
      );
      const buffer = parquetWriteBuffer({
        columnData: [
          { name: 'images', data: [images, images] },
          { name: 'texts', data: texts },
        ],
        schema: [{ name: 'root', num_children: 2 }, ...columns],
      });
      writeFileSync(at('obelics', 'binary.parquet'), Buffer.from(buffer));
      const dataset = await openDataset(at('obelics', 'binary.parquet'));
      expect(await all(dataset), String(typed)).toEqual([
        {
          kind: 'page',
          parts: [
            { text: 'Page' },
            { media: { image: expect.any(String) as string, name: urls[0] } },
            { text: 'ros\u00e9' },
          ],
        },
        { rejected: 'text is not UTF-8', detail: 'text 0 of the page' },
      ]);
    }
    rmSync(at('obelics', 'binary.parquet'));
  });

  it('names a file that is damaged or has other columns', async () => {
    const whole = write('train-0.parquet');
    writeFileSync(at('obelics', 'train-0.parquet'), whole.subarray(0, whole.length - 30));
    await expect(openDataset(at('obelics'))).rejects.toThrow(/train-0\.parquet: expected a parquet file/);
    const other = parquetWriteBuffer({ columnData: [{ name: 'caption', data: ['x'], type: 'STRING' }] });
    writeFileSync(at('obelics', 'train-0.parquet'), Buffer.from(other));
    await expect(openDataset(at('obelics'))).rejects.toThrow(/expected the columns images and texts.*got caption/);
    // Damaged in the middle: the pages of one row group at most are lost, and no other is changed.
    const damaged = Buffer.from(whole);
    damaged.fill(0xff, 10, 60);
    writeFileSync(at('obelics', 'train-0.parquet'), damaged);
    const documents = await all(await openDataset(at('obelics')));
    expect(documents.slice(0, 2)).toEqual(Array(2).fill(expect.objectContaining({ rejected: 'broken row group' })));
    expect((documents[2] as Document).parts[0]).toEqual({ text: 'Page 2.' });
  });

  it('never crashes or hangs on damaged files', { timeout: 60_000 }, async () => {
    const whole = write('train-0.parquet');
    const known = new Set(rows.flatMap((row) => row.texts).filter((text) => text !== null));
    const flips = fc.array(fc.tuple(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 255 })), {
      minLength: 1,
      maxLength: 8,
    });
    let read = 0;
    await fc.assert(
      fc.asyncProperty(flips, fc.nat(whole.length), async (changes, end) => {
        const bytes = Buffer.from(whole);
        for (const [place, by] of changes) bytes[place]! ^= by;
        writeFileSync(at('obelics', 'train-0.parquet'), changes.length === 1 ? bytes.subarray(0, end) : bytes);
        // Stops a parser that hangs sooner than the default.
        const reader = new ParquetReader(1000);
        const file = at('obelics', 'train-0.parquet');
        const dataset = await ObelicsDataset.open([file], at('obelics', 'images'), reader).catch((error: Error) => {
          expect(error.message).toMatch(/train-0\.parquet: expected/);
          return undefined;
        });
        for (const document of dataset ? await all(dataset) : []) {
          if ('rejected' in document) continue;
          read += document.parts.filter((part) => 'text' in part && known.has(part.text)).length;
        }
      }),
      { numRuns: 40, interruptAfterTimeLimit: 40_000 },
    );
    expect(read).toBeGreaterThan(0);
  });
});

describe('COCO captions and VQAv2', () => {
  it('are pairs; for a question the loss covers only the answer', async () => {
    mkdirSync(at('train2014'));
    mkdirSync(at('annotations'));
    const captions = put('annotations/captions_train2014.json', {
      info: { year: 2014 },
      images: [{ id: 9, file_name: 'COCO_train2014_000000000009.jpg', height: 480 }],
      annotations: [
        { image_id: 9, id: 1, caption: 'A plate of food.\n' },
        { image_id: 9, id: 2, caption: 'Broccoli.' },
      ],
    });
    const image = stored('COCO_train2014_000000000009.jpg', at('train2014'));
    expect(await all(await openDataset(captions))).toEqual([
      { kind: 'pair', parts: [image, { text: 'A plate of food.' }] },
      { kind: 'pair', parts: [image, { text: 'Broccoli.' }] },
    ]);
    const questions = put('annotations/v2_OpenEnded_mscoco_train2014_questions.json', {
      info: {},
      task_type: 'Open-Ended',
      data_subtype: 'train2014',
      questions: [{ image_id: 9, question: 'What color is it?', question_id: 9000 }],
    });
    await expect(openDataset(questions)).rejects.toThrow(
      /expected the answers in v2_mscoco_train2014_annotations\.json in the same folder/,
    );
    put('annotations/v2_mscoco_train2014_annotations.json', {
      annotations: [{ question_id: 9000, image_id: 9, multiple_choice_answer: 'green', answers: [] }],
    });
    expect(await all(await openDataset(questions))).toEqual([
      {
        kind: 'pair',
        parts: [image, { text: 'Question: What color is it? Answer:', learn: false }, { text: ' green' }],
      },
    ]);
  });

  it('name what is wrong with a file', async () => {
    const file = put('captions.json', { images: [], annotations: [{ image_id: 1, caption: 'x' }] });
    await expect(openDataset(file)).rejects.toThrow(
      /captions\.json: expected at least one valid annotation, got 0 of 1: annotation without image \(1\)\. The first: .*captions\.json, annotation 0: annotation without image \(no image has the id 1\)/,
    );
    await expect(openDataset(put('list.json', [1]))).rejects.toThrow(/list\.json: the file: .*expected object/);
  });
});

describe('annotation files with a few invalid entries', () => {
  it('lose those entries, counted, and nothing else; a byte order mark is skipped', async () => {
    const captions = {
      images: [{ id: 1, file_name: 'a.jpg' }, { id: 2 }],
      annotations: [
        { image_id: 7, caption: 'an orphan' },
        { image_id: 1, caption: 'good' },
        { image_id: 2, caption: 'its image has no name' },
        { image_id: 1, caption: null },
        { image_id: 1, caption: 'also good' },
      ],
    };
    const dataset = await openDataset(put('captions_few.json', `\ufeff${JSON.stringify(captions)}`));
    expect((await all(dataset)).map((d) => ('rejected' in d ? d.rejected : d.parts[1]))).toEqual([
      'annotation without image',
      { text: 'good' },
      'annotation without image',
      'unexpected format',
      { text: 'also good' },
    ]);
    expect(dataset.faults.counts).toEqual({ 'annotation without image': 2, 'unexpected format': 1 });
    expect(dataset.faults.examples[0]).toMatchObject({ where: `${at('captions_few.json')}, annotation 0` });

    const question = (question_id: number) => ({ image_id: 9, question: 'What?', question_id });
    const questions = put('q_questions.json', { data_subtype: 'val2014', questions: [question(1), question(2), {}] });
    put('q_annotations.json', { annotations: [{ question_id: 2, multiple_choice_answer: 'red' }, { question_id: 1 }] });
    const vqa = await openDataset(questions);
    expect((await all(vqa)).map((d) => ('rejected' in d ? d.rejected : d.kind))).toEqual([
      'question without answer',
      'pair',
      'unexpected format',
    ]);
  });

  it('are named if they are not UTF-8 or hold NaN', async () => {
    writeFileSync(at('latin1.json'), Buffer.from('{"images": [], "annotations": ["\u00e9"]}', 'latin1'));
    await expect(openDataset(at('latin1.json'))).rejects.toThrow(/latin1\.json: expected UTF-8/);
    const nan = put('nan.json', '{"images": [{"height": NaN}], "annotations": []}');
    await expect(openDataset(nan)).rejects.toThrow(/nan\.json: expected JSON.*JSON has no NaN, write null/);
  });
});

describe.runIf(spawnSync('ffmpeg', ['-version']).status === 0)('a folder of videos', () => {
  it('returns eight frames, one per second, with the text of the .txt file', async () => {
    mkdirSync(at('videos'));
    const make = (name: string, seconds: number) =>
      execFileSync('ffmpeg', [
        ...['-v', 'error', '-f', 'lavfi', '-i', `color=red:size=32x24:rate=10:duration=${seconds / 2}`],
        ...['-f', 'lavfi', '-i', `color=blue:size=32x24:rate=10:duration=${seconds / 2}`],
        ...['-filter_complex', '[0][1]concat=n=2', '-c:v', 'mpeg4', at('videos', name)],
      ]);
    make('a.mp4', 10);
    make('b.mp4', 0.4);
    put('videos/a.txt', 'red turns blue\n');
    put('videos/b.txt', 'short');
    put('videos/c.mp4', '#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd');
    put('videos/c.txt', 'a disguised playlist');
    writeFileSync(at('videos', 'd.mp4'), '');
    const dataset = await openDataset(at('videos'));
    const documents = await all(dataset);
    const [{ media }, text] = (documents[0] as Document).parts as [{ media: { frames: Buffer[] } }, { text: string }];
    expect(text.text).toBe('red turns blue');
    const reds = await Promise.all(media.frames.map(async (f) => (await sharp(f).stats()).channels[0]!.mean > 128));
    expect(reds).toEqual([true, true, true, true, true, false, false, false]);
    expect((documents[1] as Document).parts[0]).toMatchObject({ media: { frames: [expect.anything()] } });
    expect(documents.slice(2).map((d) => 'rejected' in d && d.rejected)).toEqual(['unreadable video', 'no caption']);

    const lines = await openDataset(put('videos.jsonl', { video: 'videos/a.mp4', text: 'as a line' }));
    expect((await lines.get(0)) as Document).toMatchObject({ kind: 'clip', parts: [{}, { text: 'as a line' }] });
  });
});

describe('openDataset', () => {
  it('determines the format by name and content', async () => {
    const writer = await ShardWriter.create(at('shards'));
    await writer.add({ kind: 'pair', parts: [{ media: { image: red } }, { text: 'red' }] });
    const question: Document = { kind: 'question', parts: [{ media: { image: red } }, { text: 'red' }] };
    await expect(writer.add(question)).rejects.toThrow(/got a question\. Keep it in eval\.jsonl/);
    await writer.close();
    expect((await openDataset(at('shards', 'shard-000000.tar'))).format).toBe('shards');
    await expect(openDataset(at('nowhere'))).rejects.toThrow('there is no such file or folder');
    await expect(openDataset(at('p'))).rejects.toThrow(/expected shards .*got red\.png/);
    await expect(openDataset(put('x.tar.gz', ''))).rejects.toThrow(/got \.gz\. Unpack/);
  });
});
