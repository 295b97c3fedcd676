import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { useBackend } from '@flamingo-ts/kernels';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadConfig, type Config } from '../config/config';
import { openData, registerDataKind } from '../data/data-kinds';
import { emojiDataKind } from './emoji/data-kind';
import { evaluate, findRow } from '../eval/evaluate';
import { quickstart, type QuickstartResults } from './quickstart';
import { openJoint, stageMetrics, type StageName } from '../stages/recipe';
import { StopSignal } from '../cli/stop-signal';

const out = mkdtempSync(join(tmpdir(), 'flamingo-quickstart-'));
let config: Config;
let results: QuickstartResults;
let report: string;

// The recipe on a few real images, shortened to half a minute (one and a half on wasm), which is enough for every part to
// learn. Seeds 0 to 3 gave loss ratios of at most 0.66, gates of at least 0.44 and margins of 0.59 to 0.68.
beforeAll(async () => {
  registerDataKind(emojiDataKind);
  const backend = await useBackend('auto');
  config = loadConfig(join(import.meta.dirname, '..', '..', 'configs', 'quickstart-small.yaml'), {
    out,
    'data.maxConcepts': 100,
    'vision.train.steps': 60,
    'vision.batch': 48,
    'lm.train.steps': 70,
    'lm.tokenizerPages': 1500,
    'flamingo.train.steps': 200,
    'flamingo.gateWalk': { steps: 15, by: 0.035 },
    'eval.prompts': 40,
    'eval.shots': [0, 4],
  });
  const stop = new StopSignal();
  const done = await quickstart({ config, backend, stop });
  stop.dispose();
  results = done.results;
  report = readFileSync(done.report, 'utf8');
}, 600_000);
afterAll(() => rmSync(out, { recursive: true }));

const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;

describe('a shortened quickstart', () => {
  it.each(['vision', 'lm', 'flamingo'] as StageName[])('lowers the loss of %s', (stage) => {
    const losses = stageMetrics(config, stage).map((m) => m.loss);
    expect(losses).toHaveLength(config[stage].train.steps);
    expect(mean(losses.slice(-10))).toBeLessThan(0.85 * mean(losses.slice(0, 10)));
  });

  it('equals the language model while the gates are 0', () => {
    expect(results.closedGatesExact).toBe(true);
  });

  it('opens its gates', () => {
    const gates = Object.values(stageMetrics(config, 'flamingo').at(-1)!.figures!);
    expect(gates).toHaveLength(2 * config.lm.model.numLayers);
    expect(Math.max(...gates.map(Math.abs))).toBeGreaterThan(0.3);
  });

  it('uses the images: the same prompts with another image get other answers', async () => {
    const data = await openData(config);
    const model = await openJoint(config, data);
    // Asks about training concepts, because such a short run does not generalize to others.
    const evaluation = await evaluate(model, await data.questions({ ...config.eval, split: 'train' }), config.eval);
    const [real, swapped] = (['real', 'swapped'] as const).map((c) => findRow(evaluation, c, 4)!.mean);
    expect(real! - swapped!).toBeGreaterThan(0.35);
  }, 300_000);

  it('writes a self-contained report with images, curves and attribution', () => {
    expect(report.match(/data:image\/png;base64,/g)!.length).toBeGreaterThan(20);
    expect(report.match(/<svg/g)!.length).toBeGreaterThanOrEqual(6);
    expect(report).toMatch(/OpenMoji.*CC BY-SA 4\.0[\s\S]*Twemoji.*CC BY 4\.0[\s\S]*emojibase-data \(MIT\)/);
    expect(report).not.toMatch(/(src|href)="(?!data:)/);
    expect(report).not.toContain('undefined');
  });
});
