import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readState } from '@flamingo-ts/checkpoint';
import { useBackend } from '@flamingo-ts/kernels';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { StopSignal } from '../src/cli/stop-signal';
import { parseConfig, type Config } from '../src/config/config';
import { openData } from '../src/data/data-kinds';
import { pretrainLanguage, pretrainVision, trainJoint, type StageName } from '../src/stages/recipe';
import { TINY } from './command';

// Starts a run from the weights of another.
const folder = mkdtempSync(join(tmpdir(), 'flamingo-init-from-'));
const STAGES = { vision: pretrainVision, lm: pretrainLanguage, flamingo: trainJoint };

beforeAll(async () => {
  await useBackend('auto');
  mkdirSync(join(folder, 'data'));
  const colors = ['red', 'green', 'blue', 'gold'];
  for (const background of colors) {
    const image = sharp({ create: { width: 40, height: 40, channels: 3, background } });
    await image.png().toFile(join(folder, 'data', `${background}.png`));
  }
  const pairs = colors.map((color) => JSON.stringify({ image: `${color}.png`, text: `a ${color} square` }));
  writeFileSync(join(folder, 'data', 'pairs.jsonl'), pairs.join('\n'));
});
afterAll(() => rmSync(folder, { recursive: true }));

/** A configuration with this number of steps and learning rate; 1e-9 changes no weight. */
function configOf(out: string, steps: number, learningRate: number, more: object = {}): Config {
  const train = { steps, learningRate, warmupSteps: 0, weightDecay: 0 };
  return parseConfig('test', {
    ...TINY,
    out: join(folder, out),
    data: { kind: 'folder', path: join(folder, 'data') },
    vision: { ...TINY.vision, train },
    lm: { ...TINY.lm, train },
    flamingo: { ...TINY.flamingo, train, datasets: { pairs: TINY.flamingo.datasets.pairs } },
    ...more,
  });
}

async function run(config: Config, ...stages: StageName[]): Promise<void> {
  vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  const stop = new StopSignal();
  const data = await openData(config);
  try {
    for (const stage of stages) await STAGES[stage]({ config, data, stop });
  } finally {
    stop.dispose();
    await data.close();
    vi.restoreAllMocks();
  }
}

/** The largest difference between the weights of two runs, without the statistics that `pretrain-vision` measures. */
async function difference(stage: StageName, a: string, b: string): Promise<number> {
  const [one, two] = await Promise.all([a, b].map((out) => readState(join(folder, out, stage, 'model.safetensors'))));
  const names = Object.keys(one!).filter((name) => !name.startsWith('statistics'));
  return Math.max(...names.map((name) => maxDifference(one![name]!.data, two![name]!.data)));
}

function maxDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let largest = 0;
  for (let i = 0; i < a.length; i++) largest = Math.max(largest, Math.abs(a[i]! - b[i]!));
  return largest;
}

it('starts every stage from the weights of another run, and reads frozen models that it does not train', async () => {
  await run(configOf('first', 3, 0.01), 'vision', 'lm', 'flamingo');
  const initFrom = join(folder, 'first');
  const tuned = configOf('tuned', 1, 1e-9, { initFrom });
  await run(tuned, 'flamingo');
  expect(await difference('flamingo', 'first', 'tuned')).toBeLessThan(1e-6);
  await run(tuned, 'vision', 'lm');
  for (const stage of ['vision', 'lm'] as const) expect(await difference(stage, 'first', 'tuned')).toBeLessThan(1e-6);
  const tokenizers = ['first', 'tuned'].map((out) => readFileSync(join(folder, out, 'lm', 'tokenizer.json'), 'utf8'));
  expect(tokenizers[1]).toBe(tokenizers[0]);

  // The control: without the key, the weights differ.
  await run(configOf('anew', 1, 1e-9), 'vision', 'lm', 'flamingo');
  for (const stage of ['vision', 'lm', 'flamingo'] as const) {
    expect(await difference(stage, 'first', 'anew')).toBeGreaterThan(0.005);
  }
}, 120_000);

it('names keys that differ, and a folder without trained models', async () => {
  const initFrom = join(folder, 'first');
  const lm = { ...TINY.lm, model: { ...TINY.lm.model, outputScale: 2 }, train: { steps: 1, learningRate: 1e-9, warmupSteps: 0, weightDecay: 0 } }; // prettier-ignore
  await expect(run(configOf('other', 1, 1e-9, { initFrom, lm }), 'lm')).rejects.toThrow(
    /first\/lm was made with another configuration:\n {2}lm\.model\.outputScale: 2 now, 1 before/,
  );
  const nowhere = configOf('other', 1, 1e-9, { initFrom: join(folder, 'nowhere') });
  await expect(run(nowhere, 'vision')).rejects.toThrow(
    /pretrain-vision: initFrom must be the folder of another run with trained models, .* got \S+nowhere\. Correct it/,
  );
}, 60_000);
