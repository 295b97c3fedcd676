import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { serializeSafetensors } from '@flamingo-ts/checkpoint';
import { useBackend } from '@flamingo-ts/kernels';
import { maxError } from '@flamingo-ts/testing';
import { afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import type { GoldenHandler } from './case';
import { runGoldens } from './frame';

/** Handles cases of a made-up kind: y = factor * x. */
const scaling: GoldenHandler = {
  matches: (c) => c.meta.layer.kind === 'scaling',
  run: async (c) => {
    const error = maxError(tf.mul(c.tensor('x'), c.meta.layer.factor), c.tensors['y']!);
    return { error, pass: error < 1e-6, note: c.meta.note };
  },
};

let root: string;
let lines: string[];
beforeAll(() => useBackend('cpu'));
beforeEach(() => {
  root = join(mkdtempSync(join(tmpdir(), 'goldens-')), 'area');
  mkdirSync(root);
  lines = [];
});
afterEach(() => rmSync(dirname(root), { recursive: true }));

function put(path: string, content: unknown): void {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), typeof content === 'string' ? content : JSON.stringify(content));
}

function putScaling(path: string, factor: number, y: readonly number[], extra: object = {}): void {
  put(`${path}.json`, { layer: { kind: 'scaling', factor }, ...extra });
  const store = (values: readonly number[]) => ({ shape: [values.length], data: Float32Array.from(values) });
  writeFileSync(join(root, `${path}.safetensors`), serializeSafetensors({ x: store([1, 2]), y: store(y) }));
}

const run = (...handlers: GoldenHandler[]) => runGoldens([root], handlers, (line) => lines.push(line));

it('runs pairs, single files and folders, and reports which passed', async () => {
  putScaling('double', 2, [2, 4], { note: 'in float32' });
  putScaling('deep/triple', 3, [3, 7]);
  putScaling('decode/steps', 4, [4, 8], { uses: { numbers: [1] } });
  writeFileSync(join(root, 'decode/numbers.safetensors'), serializeSafetensors({}));
  put('table.json', { rows: [1] });
  putScaling('model/golden', 1, [1, 2]);
  put('model/config.json', { width: 2 });
  put('index.json', {});
  put('NOTES.md', 'notes');
  const table: GoldenHandler = { matches: (c) => 'rows' in c.meta, run: async () => ({ error: 0, pass: true }) };

  expect(await run(scaling, table)).toBe(false);
  expect(lines.map((line) => line.split(/\s\s+/))).toEqual([
    ['area/double', '0', 'pass', 'in float32'],
    ['area/table', '0', 'pass'],
    ['area/decode/steps', '0', 'pass'],
    ['area/deep/triple', '1.4e-1', 'fail'],
    ['area/model', '0', 'pass'],
    ['4 passed, 1 failed'],
  ]);
});

it('succeeds if all cases pass, and leaves no tensors', async () => {
  putScaling('double', 2, [2, 4]);
  const before = tf.memory().numTensors;
  expect(await run(scaling)).toBe(true);
  expect(tf.memory().numTensors).toBe(before);
});

it('fails a case of unknown kind by name', async () => {
  put('strange.json', { other: 1 });
  expect(await run(scaling)).toBe(false);
  expect(lines[0]).toMatch(/^area\/strange +- +fail +unknown kind$/);
  expect(lines[1]).toBe('0 passed, 1 failed');
});

it('fails on NaN', async () => {
  put('nan.json', {});
  expect(await run({ matches: () => true, run: async () => ({ error: NaN, pass: true }) })).toBe(false);
  expect(lines[1]).toBe('0 passed, 1 failed');
});

it('fails only the case that throws or has a broken file', async () => {
  putScaling('a', 2, [2, 4]);
  putScaling('b', 2, [2, 4, 6]);
  putScaling('c', 2, [2, 4]);
  writeFileSync(join(root, 'c.safetensors'), new Uint8Array(20));
  put('d.json', '{');
  writeFileSync(join(root, 'e.safetensors'), new Uint8Array(20));
  expect(await run(scaling)).toBe(false);
  expect(lines.map((line) => line.replace(/  +/g, ' '))).toEqual([
    'area/a 0 pass',
    'area/b - fail cannot compare shapes: expected [3], got [2].',
    expect.stringMatching(/^area\/c - fail .*c\.safetensors is not a valid safetensors file/),
    expect.stringMatching(/^area\/d - fail .*d\.json is not valid JSON/),
    'area/e - fail unknown kind',
    '1 passed, 4 failed',
  ]);
});

it('reads other files of a case', async () => {
  put('one/golden.json', { uses: 'config.json' });
  put('one/config.json', { width: 3 });
  const handler: GoldenHandler = {
    matches: (c) => 'uses' in c.meta,
    run: async (c) => ({ error: c.sibling(c.meta.uses).meta.width, pass: true }),
  };
  expect(await run(handler)).toBe(true);
  expect(lines[0]).toMatch(/^area\/one +3.0e\+0 +pass$/);
});

it('throws if a folder is missing or contains no case', async () => {
  await expect(runGoldens([join(root, 'none')], [], () => {})).rejects.toThrow(
    /there is no folder .*none\. Pass folders/,
  );
  await expect(run(scaling)).rejects.toThrow(/area contains no reference case/);
});
