import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ShardWriter } from '@flamingo-ts/data-mixtures';
import { Random } from '@flamingo-ts/kernels';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { OwnData } from './own-data';
import { BLANK, type DatasetName, type MediaKey } from './training-data';

const folder = mkdtempSync(join(tmpdir(), 'flamingo-own-data-'));
const at = (name: string) => join(folder, name);
const remove = (...names: string[]) => names.forEach((name) => rmSync(at(`${name}.jsonl`), { force: true }));
const lines = (name: string, ...values: unknown[]) =>
  writeFileSync(at(`${name}.jsonl`), values.map((value) => JSON.stringify(value)).join('\n'));
const open = (framesPerClip = 4) => OwnData.openFolder(folder, { imageSize: 8, framesPerClip, seed: 0 });
const ask = { shots: [1], prompts: 1, seed: 0 };

const png = (gray: number) =>
  sharp({ create: { width: 20, height: 10, channels: 3, background: { r: gray, g: gray, b: gray } } }).png();

/** Keys of the media of a document. */
async function keysOf(data: OwnData, dataset: DatasetName, index = 0): Promise<MediaKey[]> {
  const document = await data.documents(dataset)!.get(index);
  if (!document || 'rejected' in document) throw new Error('expected a document');
  return document.parts.flatMap((part) => ('media' in part && 'key' in part.media ? [part.media.key] : []));
}

