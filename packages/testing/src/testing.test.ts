import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import * as tf from '@tensorflow/tfjs-core';
import { serializeSafetensors } from '@flamingo-ts/checkpoint';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  checkGradient,
  describeBackends,
  expectClose,
  expectNoLeak,
  loadReference,
  maxError,
  relativeError,
  stateFrom,
} from './index';

describeBackends('describeBackends', (backend) => {
  it('runs each body on its backend', () => {
    expect(tf.getBackend()).toBe(backend);
    expectClose(tf.add(tf.ones([2]), 1), [2, 2], { atol: 0 });
  });
});

describe('startsNative', () => {
  /** What it prints in a separate process, on a machine without oneDNN. */
  function withoutOneDnn(env: Record<string, string>): string {
    const script = `
      const { startsNative } = await import('@flamingo-ts/testing');
      console.log(await startsNative().catch((error) => error.message));`;
    const args = ['--conditions=@flamingo-ts/source', '--import', 'tsx', '--input-type=module', '-e', script];
    return execFileSync(process.execPath, args, {
      env: { ...process.env, FLAMINGO_ONEDNN: '/nowhere/libdnnl.so.3', ...env },
      encoding: 'utf8',
      cwd: import.meta.dirname,
    });
  }

  it('is false without oneDNN, and an error in continuous integration', () => {
    expect(withoutOneDnn({ CI: '' })).toBe('false\n');
    expect(withoutOneDnn({ CI: 'true' })).toMatch(/backend 'native' cannot be used: oneDNN was not found/);
  });
});

describe('closeness', () => {
  it('measures relative errors', () => {
    expect(relativeError([3, 4], [3, 0])).toBeCloseTo(4 / 3, 12);
    expect(maxError([1, 2.5], [1, 2])).toBe(0.25);
    expect(maxError({ shape: [1], data: BigInt64Array.of(3n) }, 3)).toBe(0);
  });

  it('the error against a zero reference is 0 or infinite', () => {
    expect(relativeError([0], [0])).toBe(0);
    expect(relativeError([1e-30], [0])).toBe(Infinity);
    expect(maxError([0], [0])).toBe(0);
  });

  it('a NaN is never close', () => {
    expect(maxError([1, NaN], [1, 1])).toBeNaN();
    expect(relativeError([NaN], [1])).toBeNaN();
    expect(() => expectClose([NaN, 5], [1, 5], { atol: 1e9 })).toThrow(/element \[0\] is NaN/);
  });

  it('names the worst element and both values', () => {
    const actual = { shape: [2, 2], data: [1, 2, 3.5, 4] };
    const expected = { shape: [2, 2], data: [1, 2.1, 3, 4] };
    expect(() => expectClose(actual, expected, { rtol: 0.1 })).toThrow(
      /element \[1, 0\] is 3.5, expected 3: .*5.00e-1/,
    );
    expectClose(actual, expected, { rtol: 0.125 });
  });

  it('rejects other shapes', () => {
    expect(() => maxError({ shape: [2], data: [1, 2] }, { shape: [1, 2], data: [1, 2] })).toThrow(
      /expected \[1, 2\], got \[2\]/,
    );
    expect(() => relativeError([1], [1, 2])).toThrow(/expected 2 values, got 1/);
  });
});

describe('checkGradient', () => {
  it('accepts a correct gradient and rejects a wrong one', () => {
    const x = tf.tensor2d([0.3, -0.8, 1.2, 0.1, 0.5, -0.4], [2, 3]);
    checkGradient((a, b) => tf.matMul(tf.tanh(a!), b!, false, true), [x, tf.mul(x, 2)], { rtol: 2e-3 });
    const wrong = tf.customGrad((a) => ({ value: tf.square(a as tf.Tensor), gradFunc: (dy) => tf.mul(dy, 2) }));
    expect(() => checkGradient((a) => wrong(a!), [x], { rtol: 1e-2 })).toThrow(/input 0, element \d+/);
  });

  it('leaves no tensors behind', async () => {
    const x = tf.tensor1d([1, 2]);
    await expectNoLeak(() => checkGradient((a) => tf.square(a!), [x], { rtol: 1e-2 }));
  });
});

describe('expectNoLeak', () => {
  it('counts what is left, not what is returned', async () => {
    await expectNoLeak(() => tf.ones([2]));
    await expect(expectNoLeak(() => void tf.ones([2]))).rejects.toThrow(/1 tensors leaked/);
  });
});

describe('loadReference', () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'reference-'));
    writeFileSync(join(folder, 'pair.json'), '{"kind":"sum"}');
    const tensors = {
      x: { shape: [2], data: Float32Array.of(1, 2) },
      ids: { shape: [1, 2], data: BigInt64Array.of(7n, -1n) },
    };
    writeFileSync(join(folder, 'pair.safetensors'), serializeSafetensors(tensors));
    writeFileSync(join(folder, 'alone.json'), '[1]');
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  it.each(['pair', 'pair.json', 'pair.safetensors'])('reads both files of %s', (name) => {
    const ref = loadReference(pathToFileURL(join(folder, name)));
    expect(ref.meta).toEqual({ kind: 'sum' });
    expect(ref.tensors['x']).toEqual({ dtype: 'F32', shape: [2], data: Float32Array.of(1, 2) });
    const ids = ref.tensor('ids');
    expect([ids.dtype, ids.arraySync()]).toEqual(['int32', [[7, -1]]]);
  });

  it('returns the tensors below a name', () => {
    const state = stateFrom(loadReference(join(folder, 'pair')), 'x');
    expect(state).toEqual({ '': { shape: [2], data: Float32Array.of(1, 2) } });
  });

  it('reads a JSON file without tensors', () => {
    const ref = loadReference(join(folder, 'alone'));
    expect([ref.meta, ref.tensors]).toEqual([[1], {}]);
  });

  it('says what is missing', () => {
    expect(() => loadReference(join(folder, 'none'))).toThrow(/neither .*none\.json nor .*none\.safetensors exists/);
    expect(() => loadReference(join(folder, 'pair')).tensor('y')).toThrow(/no tensor y, only ids, x/);
  });
});
