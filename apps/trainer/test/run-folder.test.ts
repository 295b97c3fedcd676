import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readMetrics } from '../src/stages/metrics';
import { flamingo, start, TINY, writeConfig, type Outcome } from './command';

// A run folder stores its configuration, and later commands compare theirs with it.
const folder = mkdtempSync(join(tmpdir(), 'flamingo-run-folder-'));
const STEPS = 3;
const short = <T extends { train: object }>(stage: T) => ({ ...stage, train: { ...stage.train, steps: STEPS } });
const { pages, pairs } = TINY.flamingo.datasets;
const config = writeConfig(folder, {
  ...TINY,
  data: { kind: 'folder', path: 'data' },
  vision: short({ ...TINY.vision, batch: 4 }),
  lm: short(TINY.lm),
  flamingo: { ...short(TINY.flamingo), datasets: { pages, pairs } },
});
const command = (name: string, ...args: string[]) => flamingo(folder, name, config, ...args);
const losses = (run: string, stage: string) =>
  readMetrics(join(folder, run, stage, 'metrics.jsonl')).map(({ loss }) => loss);
const image = join(folder, 'data', '0.png');
const ask = ['--image', image, '--example', `${image}=red`];

const first: Record<string, Outcome> = {};
beforeAll(async () => {
  mkdirSync(join(folder, 'data'));
  const names = Array.from({ length: 8 }, (_, i) => `${i}.png`);
  for (const [i, name] of names.entries()) {
    const background = { r: 30 * i, g: 255 - 30 * i, b: 90 };
    await sharp({ create: { width: 48, height: 48, channels: 3, background } }).toFile(join(folder, 'data', name));
  }
  const lines = (name: string, values: object[]) =>
    writeFileSync(join(folder, 'data', `${name}.jsonl`), values.map((v) => JSON.stringify(v)).join('\n'));
  lines('pairs', names.map((name, i) => ({ image: name, text: `a square of number ${i}` }))); // prettier-ignore
  lines('pages', names.map((name, i) => ({ parts: [{ image: name }, { text: `number ${i}` }] }))); // prettier-ignore
  lines('eval', names.map((name, i) => ({ image: name, answer: i % 2 ? 'odd' : 'even' }))); // prettier-ignore
  for (const name of ['pretrain-vision', 'pretrain-lm']) first[name] = await command(name);
  first['train'] = await command('train', '--json');
}, 120_000);
afterAll(() => rmSync(folder, { recursive: true }));

