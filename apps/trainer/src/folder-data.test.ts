import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FolderData } from './folder-data';

const folder = mkdtempSync(join(tmpdir(), 'flamingo-folder-'));
const lines = (name: string, ...values: unknown[]) =>
  writeFileSync(join(folder, `${name}.jsonl`), values.map((v) => JSON.stringify(v)).join('\n'));

beforeAll(async () => {
  const picture = { width: 20, height: 10, channels: 3, background: '#ff0000' } as const;
  await sharp({ create: picture }).png().toFile(join(folder, 'red.png'));
  writeFileSync(join(folder, 'broken.png'), 'not a picture');
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('a folder of data', () => {
  it('gives pictures, texts and documents', async () => {
    lines('pairs', { image: 'red.png', text: 'A red field' });
    lines('clips', { frames: ['red.png', 'red.png'], text: 'nothing moves' });
    const data = FolderData.open(folder, 8);
    expect(data.altTextVocabulary()).toEqual(['a', 'field', 'red']);
    expect(data.documents('pairs')!.length).toBe(1);
    expect(data.documents('pages')).toBeUndefined();
    const [pixels] = await data.frames(['red.png']);
    expect(pixels).toHaveLength(8 * 8 * 3);
    await data.close();
  });

  it('counts and names a picture that cannot be read', async () => {
    lines('pairs', { image: 'broken.png', text: 'x' });
    const data = FolderData.open(folder, 8);
    expect(await data.frames(['broken.png', 'red.png'])).toEqual([undefined, expect.anything()]);
    expect(data.skipped).toEqual([expect.stringMatching(/^broken\.png: /)]);
    await data.close();
  });

  it('names the first bad line and what is wrong with it', () => {
    writeFileSync(join(folder, 'pairs.jsonl'), '{"image":"red.png","text":"ok"}\n{"image":"red.png","txt":"no"}');
    expect(() => FolderData.open(folder, 8)).toThrow(/pairs\.jsonl, line 2: .*text/);
    writeFileSync(join(folder, 'pairs.jsonl'), '{"image":');
    expect(() => FolderData.open(folder, 8)).toThrow(/pairs\.jsonl, line 1: expected JSON/);
  });

  it('says what a folder must hold', () => {
    expect(() => FolderData.open(join(folder, 'nothing'), 8)).toThrow(/expected pairs\.jsonl or descriptions\.jsonl/);
  });
});
