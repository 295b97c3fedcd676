import { mkdtemp, readdir, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openCheckpoint, readState, writeSafetensors, writeSharded } from './files';
import { serializeSafetensors } from './safetensors';

const tensorOf = (...values: number[]) => ({ shape: [values.length], data: Float32Array.from(values) });
const tensors = { a: tensorOf(1, 2, 3), b: tensorOf(4, 5), c: tensorOf(6) };

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'checkpoint-'));
});
afterEach(() => rm(folder, { recursive: true }));

describe('one file', () => {
  it('is written whole and read tensor by tensor', async () => {
    const path = join(folder, 'model.safetensors');
    await writeSafetensors(path, tensors, { metadata: { format: 'pt' } });
    expect(await readdir(folder)).toEqual(['model.safetensors']);
    for (const at of [path, folder]) {
      const checkpoint = await openCheckpoint(at);
      expect(checkpoint.names).toEqual(['a', 'b', 'c']);
      expect(checkpoint.metadata).toEqual({ format: 'pt' });
      expect(checkpoint.info('b')).toEqual({ dtype: 'F32', shape: [2] });
      expect(await checkpoint.read('b')).toEqual({ dtype: 'F32', ...tensors.b });
      await expect(checkpoint.read('d')).rejects.toThrow(/no tensor d/);
      await checkpoint.close();
    }
  });

  it('keeps an old file unchanged when writing fails', async () => {
    const path = join(folder, 'model.safetensors');
    await writeSafetensors(path, tensors);
    const before = await readFile(path);
    await expect(writeSafetensors(path, { a: { shape: [9], data: new Float32Array(1) } })).rejects.toThrow(/9 values/);
    expect([await readdir(folder), await readFile(path)]).toEqual([['model.safetensors'], before]);
  });

  it.each([
    ['F32', NaN],
    ['F32', -Infinity],
    ['BF16', 3.4e38],
  ] as const)('is not written as %s with the value %d', async (floats, value) => {
    const path = join(folder, 'model.safetensors');
    const bad = { ...tensors, d: tensorOf(1, value) };
    await expect(writeSafetensors(path, bad, { floats })).rejects.toThrow(
      /model\.safetensors: tensor d must hold finite (F32|BF16) values, got .* at index 1 of 2\. The file was not written/,
    );
    await expect(writeSharded(folder, bad, { floats })).rejects.toThrow(/tensor d must hold finite/);
    expect(await readdir(folder)).toEqual([]);
    const largest = new Float32Array(Uint32Array.of(floats === 'F32' ? 0x7f7fffff : 0x7f7f7fff).buffer);
    await writeSafetensors(path, { x: { shape: [1], data: largest } }, { floats });
    expect((await readState(path))['x']!.data[0]).toBeLessThan(Infinity);
  });

  it.skipIf(process.platform !== 'linux')(
    'names the file when the disk is full, and keeps the earlier one',
    async () => {
      const path = join(folder, 'model.safetensors');
      // Links the temporary file to a device that is always full.
      const fill = () => symlink('/dev/full', join(folder, `.model.safetensors.${process.pid}.tmp`));
      await fill();
      await expect(writeSafetensors(path, tensors)).rejects.toThrow(
        /model\.safetensors could not be written: the disk is full \(ENOSPC.*\)\. No partial file is left\. Free some space/,
      );
      expect(await readdir(folder)).toEqual([]);
      await writeSafetensors(path, tensors);
      await fill();
      await expect(writeSafetensors(path, { a: tensors.b })).rejects.toThrow(
        /The earlier file of this name is unchanged/,
      );
      expect([await readdir(folder), await readState(path)]).toEqual([['model.safetensors'], tensors]);
    },
  );

  it('is read as float32 by readState, which can select names', async () => {
    const path = join(folder, 'x.safetensors');
    await writeSafetensors(
      path,
      { ids: { shape: [2], data: BigInt64Array.of(3n, -4n) }, ...tensors },
      { floats: 'BF16' },
    );
    expect(await readState(path, (name) => name !== 'a')).toEqual({ ids: tensorOf(3, -4), b: tensors.b, c: tensors.c });
  });

  it('is named with the reason if it is missing or truncated', async () => {
    await expect(openCheckpoint(join(folder, 'no.safetensors'))).rejects.toThrow(
      /no\.safetensors does not exist .*Check/,
    );
    await expect(openCheckpoint(folder)).rejects.toThrow(
      /expected model\.safetensors or model\.safetensors\.index\.json/,
    );
    const path = join(folder, 'model.safetensors');
    await writeSafetensors(path, tensors);
    for (const size of [0, 7, 30, (await readFile(path)).length - 1]) {
      await truncate(path, size);
      await expect(openCheckpoint(path)).rejects.toThrow(/model\.safetensors is not a valid safetensors file/);
      await writeSafetensors(path, tensors);
    }
  });
});

describe('shards', () => {
  it('are split by size and read as one checkpoint', async () => {
    await writeSharded(folder, tensors, { maxShardBytes: 14 });
    expect((await readdir(folder)).sort()).toEqual([
      'model-00001-of-00002.safetensors',
      'model-00002-of-00002.safetensors',
      'model.safetensors.index.json',
    ]);
    expect(await readState(folder)).toEqual(tensors);
    expect(await readState(join(folder, 'model.safetensors.index.json'))).toEqual(tensors);
  });

  it('may hold a tensor larger than a shard', async () => {
    await writeSharded(folder, tensors, { maxShardBytes: 1 });
    expect((await readdir(folder)).length).toBe(4);
    expect(await readState(folder)).toEqual(tensors);
  });

  const index = (text: string) => writeFile(join(folder, 'model.safetensors.index.json'), text);
  const shard = (name: string, names: string[]) =>
    writeFile(join(folder, name), serializeSafetensors(Object.fromEntries(names.map((n) => [n, tensorOf(1)]))));

  it.each<[string, string, RegExp]>([
    ['broken JSON', '{', /index\.json is not valid JSON/],
    ['null', 'null', /weight_map must map/],
    ['no map', '{}', /weight_map must map/],
    ['a file outside the folder', '{"weight_map":{"a":"../secret.safetensors"}}', /must be a file of the same folder/],
    ['a missing shard', '{"weight_map":{"a":"gone.safetensors"}}', /gone\.safetensors does not exist/],
    [
      'a missing tensor',
      '{"weight_map":{"a":"one.safetensors","z":"one.safetensors"}}',
      /1 tensors .* in no shard \(z\)/,
    ],
    ['a tensor in two shards', '{"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}', /tensor a is in .*one/],
  ])('with %s are refused', async (_, text, message) => {
    await index(text);
    await shard('one.safetensors', ['a']);
    await shard('two.safetensors', ['a', 'b']);
    await expect(openCheckpoint(folder)).rejects.toThrow(message);
  });
});
