import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ShardWriter } from '@flamingo-ts/data-mixtures';
import { startsNative } from '@flamingo-ts/testing';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { readMetrics } from '../src/stages/metrics';
import { flamingo, TINY, writeConfig } from './command';

// Trains a language model on shards of text as large ones are trained, using only the command.
const folder = mkdtempSync(join(tmpdir(), 'flamingo-text-'));
const STEPS = 30;
const train = {
  ...TINY.lm.train,
  steps: STEPS,
  learningRate: 0.01,
  schedule: 'cosine',
  warmupSteps: 5,
  finalShare: 0.1,
};
const config = writeConfig(folder, {
  ...TINY,
  data: { kind: 'shards', text: 'text' },
  lm: { ...TINY.lm, packed: true, bos: true, train },
});
afterAll(() => rmSync(folder, { recursive: true }));

beforeAll(async () => {
  const writer = await ShardWriter.create(join(folder, 'text'), { maxDocuments: 10 });
  const colors = ['red', 'green', 'blue'];
  for (let i = 0; i < 40; i++) {
    const text = `The sky is ${colors[i % 3]}. `.repeat(1 + (i % 7)).trim();
    await writer.add({ kind: 'page', parts: [{ text }] });
  }
  await writer.close();
});

it('pretrains on text only: packed, with <BOS> and <EOS>, and cosine decay', { timeout: 120_000 }, async () => {
  const { status, stderr } = await flamingo(folder, 'pretrain-lm', config);
  expect(status, stderr).toBe(0);
  const metrics = readMetrics(join(folder, 'run', 'lm', 'metrics.jsonl'));
  expect(metrics).toHaveLength(STEPS);
  expect(metrics.at(-1)!.loss).toBeLessThan(0.5 * metrics[0]!.loss);
  // Halfway between warm-up and end of the run, the rate is the mean of the peak and the final rate.
  expect(metrics[5]!.learningRate).toBeCloseTo(0.01, 12);
  expect((metrics[17]!.learningRate + metrics[18]!.learningRate) / 2).toBeCloseTo(0.0055, 5);
  expect(readFileSync(join(folder, 'run', 'lm', 'tokenizer.json'), 'utf8')).toContain('<BOS>');
});

it('names the data that other stages require', { timeout: 60_000 }, async () => {
  const { status, stderr } = await flamingo(folder, 'pretrain-vision', config);
  expect(status).toBe(1);
  expect(stderr).toContain(
    'data must name pairs or descriptions with at least one pair (the vision encoder learns from pairs), got none',
  );
});

const isa = (await startsNative()) ? (await import('@flamingo-ts/backend-native')).nativeLibrary().cpuIsa : '';
const multiplies = /bf16|amx|fp16|vnni_2/.test(isa);

it.skipIf(multiplies)('reports before any work that bfloat16 is not available', { timeout: 60_000 }, async () => {
  const { status, stderr } = await flamingo(folder, 'pretrain-lm', config, '--fresh', '--set', 'precision=bfloat16');
  expect(status).toBe(1);
  expect(stderr).toMatch(/Config: precision bfloat16 (is not available on this machine|requires backend native)/);
});

it.runIf(multiplies)('trains in bfloat16 with nearly the same loss', { timeout: 120_000 }, async () => {
  const bfloat16 = ['--set', 'precision=bfloat16', '--set', 'out=bfloat16'];
  expect(await flamingo(folder, 'pretrain-lm', config, ...bfloat16)).toMatchObject({ status: 0 });
  const last = (out: string) => readMetrics(join(folder, out, 'lm', 'metrics.jsonl')).at(-1)!.loss;
  expect(Math.abs(last('bfloat16') / last('run') - 1)).toBeLessThan(0.1);
});
