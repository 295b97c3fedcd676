import { mkdir, mkdtemp, readdir, rename, rm, truncate, writeFile } from 'node:fs/promises';
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

it('gives back the newest and keeps only so many', async () => {
  expect(await folder.latest()).toBeUndefined();
  for (const step of [9, 10, 1000000]) await save(step);
  expect((await list()).sort()).toEqual(['step-000010', 'step-1000000']);
  const latest = (await folder.latest())!;
  expect(latest).toMatchObject({ step: 1000000, state: { seed: 1, cursor: [1000000] }, skipped: [] });
  expect(await latest.read('optimizer')).toEqual(tensor(-1000000));
  await expect(latest.read('ema')).rejects.toThrow(/no part ema; it has model, optimizer/);
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

it('passes over what a killed run left half written, and clears it away', async () => {
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
])('falls back on the one before when the newest has %s', async (_, damage, message) => {
  await save(1);
  await damage(await save(2));
  const latest = (await folder.latest())!;
  expect(latest.step).toBe(1);
  expect(latest.skipped).toEqual([expect.stringMatching(message)]);
  await damage(join(folder.path, 'step-000001'));
  await expect(folder.latest()).rejects.toThrow(/no checkpoint is whole\. .*step-000002.*step-000001/s);
});

it('refuses to keep none', () => {
  expect(() => new CheckpointFolder('x', { keep: 0 })).toThrow(/keep must be 1 or more, got 0/);
});
