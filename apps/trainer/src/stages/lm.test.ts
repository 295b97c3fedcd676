import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Random, useBackend } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { TINY } from '../../test/command';
import { parseConfig, type Config } from '../config/config';
import { openData } from '../data/data-kinds';
import { LanguageModel, trainTokenizer } from './lm';
import { pretrainLanguage, stageMetrics } from './recipe';
import { Interrupted, StopSignal } from '../cli/stop-signal';
import type { TrainingData } from '../data/training-data';

// Data without images, as lines of JSON.
const folder = mkdtempSync(join(tmpdir(), 'flamingo-lm-'));
beforeAll(async () => {
  await useBackend('wasm');
  mkdirSync(join(folder, 'data'));
  const pages = Array.from({ length: 9 }, (_, i) => ({ parts: [{ text: `Page ${i} says ${'so much '.repeat(i)}` }] }));
  writeFileSync(join(folder, 'data', 'pages.jsonl'), pages.map((page) => JSON.stringify(page)).join('\n'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const configOf = (out: string, lm: object = {}): Config =>
  parseConfig('test', {
    ...TINY,
    out: join(folder, out),
    data: { kind: 'folder', path: join(folder, 'data') },
    lm: { ...TINY.lm, batch: 2, maxTokens: 16, train: { ...TINY.lm.train, steps: 10, checkpointEvery: 4 }, ...lm },
  });

/** Runs the stage. @param stopAt the document at which Ctrl-C is pressed */
async function losses(config: Config, stopAt?: number): Promise<number[]> {
  const stop = new StopSignal();
  const data = await openData(config);
  const textAt = data.textAt.bind(data);
  vi.spyOn(data, 'textAt').mockImplementation((place, seed) => {
    if (place === stopAt) process.emit('SIGINT');
    return textAt(place, seed);
  });
  try {
    (await pretrainLanguage({ config, data, stop })).dispose();
    return stageMetrics(config, 'lm').map((m) => m.loss);
  } finally {
    stop.dispose();
    await data.close();
  }
}

it('packed, stopped and resumed, gives the losses of a run that was never stopped', async () => {
  const whole = await losses(configOf('whole', { packed: true, bos: true }));
  expect(whole).toHaveLength(10);
  const stopped = configOf('stopped', { packed: true, bos: true });
  await expect(losses(stopped, 8)).rejects.toThrow(Interrupted);
  const before = stageMetrics(stopped, 'lm').length;
  expect(before).toBeGreaterThan(0);
  expect(before).toBeLessThan(10);
  expect(await losses(stopped)).toEqual(whole);
});

it('goes through all texts once per epoch, in another order each time', async () => {
  const config = configOf('order');
  const data = await openData(config);
  const turn = (from: number) => Promise.all(Array.from({ length: 9 }, (_, i) => data.textAt(from + i, config.seed)));
  const [first, second] = [await turn(0), await turn(9)];
  expect(new Set(first).size).toBe(9);
  expect(second).not.toEqual(first);
  expect([...second].sort()).toEqual([...first].sort());
  await data.close();
});

it('starts texts with <BOS> only if configured, and the ids of the other special tokens stay the same', async () => {
  const plain = configOf('plain');
  const data: TrainingData = await openData(plain);
  const special = (config: Config) => {
    const model = LanguageModel.create(config.lm.model, trainTokenizer(config, data), new Random(0));
    model.dispose();
    return model.special;
  };
  const ids = { eos: 0, pad: 0, image: 1, endOfChunk: 2 };
  expect(special(plain)).toEqual(ids);
  expect(special(configOf('bos', { bos: true }))).toEqual({ ...ids, bos: 3 });
  await data.close();
});

it('packed rows have finite losses, and leak no tensors', async () => {
  const config = configOf('packed', { packed: true });
  const before = tf.memory().numTensors;
  expect((await losses(config)).every(Number.isFinite)).toBe(true);
  expect(tf.memory().numTensors).toBe(before);
});
