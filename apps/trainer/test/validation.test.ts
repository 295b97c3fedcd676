import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ShardWriter, type Document } from '@flamingo-ts/data-mixtures';
import { useBackend } from '@flamingo-ts/kernels';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { StopSignal } from '../src/cli/stop-signal';
import { parseConfig, type Config } from '../src/config/config';
import { openData } from '../src/data/data-kinds';
import {
  checkStage,
  pretrainLanguage,
  pretrainVision,
  readSummary,
  stageMetrics,
  trainJoint,
  type StageName,
} from '../src/stages/recipe';
import { TINY } from './command';

/** Apparent number of cores; all but one decode images. */
const cores = vi.hoisted(() => ({ value: 2 }));
vi.mock('node:os', async (original) => ({ ...(await original<object>()), availableParallelism: () => cores.value }));

// Trains on few images, with augmentation and a validation split.
const folder = mkdtempSync(join(tmpdir(), 'flamingo-validation-'));
const at = (name: string) => join(folder, name);
const TRAIN = { vision: pretrainVision, lm: pretrainLanguage, flamingo: trainJoint };
const STAGES = ['vision', 'lm', 'flamingo'] as const;
const KINDS = {
  folder: { kind: 'folder', path: at('data') },
  shards: { kind: 'shards', pairs: at('shards') },
};

beforeAll(async () => {
  await useBackend('wasm');
  mkdirSync(at('data'));
  const writer = await ShardWriter.create(at('shards'));
  const lines: string[] = [];
  for (let i = 0; i < 24; i++) {
    const [image, text] = [`${i}.png`, `a square of number ${i % 12}`];
    const background = { r: 10 * i, g: 255 - 10 * i, b: 90 };
    const stripe = { create: { width: 10, height: 40, channels: 3, background: 'white' } } as const;
    // Of different sizes, so that workers finish out of order.
    const square = sharp({ create: { width: i % 4 === 0 ? 300 : 30, height: 40, channels: 3, background } });
    await square.composite([{ input: stripe, left: i, top: 0 }]).toFile(at(`data/${image}`));
    lines.push(JSON.stringify({ image, text }));
    const parts = [{ media: { image: readFileSync(at(`data/${image}`)) } }, { text }];
    await writer.add({ kind: 'pair', parts } as Document);
  }
  writeFileSync(at('data/pairs.jsonl'), lines.join('\n'));
  await writer.close();
}, 60_000);
afterAll(() => rmSync(folder, { recursive: true }));

function configOf(kind: keyof typeof KINDS, out: string, more: object = {}): Config {
  const model = { ...TINY.vision.model, imageSize: 16 };
  const train = { ...TINY.vision.train, steps: 6, checkpointEvery: 2 };
  return parseConfig('test', {
    ...TINY,
    out: at(out),
    backend: 'wasm',
    data: KINDS[kind],
    validation: { share: 0.4, every: 2, patience: 9 },
    augmentation: { crop: 0.5, color: 0.3, flip: 0.5 },
    vision: { ...TINY.vision, model, batch: 4, train },
    lm: { ...TINY.lm, train },
    flamingo: { ...TINY.flamingo, datasets: { pairs: TINY.flamingo.datasets.pairs }, train },
    ...more,
  });
}

/** Runs a stage on this thread. @param stopAfter number of steps after which it is stopped */
async function run(stage: StageName, config: Config, stopAfter?: number): Promise<void> {
  vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  const isDue = { get: () => stageMetrics(config, stage).length === stopAfter };
  const stop = Object.create(StopSignal.prototype, { requested: isDue }) as StopSignal;
  const data = await openData(config);
  try {
    await TRAIN[stage]({ config, data, stop });
  } finally {
    await data.close();
    vi.restoreAllMocks();
  }
}

/** Everything that a stage leaves, except times. */
function result(config: Config, stage: StageName) {
  const { best, steps, model } = readSummary(config.out, stage);
  const metrics = stageMetrics(config, stage).map(({ seconds: _, waited: __, waitedShare: ___, ...rest }) => rest);
  return { metrics, best, steps, model };
}

