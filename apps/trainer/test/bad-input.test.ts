import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { start, TINY, writeConfig } from './command';
import { command } from './in-process';

const folder = mkdtempSync(join(tmpdir(), 'flamingo-bad-input-'));
const out = join(folder, 'run');
const { pairs } = TINY.flamingo.datasets;
const config = writeConfig(folder, {
  ...TINY,
  out,
  backend: 'cpu',
  data: { kind: 'folder', path: 'data' },
  flamingo: { ...TINY.flamingo, datasets: { pairs } },
  lm: { ...TINY.lm, batch: 2, train: { ...TINY.lm.train, steps: 2 } },
});
const tokenizer = join(out, 'lm', 'tokenizer.json');

beforeAll(() => {
  mkdirSync(join(folder, 'data'));
  const lines = Array.from({ length: 20 }, (_, i) => ({ image: `${i}.png`, text: `the image of number ${i}` }));
  writeFileSync(join(folder, 'data', 'pairs.jsonl'), lines.map((line) => JSON.stringify(line)).join('\n'));
});
afterEach(() => void vi.restoreAllMocks());
afterAll(() => rmSync(folder, { recursive: true }));

describe('names a wrong argument and the expected ones', () => {
  it.each([
    [['trian', config], /unknown command 'trian'[\s\S]*Did you mean train\?/],
    [['train'], /missing required argument 'config'/],
    [['train', 'none.yaml'], /Config none\.yaml: there is no such file/],
    [['train', config, '--set', 'steps'], /'--set <key=value>' argument 'steps' is invalid\. It must be KEY=VALUE/],
    [
      ['train', config, '--set', 'lm.bacth=3', '--set', 'telescope=1'],
      /lm\.bacth: unknown key, did you mean batch\?\n.*telescope: unknown key, expected one of: seed/,
    ],
    [['eval', config, '--split', 'all'], /data has no split all\. Remove --split/],
    [['generate', config], /required option '--image <file>' not specified/],
    [
      ['generate', config, '--image', 'a.png', '--example', 'b.png'],
      /argument 'b\.png' is invalid\. It must be FILE=ANSWER/,
    ],
    [
      ['generate', config, '--image', 'a.png', '--candidates', 'red'],
      /argument 'red' is invalid\. It must be two or more/,
    ],
    [['quickstart', '--seeds', 'three'], /argument 'three' is invalid\. It must be a whole number of at least 1/],
    [['quickstart', '--seed', '-1'], /argument '-1' is invalid\. It must be a whole number of at least 0/],
    [['quickstart', '--backend', 'cuda'], /argument 'cuda' is invalid\. Allowed choices are auto, native/],
    [['quickstart', '--unseen-style', 'round'], /argument 'round' is invalid\. Allowed choices are outlined, flat/],
    [['plan', '9b', '--devices', '0'], /argument '0' is invalid\. It must be a whole number of at least 1/],
    [['plan', '4b'], /expected one of 3b, 9b, 80b, got 4b/],
  ])('%j', async (args, message) => {
    const { status, text } = await command(...args);
    expect(text).toMatch(message);
    expect(status).toBe(1);
  });
});

describe('a run folder that does not match', () => {
  it('names the stage to run first', async () => {
    const { status, text } = await command('train', config);
    expect(text).toMatch(/vision\/model\.safetensors: there is no trained model.*Run first: flamingo pretrain-vision/);
    expect(status).toBe(1);
  });

  it('names a missing or truncated tokenizer, and how to recreate it', async () => {
    expect(await command('pretrain-lm', config)).toMatchObject({ status: 0 });
    const whole = readFileSync(tokenizer, 'utf8');
    writeFileSync(tokenizer, whole.slice(0, whole.length / 2));
    const cut = await command('pretrain-lm', config);
    expect(cut.text).toMatch(/tokenizer\.json: expected the tokenizer.*Remove the file.*run flamingo pretrain-lm/);
    expect(cut.status).toBe(1);
    rmSync(tokenizer);
    expect(await command('pretrain-lm', config)).toMatchObject({ status: 0 });
    expect(readFileSync(tokenizer, 'utf8')).toBe(whole);
  }, 60_000);

  it('names a vocabulary size that differs from the trained one', async () => {
    const { status, text } = await command('pretrain-lm', config, '--set', 'lm.model.vocabSize=260');
    expect(text).toMatch(
      /run\/lm was made with another configuration:\n {2}lm\.model\.vocabSize: 260 now, 320 before\n/,
    );
    expect(status).toBe(1);
  });

  it('is not resumed with another configuration', async () => {
    const { status, text } = await command('pretrain-lm', config, '--set', 'lm.batch=4');
    expect(text).toMatch(
      /pretrain-lm: the model in .*lm was made with another configuration:\n {2}lm\.batch: 4 now, 2 before\n.*--fresh/,
    );
    expect(status).toBe(1);
  });
});

describe('data that does not match the configuration', () => {
  it('names a missing folder', async () => {
    const { status, text } = await command('pretrain-lm', config, '--fresh', '--set', 'data.path=nowhere');
    expect(text).toMatch(/Data folder \S+nowhere: there is no such folder\. Correct data\.path/);
    expect(status).toBe(1);
  });

  it('ends a stage if no image can be read, and names the first', async () => {
    const { status, text } = await command('pretrain-vision', config);
    expect(text).toMatch(/pretrain-vision: none of the 8 images of a step could be read.*\d+\.png: .*no such file/);
    expect(text).toMatch(/[2-8] images could not be read and were skipped:\n/);
    expect(status).toBe(1);
  });

  it('names a dataset that the mixture requires and the folder lacks, before any stage', async () => {
    const clips = JSON.stringify({ weight: 1, batch: 2, maxTokens: 24 });
    const { status, text } = await command('pretrain-vision', config, '--set', `flamingo.datasets.clips=${clips}`);
    expect(text).toMatch(/the data has no dataset "clips"\. Add it to the data or remove flamingo\.datasets\.clips/);
    expect(status).toBe(1);
  });
});

describe('a missing native library', () => {
  const env = { FLAMINGO_ONEDNN: '/nowhere/libdnnl.so' };

  it('ends a run that requires it, with the searched paths and how to install it', async () => {
    const { status, stdout, stderr } = await start(folder, ['train', config, '--set', 'backend=native'], env).ended;
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
    expect(stderr).toMatch(/backend 'native' cannot be used: oneDNN was not found\. Looked at: \/nowhere\/libdnnl\.so/);
    expect(stderr).toContain('npm run setup:onednn');
  }, 60_000);

  it('is skipped by auto with a message', async () => {
    const { stderr } = await start(folder, ['train', config, '--set', 'backend=auto'], env).ended;
    expect(stderr).toMatch(/^backend (?!native)\w+ \(the fastest that works here.*not native: oneDNN was not found/m);
  }, 60_000);
});