beforeAll(async () => {
  for (let i = 0; i < 100; i++) await png(i).toFile(at(`${i}.png`));
  writeFileSync(at('broken.png'), 'not an image');
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('a folder of data', () => {
  it('gives images, texts and documents', async () => {
    lines('pairs', { image: '50.png', text: 'A red field' });
    lines('clips', { frames: ['1.png', '1.png'], text: 'nothing moves' });
    const data = await open();
    expect(data.altTextVocabulary()).toEqual(['a', 'field', 'red']);
    expect(data.documents('pairs')!.length).toBe(1);
    expect(data.documents('pages')).toBeUndefined();
    const [pixels] = await data.frames(await keysOf(data, 'pairs'));
    expect(pixels).toHaveLength(8 * 8 * 3);
    expect(pixels![4 * 8 * 3]).toBe(50);
    await data.close();
  });

  it('counts and names an image that cannot be read', async () => {
    lines('pairs', { image: 'broken.png', text: 'x' }, { image: 'gone.png', text: 'x' }, { image: '7.png', text: 'x' });
    const data = await open();
    const keys = (await Promise.all([0, 1, 2].map((i) => keysOf(data, 'pairs', i)))).flat();
    expect(await data.frames(keys)).toEqual([undefined, undefined, expect.anything()]);
    expect(await data.frames(keys.slice(0, 2))).toEqual([undefined, undefined]);
    expect([...data.skipped].sort()).toEqual([
      expect.stringMatching(/^broken\.png: .*unsupported image format/),
      expect.stringMatching(/^gone\.png: .*no such file/),
    ]);
    await data.close();
  });

  it('augments images that are requested as views, equally for equal keys, and no others', async () => {
    lines('pairs', { image: '50.png', text: 'x' });
    lines('clips', { frames: ['50.png', '50.png'], text: 'x' });
    const augmentation = { color: 0.5 };
    const data = await OwnData.openFolder(folder, { imageSize: 8, framesPerClip: 2, seed: 0, augmentation });
    const [key, clip] = [(await keysOf(data, 'pairs'))[0]!, (await keysOf(data, 'clips'))[0]!];
    const middle = async (image: MediaKey, view?: number, at = 0) => {
      const [pixels] = await data.frames([image], view === undefined ? undefined : [['step', view]]);
      return pixels![at * 8 * 8 * 3 + 4 * 8 * 3];
    };
    const views = await Promise.all([1, 2, 3].map((view) => middle(key, view)));
    expect(new Set(views).size).toBe(3);
    expect(await middle(key)).toBe(50);
    expect(await middle(key, 2)).toBe(views[1]);
    expect(await middle(clip, 1, 1)).toBe(await middle(clip, 1, 0));
    await data.close();
    remove('clips');
  });

  it('gives every clip the same number of frames: samples longer ones evenly, repeats the last frame of shorter ones', async () => {
    const clip = (count: number) => ({ frames: Array.from({ length: count }, (_, i) => `${i}.png`), text: 'x' });
    lines('clips', clip(1), clip(3), clip(4), clip(7), clip(100));
    const chosen = async (framesPerClip: number) => {
      const data = await open(framesPerClip);
      const keys = (await Promise.all([0, 1, 2, 3, 4].map((i) => keysOf(data, 'clips', i)))).flat();
      const clips = await data.frames(keys);
      await data.close();
      const middle = 4 * 8 * 3;
      return clips.map((pixels) => Array.from({ length: framesPerClip }, (_, f) => pixels![f * 8 * 8 * 3 + middle]));
    };
    expect(await chosen(4)).toEqual([
      [0, 0, 0, 0],
      [0, 1, 2, 2],
      [0, 1, 2, 3],
      [0, 2, 4, 6],
      [0, 33, 66, 99],
    ]);
    expect(await chosen(1)).toEqual([[0], [1], [2], [3], [50]]);
    remove('clips');
  });

  it('keeps text with learn: false out of the loss', async () => {
    const parts = [{ image: '1.png' }, { text: 'Output:', learn: false }, { text: ' red' }];
    lines('pages', { parts });
    const data = await open();
    expect(await data.documents('pages')!.get(0)).toMatchObject({ parts: [{}, { learn: false }, { text: ' red' }] });
    await data.close();
    remove('pages');
  });

  it('names the first bad line and what is wrong with it', async () => {
    writeFileSync(at('pairs.jsonl'), '{"image":"1.png","text":"ok"}\n{"image":"1.png","txt":"no"}');
    await expect(open()).rejects.toThrow(/pairs\.jsonl, line 2: .*text.*Correct the line/);
    writeFileSync(at('pairs.jsonl'), '{"image":');
    await expect(open()).rejects.toThrow(/pairs\.jsonl, line 1: not JSON/);
  });

  it('names the files that a folder lacks', async () => {
    remove('pairs');
    await expect(open()).rejects.toThrow(/expected text in pages\.jsonl, .*got none\. Write one line/);
    lines('pages', { parts: [{ text: 'Text alone.' }] });
    const data = await open();
    expect(data.textPage(new Random(0))).toBe('Text alone.');
    expect(() => data.altTextVocabulary()).toThrow(/expected pairs\.jsonl or descriptions\.jsonl .*got neither/);
    await expect(data.questions(ask)).rejects.toThrow(/expected few-shot questions in eval\.jsonl, got none\. Write/);
    await expect(OwnData.openFolder(at('none'), { imageSize: 8, framesPerClip: 4, seed: 0 })).rejects.toThrow(
      /none: there is no such folder.*data\.path/,
    );
    await data.close();
  });
});

describe('a validation split', () => {
  const pairs = Array.from({ length: 60 }, (_, i) => ({ image: `${i}.png`, text: `number ${i}` }));
  const share = 0.25;
  const held = async (validation: object, seed = 0) => {
    const data = await OwnData.openFolder(folder, { imageSize: 8, framesPerClip: 1, seed, validation });
    await data.close();
    return { data, texts: data.validation!.pairs.map(({ text }) => text) };
  };

  it('is a share of the pairs that the seed and the images decide, whatever their order and names', async () => {
    lines('pairs', ...pairs);
    const { texts } = await held({ share });
    expect(texts.length).toBeGreaterThan(8);
    expect(texts.length).toBeLessThan(22);
    expect((await held({ share })).texts).toEqual(texts);
    expect((await held({ share }, 1)).texts).not.toEqual(texts);
    lines('pairs', ...[...pairs].reverse().slice(10));
    expect((await held({ share })).texts).toEqual(texts.filter((text) => Number(text.slice(7)) < 50));
    const writer = await ShardWriter.create(at('packed'));
    for (const { image, text } of pairs) {
      await writer.add({ kind: 'pair', parts: [{ media: { image: readFileSync(at(image)) } }, { text }] });
    }
    await writer.close();
    const options = { imageSize: 8, framesPerClip: 1, seed: 0, validation: { share } };
    const shards = await OwnData.openShards({ kind: 'shards', pairs: at('packed') }, options);
    expect(shards.validation!.pairs.map(({ text }) => text)).toEqual(texts);
    const [first] = await shards.frames([shards.validation!.pairs[0]!.key]);
    expect(first![4 * 8 * 3]).toBe(Number(texts[0]!.slice(7)));
    await shards.close();
  });

  it('is never trained on, nor is any other document that shows one of its images', async () => {
    lines('pairs', ...pairs);
    // The same image under another name counts.
    copyFileSync(at('0.png'), at('copy.png'));
    lines('descriptions', { image: 'copy.png', text: 'a copy' }, { image: '61.png', text: 'another' });
    lines(
      'pages',
      { parts: [{ image: '61.png' }, { image: '0.png' }, { text: 'a page' }] },
      { parts: [{ text: 'a text' }] },
    );
    lines('clips', { frames: ['62.png', '0.png'], text: 'a clip' });
    lines('validation', { image: '0.png', text: 'number 0' }, { image: '1.png', text: 'number 1' });
    const { data, texts } = await held({ path: at('validation.jsonl') });
    expect([...texts].sort()).toEqual(['number 0', 'number 1']);
    expect(data.validation).toMatchObject({ texts, skipped: 5 });
    const get = async (dataset: DatasetName, index: number) => (await data.documents(dataset)!.get(index)) as object;
    const rejected = { rejected: 'held out for validation' };
    expect(await get('pairs', 0)).toEqual(rejected);
    expect(await get('pairs', 1)).toEqual(rejected);
    expect(await get('pairs', 2)).not.toHaveProperty('rejected');
    expect(await get('descriptions', 0)).toEqual(rejected);
    expect(await get('descriptions', 1)).not.toHaveProperty('rejected');
    expect(await get('pages', 0)).toEqual(rejected);
    expect(await get('pages', 1)).not.toHaveProperty('rejected');
    expect(await get('clips', 0)).toEqual(rejected);
    const random = new Random(0);
    const drawn = Array.from({ length: 2000 }, () => [data.textPage(random), data.altTextPair(random).words.join(' ')]);
    const seen = new Set(drawn.flat());
    expect(seen).toContain('number 2');
    expect(seen).toContain('another');
    for (const text of ['number 0', 'number 1', 'a copy', 'a page', 'a clip']) expect(seen).not.toContain(text);
    expect(data.altTextVocabulary()).not.toContain('copy');
    remove('descriptions', 'pages', 'clips');
  });

  it('has at least two pairs', async () => {
    lines('pairs', ...pairs.slice(0, 3));
    await expect(held({ share: 0.01 })).rejects.toThrow(
      /Config: validation\.share: 0\.01 must hold out at least 2 pairs, got 0 of 3\. Raise it/,
    );
    lines('validation', pairs[0]!, { parts: [{ text: 'no pair' }] });
    await expect(held({ path: at('validation.jsonl') })).rejects.toThrow(
      /Config: validation\.path: .*validation\.jsonl must contain at least 2 pairs, got 1 of 1\. Add lines: /,
    );
  });
});

describe('questions', () => {
  const questions = ['red', 'green', 'red'].map((answer, i) => ({ image: `${i}.png`, answer }));

  it('skip unreadable images and warn about training images', async () => {
    lines('pairs', { image: '0.png', text: 'x' });
    lines('eval', ...questions, { image: 'broken.png', answer: 'blue' });
    const data = await open();
    const { tasks, warnings } = await data.questions(ask);
    expect(tasks[0]!.task.queries).toHaveLength(3);
    expect(warnings).toEqual([
      expect.stringMatching(/^1 of the images in .*eval\.jsonl are also in the training data/),
    ]);
    expect(data.skipped).toEqual([expect.stringMatching(/^broken\.png: /)]);
    const [blank] = await data.frames([BLANK]);
    expect(new Set(blank)).toEqual(new Set([128]));
    await data.close();
  });

  it('come from a separate file if the data is shards', async () => {
    const writer = await ShardWriter.create(at('shards'));
    await writer.add({ kind: 'pair', parts: [{ media: { image: await png(9).toBuffer() } }, { text: 'nine' }] });
    await writer.close();
    const config = { kind: 'shards' as const, pairs: at('shards') };
    const options = { imageSize: 8, framesPerClip: 4, seed: 0 };
    const none = await OwnData.openShards(config, options);
    await expect(none.questions(ask)).rejects.toThrow(/data\.eval must name few-shot questions, got none/);
    await none.close();
    lines('eval', ...questions);
    const data = await OwnData.openShards({ ...config, eval: at('eval.jsonl') }, options);
    const { tasks, warnings } = await data.questions(ask);
    expect(tasks.map(({ condition }) => condition)).toEqual(['real', 'blank', 'swapped']);
    expect(warnings).toEqual([]);
    const images = tasks[0]!.task.queries.map(({ image }) => image!);
    expect((await data.frames(images)).map((pixels) => pixels![4 * 8 * 3])).toEqual([0, 1, 2]);
    const [nine] = await data.frames(await keysOf(data, 'pairs'));
    expect(nine![4 * 8 * 3]).toBe(9);
    await data.close();
  });

  it('name a line that is not a question', async () => {
    lines('eval', { image: '0.png', text: 'a caption' });
    const data = await open();
    await expect(data.questions(ask)).rejects.toThrow(
      /eval\.jsonl, line 1: expected a question, .*got a pair\. Correct/,
    );
    await data.close();
  });
});