it('holds the configuration of each stage, and train --json prints its metrics', () => {
  for (const [name, { status, stderr }] of Object.entries(first)) expect(status, `${name}: ${stderr}`).toBe(0);
  for (const stage of ['vision', 'lm', 'flamingo']) {
    expect(readFileSync(join(folder, 'run', stage, 'config.yaml'), 'utf8')).toMatch(/^# What flamingo .*\nseed: 3\n/);
  }
  const printed = first['train']!.stdout.trim().split('\n').map((line) => JSON.parse(line) as object); // prettier-ignore
  expect(printed).toEqual(readMetrics(join(folder, 'run', 'flamingo', 'metrics.jsonl')));
});

describe('a later command with another configuration', () => {
  it.each([
    ['train --fresh', 'vision.model.activation=scaled-gelu', /vision\.model\.activation: "scaled-gelu" now, "scaled-relu" before/],
    ['eval', 'lm.model.outputScale=2', /lm\.model\.outputScale: 2 now, 1 before/],
    ['generate', 'flamingo.xattn.numHeads=4', /flamingo\.xattn\.numHeads: 4 now, 2 before/],
    ['eval', 'vision.model.imageSize=64', /vision\.model\.imageSize: 64 now, 48 before/],
    ['eval', 'flamingo.framesPerClip=2', /flamingo\.framesPerClip: 2 now, 4 before/],
    ['eval', 'seed=4', /seed: 4 now, 3 before/],
    ['train', 'flamingo.datasets.pages.batch=3', /flamingo\.datasets\.pages\.batch: 3 now, 2 before/],
  ])('%s --set %s is rejected with both values', async (line, set, message) => {
    const [name, ...flags] = line.split(' ');
    const { status, stderr } = await command(name!, ...flags, '--set', set, ...(name === 'generate' ? ask : []));
    expect(stderr).toMatch(message);
    expect(status).toBe(1);
  }, 60_000); // prettier-ignore

  it('may change keys that the weights do not depend on', async () => {
    const { status, stderr } = await command(
      'generate',
      '--set',
      'lm.precision=int8',
      '--set',
      'vision.batch=2',
      ...ask,
    );
    expect(status, stderr).toBe(0);
  }, 60_000);
});

it('rejects a run whose frozen models were replaced', async () => {
  const tokenizer = join(folder, 'run', 'lm', 'tokenizer.json');
  const whole = readFileSync(tokenizer, 'utf8');
  writeFileSync(tokenizer, `${whole} `);
  const { status, stderr } = await command('generate', ...ask);
  writeFileSync(tokenizer, whole);
  expect(stderr).toMatch(
    /run\/flamingo was trained with other frozen models:\n {2}lm\/tokenizer\.json: "sha256:\w+" now, "sha256/,
  );
  expect(status).toBe(1);
}, 60_000);

it('names a damaged summary, and writes it again once it is removed', async () => {
  const file = join(folder, 'run', 'flamingo', 'summary.json');
  const whole = readFileSync(file, 'utf8');
  writeFileSync(file, whole.slice(0, 40));
  const damage =
    /run\/flamingo\/summary\.json: expected the summary that train wrote, got an error: .*\. Remove the file and run flamingo train CONFIG, which writes it again\.\n/;
  for (const name of ['train', 'eval']) {
    const { status, stderr } = await command(name);
    expect(stderr).toMatch(damage);
    expect(status).toBe(1);
  }
  const { status, stdout } = await flamingo(folder, 'info', 'run');
  expect(status).toBe(0);
  expect(stdout).toMatch(new RegExp(`summary      DAMAGED: ${damage.source}`));
  rmSync(file);
  const again = await command('train');
  expect(again.status, again.stderr).toBe(0);
  expect(JSON.parse(readFileSync(file, 'utf8'))).toMatchObject({ steps: STEPS, model: JSON.parse(whole).model });
}, 60_000);

it('reports a finished stage before it selects a backend or reads data, and adds steps to it', async () => {
  const again = await command('pretrain-lm');
  expect(again).toMatchObject({ status: 0, stdout: '' });
  expect(again.stderr).toBe(
    'pretrain-lm: all 3 steps are done. Raise lm.train.steps to add steps, or start over with --fresh.\n',
  );
  const before = losses('run', 'lm');
  const more = await command('pretrain-lm', '--set', 'lm.train.steps=5');
  expect(more.status, more.stderr).toBe(0);
  expect(losses('run', 'lm').slice(0, STEPS)).toEqual(before);
  expect(losses('run', 'lm')).toHaveLength(5);
}, 60_000);

it('gives the same losses with any featureCacheMiB', async () => {
  const args = ['train', config, '--fresh', '--set', 'out=bounded', '--set', 'flamingo.featureCacheMiB=0'];
  mkdirSync(join(folder, 'bounded'));
  for (const stage of ['vision', 'lm']) symlinkSync(join(folder, 'run', stage), join(folder, 'bounded', stage));
  const all = await flamingo(folder, ...args.slice(0, -2), '--set', 'out=bounded');
  expect(all.status, all.stderr).toBe(0);
  const unbounded = losses('bounded', 'flamingo');
  expect(await flamingo(folder, ...args)).toMatchObject({ status: 0 });
  expect(losses('bounded', 'flamingo')).toEqual(unbounded);
}, 60_000);

it('--fresh empties a stage folder that is a link, and keeps the link', async () => {
  const disk = join(folder, 'disk');
  mkdirSync(disk);
  writeFileSync(join(disk, 'old'), '');
  mkdirSync(join(folder, 'linked'));
  symlinkSync(disk, join(folder, 'linked', 'lm'));
  const { status, stderr } = await command('pretrain-lm', '--fresh', '--set', 'out=linked');
  expect(status, stderr).toBe(0);
  expect(lstatSync(join(folder, 'linked', 'lm')).isSymbolicLink()).toBe(true);
  expect(readdirSync(disk)).toContain('model.safetensors');
  expect(existsSync(join(disk, 'old'))).toBe(false);
}, 60_000);

it('allows one process per stage, until that process is killed', async () => {
  const args = ['pretrain-lm', config, '--set', 'out=two', '--set', 'lm.train.steps=100000'];
  const running = start(folder, args);
  while (losses('two', 'lm').length === 0) await new Promise((resolve) => setTimeout(resolve, 10));
  const second = await flamingo(folder, ...args);
  expect(second.stderr).toMatch(
    new RegExp(
      `pretrain-lm: process ${running.process.pid} on this host already writes to this folder, see two/lm/run\\.lock`,
    ),
  );
  expect(second.status).toBe(1);
  // Kills only the command, as a supervisor does, not its process group.
  running.process.kill('SIGKILL');
  await running.ended;
  const done = losses('two', 'lm').length;
  const third = await flamingo(folder, ...args.slice(0, -1), `lm.train.steps=${done + 1}`);
  expect(third.status, third.stderr).toBe(0);
  expect(losses('two', 'lm')).toHaveLength(done + 1);
}, 90_000);
