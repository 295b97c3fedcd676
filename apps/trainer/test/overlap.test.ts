import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { useBackend } from '@flamingo-ts/kernels';
import sharp from 'sharp';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { loadConfig } from '../src/config/config';
import { openData } from '../src/data/data-kinds';
import { pretrainLanguage, pretrainVision, stageMetrics, trainJoint, type StageName } from '../src/stages/recipe';
import { StopSignal } from '../src/cli/stop-signal';
import { TINY, writeConfig } from './command';

/** Apparent number of cores; all but one decode images. */
const cores = vi.hoisted(() => ({ value: 2 }));
vi.mock('node:os', async (original) => ({ ...(await original<object>()), availableParallelism: () => cores.value }));

// Trains on images that workers decode while this thread computes.
const folder = mkdtempSync(join(tmpdir(), 'flamingo-overlap-'));
const STEPS = 5;
const short = <T extends { train: object }>(stage: T) => ({ ...stage, train: { ...stage.train, steps: STEPS } });
const { pages, pairs, clips } = TINY.flamingo.datasets;
const file = writeConfig(folder, {
  ...TINY,
  backend: 'wasm',
  data: { kind: 'folder', path: 'data' },
  vision: short({ ...TINY.vision, batch: 4 }),
  lm: short(TINY.lm),
  flamingo: { ...short(TINY.flamingo), datasets: { pages, pairs, clips } },
});

beforeAll(async () => {
  await useBackend('wasm');
  mkdirSync(join(folder, 'data'));
  const names = Array.from({ length: 16 }, (_, i) => `${i}.png`);
  for (const [i, name] of names.entries()) {
    // Of different sizes, so that workers finish out of order.
    const side = i % 4 === 0 ? 300 : 30;
    const background = { r: 16 * i, g: 255 - 16 * i, b: 90 };
    await sharp({ create: { width: side, height: side, channels: 3, background } })
      .png()
      .toFile(join(folder, 'data', name));
  }
  // An unreadable image, whose samples are replaced by others.
  writeFileSync(join(folder, 'data', names[7]!), 'not an image');
  const lines = (name: string, values: object[]) =>
    writeFileSync(join(folder, 'data', `${name}.jsonl`), values.map((v) => JSON.stringify(v)).join('\n'));
  lines(
    'pairs',
    names.map((image, i) => ({ image, text: `a square of number ${i}` })),
  );
  lines(
    'pages',
    names.map((image, i) => ({
      parts: [{ image }, { text: `number ${i}` }, { image: names[15 - i] }, { text: 'end' }],
    })),
  );
  lines(
    'clips',
    names.map((_, i) => ({ frames: [0, 1, 2].map((k) => names[(i + 5 * k) % 16]), text: `from number ${i}` })),
  );
});
afterEach(() => void vi.restoreAllMocks());
afterAll(() => rmSync(folder, { recursive: true }));

const TRAIN = { vision: pretrainVision, lm: pretrainLanguage, flamingo: trainJoint };

/**
 * Runs a stage on this thread, as the command does.
 *
 * @param onStep called after each step with the number of steps done; true stops the stage
 * @returns the losses of all runs of the stage
 */
async function run(stage: StageName, out: string, onStep: (done: number) => boolean = () => false) {
  vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  const { mock } = vi.spyOn(Worker.prototype, 'postMessage');
  const config = loadConfig(file, { out: join(folder, out) });
  const losses = () => stageMetrics(config, stage).map((m) => m.loss);
  const stop = Object.create(StopSignal.prototype, { requested: { get: () => onStep(losses().length) } }) as StopSignal;
  const data = await openData(config);
  try {
    await TRAIN[stage]({ config, data, stop });
  } finally {
    await data.close();
    const workers = [...new Set(mock.contexts)] as Worker[];
    vi.restoreAllMocks();
    expect(workers).toHaveLength(stage === 'lm' ? 0 : cores.value - 1);
    // Ended threads have the id -1.
    expect(workers.map((worker) => worker.threadId)).toEqual(workers.map(() => -1));
  }
  return losses();
}

it('gives the same losses with any number of workers', async () => {
  for (const stage of ['vision', 'lm', 'flamingo'] as const) {
    cores.value = 2;
    const losses = await run(stage, 'one');
    expect(losses).toHaveLength(STEPS);
    cores.value = 5;
    expect(await run(stage, 'four')).toEqual(losses);
  }
}, 120_000);

describe.each(['vision', 'flamingo'] as const)('%s while images of later steps are decoded', (stage) => {
  it.each([
    ['when stopped', () => true, /stopped at step 2.*Run the same command again/],
    ['after an error', () => { throw new Error('out of memory'); }, /out of memory/], // prettier-ignore
  ])(
    'ends its workers when it ends early, %s, and resumes with the losses of a whole run',
    async (_, end, message) => {
      rmSync(join(folder, 'early'), { recursive: true, force: true });
      cpSync(join(folder, 'one'), join(folder, 'early'), { recursive: true });
      rmSync(join(folder, 'early', stage), { recursive: true });
      await expect(run(stage, 'early', (done) => done === 2 && end())).rejects.toThrow(message);
      const whole = stageMetrics(loadConfig(file, { out: join(folder, 'one') }), stage).map((m) => m.loss);
      expect(await run(stage, 'early')).toEqual(whole);
    },
    60_000,
  );
});