it.each(['folder', 'shards'] as const)(
  'training on data of kind %s gives the same bits when it is stopped and resumed with another number of workers',
  async (kind) => {
    const [whole, resumed] = [configOf(kind, `${kind}-whole`), configOf(kind, `${kind}-resumed`)];
    for (const stage of STAGES) {
      cores.value = 2;
      await run(stage, whole);
      const { metrics, best, steps } = result(whole, stage);
      expect(steps).toBe(6);
      const checks = metrics.flatMap(({ step, validation }) => (validation ? [[step, validation.loss]] : []));
      expect(checks.map(([step]) => step)).toEqual([1, 3, 5]);
      expect(best!.loss).toBe(Math.min(...checks.map(([, loss]) => loss!)));
      if (stage !== 'lm') expect(best!.chance).toBeGreaterThan(0);

      await expect(run(stage, resumed, 3)).rejects.toThrow(/stopped at step 3/);
      cores.value = 5;
      await run(stage, resumed);
      expect(result(resumed, stage)).toEqual(result(whole, stage));
    }
  },
  120_000,
);

it.each(['vision', 'flamingo'] as const)(
  'augments what training sees in stage %s, and not what it is validated on',
  async (stage) => {
    // With a rate of almost 0, a check has the same result whatever training saw.
    const train = { ...TINY.vision.train, learningRate: 1e-9, weightDecay: 0 };
    const stopped = async (out: string, augmentation?: object) => {
      const { vision, flamingo } = configOf('folder', out);
      const still = { vision: { ...vision, train }, flamingo: { ...flamingo, train } };
      const config = configOf('folder', `${stage}-${out}`, { ...still, augmentation, initFrom: at('folder-whole') });
      await expect(run(stage, config, 2)).rejects.toThrow(/stopped at step 2/);
      return stageMetrics(config, stage)[1]!;
    };
    const [plain, augmented] = [await stopped('plain'), await stopped('augmented', { crop: 0.5, flip: 0.5 })];
    expect(Math.abs(augmented.loss - plain.loss)).toBeGreaterThan(1e-4);
    expect(augmented.validation!.loss).toBeCloseTo(plain.validation!.loss, 5);
  },
  60_000,
);

it('ends a stage early, and then has nothing to do', async () => {
  const eager = { ...configOf('folder', 'x').vision.train, learningRate: 0.9, steps: 40 };
  const config = (patience: number, vision = eager) =>
    configOf('folder', 'early', {
      validation: { share: 0.4, every: 1, patience },
      vision: { ...configOf('folder', 'x').vision, train: vision },
    });
  await run('vision', config(2));
  const { best, steps } = result(config(2), 'vision');
  expect(steps).toBeLessThan(40);
  expect(best).toMatchObject({ step: steps - 2, since: 2 });
  expect(checkStage(config(2), 'vision')).toMatchObject({ steps, patience: 2 });
  expect(checkStage(config(3), 'vision')).toBeUndefined();
  const other = () => checkStage({ ...config(2), validation: { share: 0.3, every: 1, patience: 2 } }, 'vision');
  expect(other).toThrow(/made with another configuration:\n {2}validation\.share: 0\.3 now, 0\.4 before/);
}, 60_000);

it('warns if a frozen model has seen validation pairs', async () => {
  const config = configOf('folder', 'folder-resumed', { seed: 4, initFrom: at('folder-whole') });
  rmSync(at('folder-resumed'), { recursive: true });
  const write = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  const data = await openData(config);
  const stop = Object.create(StopSignal.prototype, { requested: { get: () => false } }) as StopSignal;
  await pretrainVision({ config, data, stop });
  await data.close();
  const text = write.mock.calls.join('');
  vi.restoreAllMocks();
  expect(text).toMatch(
    /Warning: \S+vision was trained on the same data with another validation split, so it has seen validation pairs \(seed: 4 now, 3 before\)\./,
  );
  expect(text).toMatch(
    /pretrain-vision: validates on \d+ pairs, whose images are in \d+ documents that training skips/,
  );
}, 60_000);
