import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { clipFlops, decodeFlops, trainFlops } from './flops';
import { BENCH_SPECS } from '../configs';
import { readSpecs, type DecodeSpec, type TrainSpec } from './spec';

const BIN = fileURLToPath(new URL('../../bin/flamingo.js', import.meta.url));

const model = {
  lm: { family: 'gpt2', layers: 2, hidden: 16, heads: 2, vocab: 50, positions: 32 },
  xattn: { every: 2, heads: 2, head_dim: 8, ff_mult: 4 },
  resampler: { depth: 1, heads: 2, head_dim: 8, latents: 4, ff_mult: 4 },
  vision: { dim: 16, positions: 9, frames: 1 },
  batch: 2,
  tokens: 12,
  images: 3,
};
const specs = {
  'train-tiny': { kind: 'train', ...model },
  'decode-tiny': { kind: 'decode', ...model, batch: 1, new_tokens: 4 },
};

describe('flamingo bench', () => {
  let folder: string;
  let file: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'bench-'));
    file = join(folder, 'specs.json');
    writeFileSync(file, JSON.stringify(specs));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  const run = (...args: string[]) => {
    const { stdout, stderr, status } = spawnSync(
      process.execPath,
      [BIN, 'bench', ...args, '--specs', file, '--seconds', '0', '--backend', 'cpu'],
      { encoding: 'utf8' },
    );
    return { lines: stdout.trim().split('\n'), stderr, status };
  };

  it('prints a line for each workload with the same keys as the peer', () => {
    const { lines, status, stderr } = run('--json');
    expect(status, stderr).toBe(0);
    const [train, decode] = lines.map((line) => JSON.parse(line));
    expect(train).toMatchObject({ workload: 'train-tiny', dtype: 'float32', threads: 1, metric: 'tokens_per_second' });
    expect(decode).toMatchObject({ workload: 'decode-tiny', metric: 'new_tokens_per_second' });
    for (const result of [train, decode]) {
      expect(result.runs).toBeGreaterThanOrEqual(3);
      expect(result.peak_rss_mib).toBeGreaterThan(20);
      expect(result.gflops / result.roof_gflops).toBeCloseTo(result.share_of_roof, 2);
    }
    expect(train.value * train.step_seconds).toBeCloseTo(24, 6);
    expect(decode.prefill_seconds + 3 * decode.token_seconds).toBeGreaterThan(0);
  });

  it('profiles kernels', () => {
    const { lines, status, stderr } = run('train-tiny', '--profile', '--json');
    expect(status, stderr).toBe(0);
    const { kernels, seconds, outside } = JSON.parse(lines[0]!);
    const linear = kernels.find((k: { kernel: string }) => k.kernel === 'FlamingoLinear');
    expect(linear.calls).toBeGreaterThan(20);
    const inside = kernels.reduce((sum: number, k: { seconds: number }) => sum + k.seconds, 0);
    expect(inside + outside).toBeCloseTo(seconds, 6);
    expect(outside).toBeGreaterThan(0);
  });

  it('lists the known workloads', () => {
    expect(run('train-huge').stderr).toMatch(/unknown workload train-huge, expected one of train-tiny, decode-tiny/);
  });

  it('names the wrong key of a workload file', () => {
    const wrong = join(folder, 'wrong.json');
    writeFileSync(wrong, JSON.stringify({ mine: { ...specs['train-tiny'], batch: 0 } }));
    expect(() => readSpecs(wrong)).toThrow(/wrong.json is not a valid workload file[\s\S]*mine.batch/);
  });
});

describe('counted operations', () => {
  it('of a step are those of its matrices and attention', () => {
    const spec = { kind: 'train', ...model } as TrainSpec;
    const rows = 24;
    const layer = rows * (2 * 12 * 16 ** 2 + 4 * 6 * 16);
    const head = 2 * rows * 16 * 50;
    const [latents, features] = [2 * 3 * 4, 2 * 3 * 9];
    const gated = rows * 2 * (2 * 16 * 16 + 2 * 16 * 64) + latents * 2 * 2 * 16 * 16 + rows * 4 * 4 * 16;
    const resampler =
      latents * 2 * (2 * 16 * 16 + 2 * 16 * 64) + (features + latents) * 2 * 2 * 16 * 16 + latents * 4 * 13 * 16;
    expect(trainFlops(spec)).toBe(2 * layer + head + layer + head + 3 * (gated + resampler));
  });

  it('of a further token do not include the images', () => {
    const { prefill, token } = decodeFlops({ kind: 'decode', ...model, batch: 1, new_tokens: 4 } as DecodeSpec);
    const layer = 2 * 12 * 16 ** 2 + 4 * 12 * 16;
    expect(token).toBe(2 * layer + 2 * 16 * 50 + 2 * (2 * 16 * 16 + 2 * 16 * 64) + 4 * 4 * 16);
    expect(prefill).toBeGreaterThan(12 * 2 * 2 * 12 * 16 ** 2);
  });

  it("of CLIP's B/16 at 224 are about 35 GFLOP, as its authors count", () => {
    const config = { imageSize: 224, patchSize: 16, visualSize: 768, numLayers: 12 };
    expect(clipFlops(config as never) / 1e9).toBeCloseTo(35.1, 0);
  });

  it('exist for every shipped workload', () => {
    const specs = { ...readSpecs(BENCH_SPECS), ...readSpecs(join(dirname(BENCH_SPECS), 'growth.json')) };
    for (const spec of Object.values(specs)) {
      if (spec.kind === 'train') expect(trainFlops(spec)).toBeGreaterThan(1e11);
      if (spec.kind === 'decode') expect(decodeFlops(spec).prefill).toBeGreaterThan(decodeFlops(spec).token);
    }
  });
});
