import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readMetrics } from '../src/stages/metrics';
import { flamingo, TINY, writeConfig, type Outcome } from './command';

// From a user's own images to an answer, using only the command.
const folder = mkdtempSync(join(tmpdir(), 'flamingo-folder-run-'));
const data = join(folder, 'my-data');
const { pages, pairs, clips } = TINY.flamingo.datasets;
const config = writeConfig(folder, {
  ...TINY,
  data: { kind: 'folder', path: 'my-data' },
  vision: { ...TINY.vision, train: { ...TINY.vision.train, steps: 12 } },
  flamingo: { ...TINY.flamingo, datasets: { pages, pairs, clips } },
});
afterAll(() => rmSync(folder, { recursive: true }));

const COLORS = ['red', 'green', 'blue', 'gold'];
const SHAPES: Record<string, (x: number) => string> = {
  circle: (x) => `<circle cx="${x}" cy="40" r="20"/>`,
  square: (x) => `<rect x="${x - 18}" y="22" width="36" height="36"/>`,
  triangle: (x) => `<path d="M${x} 18 L${x + 22} 60 L${x - 22} 60 Z"/>`,
};

/** Draws one shape into a file whose name ends in its format. */
async function draw(file: string, shape: string, color: string, x = 60): Promise<string> {
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="120" height="80"><rect width="120" height="80" fill="white"/><g fill="${color}">${SHAPES[shape]!(x)}</g></svg>`;
  await sharp(Buffer.from(svg)).toFile(join(data, file));
  return file;
}

/** Draws the frames of a shape that moves to the right. */
const moving = (name: string, color: string, count: number) =>
  Promise.all(
    Array.from({ length: count }, (_, i) => draw(`clips/${name}-${i}.png`, 'square', color, 20 + (80 * i) / count)),
  );

const lines = (name: string, values: readonly unknown[]) =>
  writeFileSync(join(data, `${name}.jsonl`), values.map((v) => `${JSON.stringify(v)}\n`).join(''));

const done: Record<string, Outcome> = {};

beforeAll(async () => {
  mkdirSync(join(data, 'clips'), { recursive: true });
  const things = COLORS.flatMap((color) => Object.keys(SHAPES).map((shape) => ({ color, shape })));
  const formats = ['png', 'jpg', 'webp'];
  const files = await Promise.all(
    things.map(({ color, shape }, i) => draw(`${color}-${shape}.${formats[i % 3]}`, shape, color)),
  );
  const broken = 'broken.png';
  writeFileSync(join(data, broken), readFileSync(join(data, files[0]!)).subarray(0, 60));
  lines('pairs', [
    ...things.map(({ color, shape }, i) => ({ image: files[i], text: `a ${color} ${shape}` })),
    { image: broken, text: 'a broken file' },
  ]);
  lines(
    'pages',
    things.map(({ color }, i) => {
      const other = (i + 3) % files.length;
      const parts = [{ text: 'Which color?' }, { image: files[i] }, { text: color }];
      const more = [{ image: files[other] }, { text: things[other]!.color }];
      return { parts: [...parts, ...(i % 4 === 0 ? [{ image: broken }] : []), ...more] };
    }),
  );
  // Clips with fewer, as many and more frames than the model takes.
  lines('clips', [
    { frames: await moving('short', 'red', 2), text: 'a red square moves to the right' },
    { frames: await moving('even', 'green', 4), text: 'a green square moves to the right' },
    { frames: await moving('long', 'blue', 9), text: 'a blue square moves to the right' },
  ]);
  lines('eval', [
    ...things.map(({ color }, i) => ({ image: files[i], answer: color })),
    { image: broken, answer: 'red' },
  ]);

  for (const command of ['pretrain-vision', 'pretrain-lm', 'train', 'eval']) {
    done[command] = await flamingo(folder, command, config, ...(command === 'eval' ? ['--json'] : []));
  }
}, 300_000);

describe('a folder of images', () => {
  it('trains every stage', () => {
    for (const [command, stage] of [
      ['pretrain-vision', 'vision'],
      ['pretrain-lm', 'lm'],
      ['train', 'flamingo'],
    ] as const) {
      expect(done[command]).toMatchObject({ status: 0 });
      const losses = readMetrics(join(folder, 'run', stage, 'metrics.jsonl')).map((m) => m.loss);
      expect(losses).toHaveLength(stage === 'vision' ? 12 : 24);
      expect(losses.every(Number.isFinite)).toBe(true);
      expect(done[command]!.stderr).toMatch(
        new RegExp(`^${command}: \\d+ steps, loss .*, \\d+\\.\\d% of the time waiting for data`, 'm'),
      );
    }
    const last = readMetrics(join(folder, 'run', 'flamingo', 'metrics.jsonl')).at(-1)!;
    expect(Object.keys(last.losses)).toEqual(['pages', 'pairs', 'clips']);
  });

  it('learns the words of its texts', () => {
    const losses = readMetrics(join(folder, 'run', 'lm', 'metrics.jsonl')).map((m) => m.loss);
    expect(losses.at(-1)).toBeLessThan(0.8 * losses[0]!);
  });

  it('counts, names and skips an unreadable image once', () => {
    for (const command of ['pretrain-vision', 'train', 'eval']) {
      expect(done[command]!.stderr).toMatch(/1 image could not be read and was skipped:\n {2}broken\.png: .+\n$/);
    }
    expect(done['pretrain-lm']!.stderr).not.toContain('broken.png');
  });

  it('asks the questions of eval.jsonl under all conditions, except the one with an unreadable image', () => {
    expect(done['eval']).toMatchObject({ status: 0 });
    const { split, rows } = JSON.parse(done['eval']!.stdout) as { split: string; rows: object[] };
    expect(split).toBe('eval');
    expect(rows).toMatchObject(
      ['real', 'blank', 'swapped'].flatMap((condition) =>
        [0, 2].map((shots) => ({ condition, shots, count: 12, majority: 0.25 })),
      ),
    );
  });
});

describe('flamingo generate', () => {
  const generate = (...args: string[]) => flamingo(folder, 'generate', config, ...args);
  const examples = ['--example', 'my-data/red-circle.png=red', '--example', 'my-data/green-square.jpg=green'];

  it('chooses among answers after examples with images', async () => {
    const asked = ['--image', 'my-data/blue-circle.png', ...examples, '--candidates', 'red, green, blue', '--json'];
    const { status, stdout } = await generate(...asked);
    expect(status).toBe(0);
    const { answer, probabilities } = JSON.parse(stdout) as { answer: string; probabilities: Record<string, number> };
    expect(Object.keys(probabilities)).toEqual(['red', 'green', 'blue']);
    const values = Object.values(probabilities);
    expect(values.reduce((a, b) => a + b)).toBeCloseTo(1, 6);
    expect(probabilities[answer]).toBe(Math.max(...values));
  }, 60_000);

  it('generates text', async () => {
    const { status, stdout } = await generate('--image', 'my-data/blue-circle.png', ...examples, '--json');
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toEqual({ answer: expect.any(String) });
  }, 60_000);

  it('names a missing image, and a file that is not an image', async () => {
    const gone = await generate('--image', 'gone.png', ...examples);
    expect(gone).toMatchObject({ status: 1, stdout: '' });
    expect(gone.stderr).toMatch(/generate: \S+gone\.png cannot be read \(.*no such file.*\), expected an image\. Pass/);
    const text = await generate('--image', 'my-data/red-circle.png', '--example', 'config.yaml=red');
    expect(text).toMatchObject({ status: 1, stdout: '' });
    expect(text.stderr).toMatch(/generate: \S+config\.yaml cannot be read \(.*unsupported image format\)/);
  }, 60_000);

  it('names the stage to run if the run folder has no model', async () => {
    const { status, stderr } = await generate('--image', 'my-data/red-circle.png', '--set', 'out=elsewhere');
    expect(status).toBe(1);
    expect(stderr).toMatch(
      /elsewhere\/vision\/model\.safetensors: there is no trained model.*flamingo pretrain-vision/,
    );
  }, 60_000);

  it('names a truncated model file, and how to write it again', async () => {
    const file = join(folder, 'cut', 'flamingo', 'model.safetensors');
    cpSync(join(folder, 'run'), join(folder, 'cut'), { recursive: true });
    truncateSync(file, readFileSync(file).length - 1);
    const { status, stderr } = await generate('--image', 'my-data/red-circle.png', '--set', 'out=cut');
    expect(status).toBe(1);
    expect(stderr).toMatch(
      /cut\/flamingo\/model\.safetensors is not a valid safetensors file.*truncated.*flamingo train CONFIG/,
    );
    expect(await flamingo(folder, 'train', config, '--set', 'out=cut')).toMatchObject({ status: 0 });
    expect(readFileSync(file).equals(readFileSync(join(folder, 'run', 'flamingo', 'model.safetensors')))).toBe(true);
  }, 60_000);
});
