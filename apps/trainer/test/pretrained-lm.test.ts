import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readState, writeSafetensors, type FloatTensor } from '@flamingo-ts/checkpoint';
import { Random } from '@flamingo-ts/kernels';
import { trainByteLevelBPE } from '@flamingo-ts/lm-core';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readMetrics } from '../src/stages/metrics';
import { flamingo, TINY, writeConfig, type Outcome } from './command';

// Replaces the language model with one line of the configuration, for each family. Uses only the command.
const folder = mkdtempSync(join(tmpdir(), 'flamingo-pretrained-'));
afterAll(() => rmSync(folder, { recursive: true }));
const STEPS = 20;
const FAMILIES = ['gpt2', 'opt-postln-proj', 'gpt-neox', 'llama-gqa-rope3', 'mpt-heads-not-pow2'];
const config = writeConfig(folder, {
  ...TINY,
  data: { kind: 'emoji', maxConcepts: 30 },
  vision: { ...TINY.vision, train: { ...TINY.vision.train, steps: 12 } },
  flamingo: {
    ...TINY.flamingo,
    gateWalk: { steps: 10, by: 0.05 },
    train: { ...TINY.flamingo.train, steps: STEPS, learningRate: 0.01 },
  },
});

const reference = (name: string) =>
  new URL(`../../../packages/lm-hf/test/reference/${name}/`, import.meta.url).pathname;
const tokenizer = trainByteLevelBPE(['a red circle and a blue square on a page of text'], { vocabSize: 280 });

/** Writes a model with random weights in its published format, with a vocabulary for real text. */
async function publish(name: string): Promise<string> {
  const to = join(folder, name);
  mkdirSync(to);
  const json = JSON.parse(readFileSync(join(reference(name), 'config.json'), 'utf8')) as { vocab_size: number };
  const random = new Random(5);
  const grow = (key: string, { shape, data }: FloatTensor): FloatTensor => {
    if (!/wte|embed_tokens|embed_in|embed_out|lm_head/.test(key)) return { shape, data };
    const more = [280, ...shape.slice(1)];
    const values = Float32Array.from({ length: 280 * (shape[1] ?? 1) }, (_, i) => data[i] ?? 0.1 * random.normal());
    return { shape: more, data: values };
  };
  const state = await readState(reference(name));
  const grown = Object.fromEntries(Object.entries(state).map(([key, tensor]) => [key, grow(key, tensor)]));
  await writeSafetensors(join(to, 'model.safetensors'), grown);
  writeFileSync(join(to, 'config.json'), JSON.stringify({ ...json, vocab_size: 280, eos_token_id: 0 }));
  writeFileSync(join(to, 'tokenizer.json'), JSON.stringify(tokenizer));
  return name;
}

const image = join(folder, 'red.png');
let vision: Outcome;
beforeAll(async () => {
  await sharp({ create: { width: 48, height: 48, channels: 3, background: 'red' } }).toFile(image);
  vision = await flamingo(folder, 'pretrain-vision', config);
}, 120_000);

describe('lm.pretrained', () => {
  it('requires no pretraining', async () => {
    expect(vision.status, vision.stderr).toBe(0);
    const { status, stderr } = await flamingo(folder, 'pretrain-lm', config, '--set', 'lm.pretrained=gpt2');
    expect(status).toBe(1);
    expect(stderr).toMatch(
      /lm\.pretrained names a trained language model.*gpt2.*nothing to do: continue with flamingo train/,
    );
  });

  it.each(FAMILIES)(
    'trains with %s, and the loss falls',
    async (name) => {
      const swap = ['--set', `lm.pretrained=${await publish(name)}`];
      const trained = await flamingo(folder, 'train', config, '--fresh', ...swap);
      expect(trained.status, trained.stderr).toBe(0);
      const losses = readMetrics(join(folder, 'run/flamingo/metrics.jsonl')).map((m) => m.losses['pages']!);
      expect(losses).toHaveLength(STEPS);
      const mean = (values: number[]) => values.reduce((a, b) => a + b) / values.length;
      expect(mean(losses.slice(-5))).toBeLessThan(mean(losses.slice(0, 5)) - 0.1);
    },
    180_000,
  );

  it('answers with the last family in int8', async () => {
    const question = ['--image', image, '--example', `${image}=red`, '--candidates', 'red,blue'];
    const swap = ['--set', `lm.pretrained=${FAMILIES.at(-1)}`, '--set', 'lm.precision=int8'];
    const asked = await flamingo(folder, 'generate', config, ...question, ...swap);
    expect(asked.status, asked.stderr).toBe(0);
    expect(asked.stdout).toMatch(/^(red|blue)\n$/);
  }, 60_000);
});
