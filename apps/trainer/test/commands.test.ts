import { mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CheckpointFolder } from '@flamingo-ts/checkpoint';
import type { Command } from 'commander';
import { afterAll, expect, it } from 'vitest';
import { formatRun, inspectRun } from '../src/cli/info';
import { createProgram } from '../src/cli/commands';
import { loadConfig } from '../src/config/config';
import { addQuickstartCommand } from '../src/quickstart/command';
import { TINY, writeConfig } from './command';
import { command } from './in-process';

const folder = mkdtempSync(join(tmpdir(), 'flamingo-commands-'));
afterAll(() => rmSync(folder, { recursive: true }));

it('prints its version', async () => {
  const { version } = JSON.parse(readFileSync(join(import.meta.dirname, '..', 'package.json'), 'utf8')) as {
    version: string;
  };
  expect(await command('--version')).toEqual({ status: 0, text: `${version}\n` });
});

it('has a help text for each command, without meaningless defaults', () => {
  const helps = (program: Command): string[] => [program.helpInformation(), ...program.commands.flatMap(helps)];
  const all = helps(createProgram([addQuickstartCommand]));
  expect(all.length).toBeGreaterThan(15);
  for (const help of all) expect(help).not.toMatch(/default: (null|undefined|Infinity)/);
});

it('init writes a configuration that every command accepts, and overwrites no file', async () => {
  const file = join(folder, 'my.yaml');
  expect(await command('init', file, '--data', 'photos')).toMatchObject({ status: 0 });
  expect(loadConfig(file)).toMatchObject({
    out: 'runs/my-model',
    data: { kind: 'folder', path: join(folder, 'photos') },
  });
  expect(readFileSync(file, 'utf8')).toMatch(/^# .*\n/);
  const again = await command('init', file);
  expect(again.text).toMatch(/init: .*my\.yaml already exists/);
  expect(again.status).toBe(1);
});

it('info shows steps, losses, sizes, and which checkpoints are damaged', async () => {
  const run = join(folder, 'run');
  mkdirSync(join(run, 'lm'), { recursive: true });
  const line = (step: number) => `${JSON.stringify({ step, loss: 4 - step })}\n`;
  writeFileSync(join(run, 'lm', 'metrics.jsonl'), line(0) + line(1));
  const checkpoints = new CheckpointFolder(join(run, 'lm', 'checkpoints'));
  const model = { w: { shape: [2], data: Float32Array.of(1, 2) } };
  for (const step of [1, 2]) await checkpoints.save(step, { model }, {});
  truncateSync(join(run, 'lm', 'checkpoints', 'step-000002', 'model.safetensors'), 10);
  const [stage, ...others] = await inspectRun(run);
  expect(others).toEqual([]);
  expect(stage).toMatchObject({ stage: 'lm', isFinished: false, steps: 2, losses: [4, 3] });
  expect(stage!.checkpoints).toEqual([
    { name: 'step-000002', damage: expect.stringContaining('must have') as string },
    { name: 'step-000001' },
  ]);
  const { status, text } = await command('info', run);
  expect(text).toBe(`${formatRun([stage!])}\n`);
  expect(text).toMatch(/lm \(pretrain-lm\): not finished, 2 steps\n {2}loss +4\.000 to 3\.000\n/);
  expect(text).toMatch(/step-000002 DAMAGED: .*\n.*step-000001 good/);
  expect(status).toBe(0);
  expect((await command('info', folder)).text).toMatch(/info: .* has none of the folders vision, lm, flamingo/);
});

it('pretrain-lm draws no images if there is nothing to train, even with --fresh', async () => {
  const config = writeConfig(folder, { ...TINY, lm: { ...TINY.lm, pretrained: 'gpt2' } }, 'pretrained.yaml');
  for (const flags of [[], ['--fresh']]) {
    const { status, text } = await command('pretrain-lm', config, ...flags);
    expect(text).toMatch(
      /^pretrain-lm: lm\.pretrained names a trained language model, .*gpt2\. There is nothing to do.*\n$/,
    );
    expect(status).toBe(1);
  }
});

it('info shows the best check of a run, and plots losses and checks', async () => {
  const run = join(folder, 'checked');
  mkdirSync(join(run, 'vision'), { recursive: true });
  const lines = [4, 3, 3.5].map((loss, step) => {
    const validation = { loss: loss + 1, retrieval: 0.5, chance: 0.125 };
    return JSON.stringify({ step, loss, losses: { contrastive: loss }, ...(step > 0 && { validation }) });
  });
  writeFileSync(join(run, 'vision', 'metrics.jsonl'), lines.map((line) => `${line}\n`).join(''));
  const page = join(folder, 'report.html');
  const { status, text } = await command('info', run, '--out', page);
  expect(text).toContain('  best check   step 2: validation loss 4.000, retrieval 0.500 (chance 0.125)\n');
  expect(status).toBe(0);
  const html = readFileSync(page, 'utf8');
  expect(html).toContain('<td>step 2: validation loss 4.000, retrieval 0.500 (chance 0.125)</td>');
  expect(Array.from(html.matchAll(/aria-label="([^"]+)"/g), ([, title]) => title)).toEqual([
    'Vision: contrastive loss',
    'Vision: retrieval on the validation split',
  ]);
  const names = Array.from(html.matchAll(/<\/i>([^<]+)</g), ([, name]) => name);
  expect(names).toEqual(['contrastive', 'validation', 'retrieval', 'chance']);
});
