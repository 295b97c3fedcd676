import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { mapFile } from './map-file';

let folder: string;
let path: string;
const content = Uint8Array.from({ length: 300_000 }, (_, i) => (i * 7) % 251);
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'map-'));
  path = join(folder, 'file');
  await writeFile(path, content);
});
afterAll(() => rm(folder, { recursive: true }));

describe.skipIf(process.platform === 'win32')('mapFile', () => {
  it('maps any range of a file', () => {
    for (const [begin, end] of [
      [0, 300_000],
      [1, 2],
      [65_535, 65_537],
      [131_072, 200_001],
    ] as const) {
      const mapped = mapFile(path, begin, end)!;
      expect(Buffer.compare(mapped.bytes, content.subarray(begin, end))).toBe(0);
      mapped.close();
    }
  });

  it('rejects a range beyond the end, where a read would end the process', () => {
    expect(() => mapFile(path, 0, 300_001)).toThrow(/file has 300000 bytes, 300001 expected/);
  });
});
