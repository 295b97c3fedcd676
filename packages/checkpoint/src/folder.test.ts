import { mkdir, mkdtemp, readdir, readFile, rename, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { CheckpointFolder } from './folder';

interface State {
  seed: number;
  cursor: number[];
}

let root: string;
let folder: CheckpointFolder<State>;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'run-'));
  folder = new CheckpointFolder(join(root, 'checkpoints'), { keep: 2 });
});
afterEach(() => rm(root, { recursive: true }));

const tensor = (value: number) => ({ w: { shape: [], data: Float32Array.of(value) } });
const save = (step: number, value = step) =>
  folder.save(step, { model: tensor(value), optimizer: tensor(-value) }, { seed: 1, cursor: [step] });
const list = () => readdir(folder.path);

it('returns the newest and keeps the given number', async () => {
  expect(await folder.latest()).toBeUndefined();
  for (const step of [9, 10, 1000000]) await save(step);
  expect((await list()).sort()).toEqual(['step-000010', 'step-1000000']);
  const latest = (await folder.latest())!;
  expect(latest).toMatchObject({ step: 1000000, state: { seed: 1, cursor: [1000000] }, skipped: [] });
  expect(await latest.read('optimizer')).toEqual(tensor(-1000000));
  await expect(latest.read('ema')).rejects.toThrow(/no part ema\. Use one of its parts: model, optimizer/);
});

it('saves the same step again', async () => {
  await save(5, 1);
  await save(5, 2);
  expect(await list()).toEqual(['step-000005']);
  expect(await (await folder.latest())!.read('model')).toEqual(tensor(2));
});

it('finds the old one when a run was killed while replacing it', async () => {
  await save(5, 1);
  await rename(join(folder.path, 'step-000005'), join(folder.path, 'step-000005.replaced'));
  expect(await (await folder.latest())!.read('model')).toEqual(tensor(1));
  await save(5, 2);
  expect(await list()).toEqual(['step-000005']);
});

it('skips and removes what a killed run left unfinished', async () => {
  await save(1);
  await mkdir(join(folder.path, '.step-000002.tmp'));
  expect((await folder.latest())!.step).toBe(1);
  await save(3);
  expect((await list()).sort()).toEqual(['step-000001', 'step-000003']);
});

it.each<[string, (newest: string) => Promise<void>, RegExp]>([
  [
    'a truncated part',
    (p) => truncate(join(p, 'model.safetensors'), 20),
    /model\.safetensors must have \d+ bytes, it has 20/,
  ],
  ['a missing part', (p) => rm(join(p, 'optimizer.safetensors')), /optimizer\.safetensors must have .* it is missing/],
  ['no manifest', (p) => rm(join(p, 'checkpoint.json')), /checkpoint\.json is missing\. Remove that folder/],
  ['a cut manifest', (p) => truncate(join(p, 'checkpoint.json'), 30), /checkpoint\.json must be JSON with step/],
  [
    'another manifest',
    (p) => writeFile(join(p, 'checkpoint.json'), '{"step":2}'),
    /checkpoint\.json must be JSON with step/,
  ],
])('falls back to the one before when the newest has %s', async (_, damage, message) => {
  await save(1);
  await damage(await save(2));
  const latest = (await folder.latest())!;
  expect(latest.step).toBe(1);
  expect(latest.skipped).toEqual([expect.stringMatching(message)]);
  await damage(join(folder.path, 'step-000001'));
  await expect(folder.latest()).rejects.toThrow(/all checkpoints are damaged\. .*step-000002.*step-000001/s);
});

it('skips a checkpoint with a damaged byte anywhere, and says which and why', async () => {
  await save(1);
  const newest = await save(2);
  const files = ['model.safetensors', 'optimizer.safetensors', 'checkpoint.json'];
  for (const name of files) {
    const file = join(newest, name);
    const whole = await readFile(file);
    for (let at = 0; at < whole.length; at += 13) {
      const damaged = Buffer.from(whole);
      damaged[at]! ^= 1 << (at % 8);
      await writeFile(file, damaged);
      const { step, state, skipped } = (await folder.latest())!;
      // Whitespace in the manifest may become other whitespace.
      if (step === 2) expect([name, state]).toEqual(['checkpoint.json', { seed: 1, cursor: [2] }]);
      else expect(skipped).toEqual([expect.stringContaining(file)]);
    }
    await writeFile(file, whole);
  }
  expect((await folder.latest())!.step).toBe(2);
  const part = join(newest, 'optimizer.safetensors');
  const zeroed = await readFile(part);
  await writeFile(part, zeroed.fill(0, zeroed.length - 4));
  expect((await folder.latest())!.skipped).toEqual([
    expect.stringMatching(
      /step-000002\/optimizer\.safetensors is damaged: .*SHA-256.* resume from the checkpoint before/,
    ),
  ]);
});

it('loads checkpoints of earlier versions, which have no hashes', async () => {
  const path = await save(3);
  const file = join(path, 'checkpoint.json');
  const { sha256, ...manifest } = JSON.parse(await readFile(file, 'utf8')) as { sha256: string; parts: object };
  expect(sha256).toMatch(/^[0-9a-f]{64}$/);
  const sizes = Object.entries(manifest.parts as Record<string, { bytes: number }>).map(([part, { bytes }]) => [
    part,
    bytes,
  ]);
  // Written by an editor that starts files with a byte order mark.
  await writeFile(file, `\ufeff${JSON.stringify({ ...manifest, parts: Object.fromEntries(sizes) })}`);
  const latest = (await folder.latest())!;
  expect(latest).toMatchObject({ step: 3, state: { seed: 1, cursor: [3] }, skipped: [] });
  expect(await latest.read('model')).toEqual(tensor(3));
});

it.each([NaN, Infinity, -Infinity])('refuses to save %d, before anything is written', async (value) => {
  await save(1);
  const bad = { ...tensor(1), v: { shape: [3], data: Float32Array.of(0, value, NaN) } };
  await expect(folder.save(2, { model: tensor(2), optimizer: bad }, { seed: 1, cursor: [2] })).rejects.toThrow(
    new RegExp(`step-000002: optimizer v must hold finite F32 values, got ${value} at index 1 of 3\\. .*not saved`),
  );
  expect(await list()).toEqual(['step-000001']);
});

it.skipIf(process.platform !== 'linux')('names the checkpoint when the file system refuses', async () => {
  const readOnly = new CheckpointFolder('/sys/flamingo-ts');
  await expect(readOnly.save(1, { model: tensor(1) }, 0)).rejects.toThrow(
    /sys\/flamingo-ts\/step-000001: the checkpoint of step 1 could not be saved: .*(EROFS|EACCES|EPERM).* There is no earlier checkpoint/,
  );
});

it('keeps the earlier checkpoints when saving fails, and no temporary folder', async () => {
  await save(1);
  const wrong = { w: { shape: [2], data: new Float32Array(1) } };
  await expect(folder.save(2, { model: tensor(2), optimizer: wrong }, { seed: 1, cursor: [2] })).rejects.toThrow(
    /2 values/,
  );
  expect(await list()).toEqual(['step-000001']);
});

it('rejects keep: 0', () => {
  expect(() => new CheckpointFolder('x', { keep: 0 })).toThrow(/keep must be 1 or more, got 0/);
});
