import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Random } from '@flamingo-ts/kernels';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FolderData } from './folder-data';

const folder = mkdtempSync(join(tmpdir(), 'flamingo-folder-'));
const lines = (name: string, ...values: unknown[]) =>
  writeFileSync(join(folder, `${name}.jsonl`), values.map((v) => JSON.stringify(v)).join('\n'));

beforeAll(async () => {
  const image = { width: 20, height: 10, channels: 3, background: '#ff0000' } as const;
  await sharp({ create: image }).png().toFile(join(folder, 'red.png'));
  writeFileSync(join(folder, 'broken.png'), 'not an image');
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('a folder of data', () => {
  it('gives images, texts and documents', async () => {
    lines('pairs', { image: 'red.png', text: 'A red field' });
    lines('clips', { frames: ['red.png', 'red.png'], text: 'nothing moves' });
    const data = FolderData.open(folder, 8, 4);
    expect(data.altTextVocabulary()).toEqual(['a', 'field', 'red']);
    expect(data.documents('pairs')!.length).toBe(1);
    expect(data.documents('pages')).toBeUndefined();
    const [pixels] = await data.frames(['red.png']);
    expect(pixels).toHaveLength(8 * 8 * 3);
    await data.close();
  });

  it('counts and names an image that cannot be read', async () => {
    lines('pairs', { image: 'broken.png', text: 'x' });
    const data = FolderData.open(folder, 8, 4);
    expect(await data.frames(['broken.png', 'red.png'])).toEqual([undefined, expect.anything()]);
    expect(await data.frames(['broken.png', 'gone.png'])).toEqual([undefined, undefined]);
    expect(data.skipped).toEqual([
      expect.stringMatching(/^broken\.png: .*unsupported image format/),
      expect.stringMatching(/^gone\.png: .*no such file/),
    ]);
    await data.close();
  });

  it('gives every clip the same number of frames: evenly chosen of more, the last repeated of fewer', async () => {
    lines('pairs', { image: 'red.png', text: 'x' });
    const clip = (count: number) => ({ frames: Array.from({ length: count }, (_, i) => `${i}.png`), text: 'x' });
    lines('clips', clip(1), clip(3), clip(4), clip(7), clip(100));
    const chosen = (framesPerClip: number) => {
      const clips = FolderData.open(folder, 8, framesPerClip).documents('clips')!;
      return Array.from({ length: clips.length }, (_, i) => {
        const { parts } = clips.get(i) as unknown as { parts: { media?: { key: string } }[] };
        return parts[0]!.media!.key.replaceAll('.png', '').split('\n').map(Number);
      });
    };
    expect(chosen(4)).toEqual([
      [0, 0, 0, 0],
      [0, 1, 2, 2],
      [0, 1, 2, 3],
      [0, 2, 4, 6],
      [0, 33, 66, 99],
    ]);
    expect(chosen(1)).toEqual([[0], [1], [2], [3], [50]]);
    rmSync(join(folder, 'clips.jsonl'));
  });

  it('names the first bad line and what is wrong with it', () => {
    writeFileSync(join(folder, 'pairs.jsonl'), '{"image":"red.png","text":"ok"}\n{"image":"red.png","txt":"no"}');
    expect(() => FolderData.open(folder, 8, 4)).toThrow(/pairs\.jsonl, line 2: .*text/);
    writeFileSync(join(folder, 'pairs.jsonl'), '{"image":');
    expect(() => FolderData.open(folder, 8, 4)).toThrow(/pairs\.jsonl, line 1: expected JSON/);
  });

  it('says what a folder must hold', () => {
    rmSync(join(folder, 'pairs.jsonl'));
    expect(() => FolderData.open(folder, 8, 4)).toThrow(/expected text in pages\.jsonl, .*got none\. Write one line/);
    lines('pages', { parts: [{ text: 'Text alone.' }] });
    const text = FolderData.open(folder, 8, 4);
    expect(text.textPage(new Random(0))).toBe('Text alone.');
    expect(() => text.altTextVocabulary()).toThrow(/expected pairs\.jsonl or descriptions\.jsonl .*got neither/);
    expect(() => FolderData.open(join(folder, 'none'), 8, 4)).toThrow(/none: there is no such folder.*data\.path/);
  });
});
