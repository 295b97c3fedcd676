import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectNoLeak } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { toBfloat16, widened } from './bfloat16';
import { FrozenTable } from './frozen-table';
import { embedding } from './gather-rows';
import { namedParams, stateOf } from './params';

const values = Float32Array.from({ length: 12 }, (_, i) => Math.PI ** (i - 6));
const rounded = widened(toBfloat16(values));

describeBackends('FrozenTable', () => {
  it('looks up rows, rounded once', async () => {
    await expectNoLeak(async () => {
      for (const given of [values, toBfloat16(values)]) {
        const table = new FrozenTable(given, [4, 3]);
        const ids = tf.tensor2d([3, 0, 3, 1], [2, 2], 'int32');
        const rows = embedding(table, ids);
        expect(rows.shape).toEqual([2, 2, 3]);
        const want = [3, 0, 3, 1].flatMap((row) => [...rounded.subarray(3 * row, 3 * row + 3)]);
        expect([...rows.dataSync()]).toEqual(want);
        expect(table.bytes).toBe(24);
        tf.dispose([ids, rows]);
        table.dispose();
      }
    });
  });

  it('uses borrowed bits without a copy and releases them once', () => {
    let released = 0;
    const table = new FrozenTable(toBfloat16(values), [4, 3], () => void released++);
    expect(released).toBe(0);
    const row = table.rows([2]);
    expect([...row.dataSync()]).toEqual([...rounded.subarray(6, 9)]);
    row.dispose();
    table.dispose();
    table.dispose();
    new FrozenTable(values, [4, 3], () => void released++);
    expect(released).toBe(2);
  });

  it('is a parameter: named, saved, not trained', async () => {
    const table = new FrozenTable(values, [4, 3]);
    expect([...namedParams({ embed: { weight: table } }).keys()]).toEqual(['embed.weight']);
    expect((await stateOf({ embed: { weight: table } }))['embed.weight']).toEqual({ shape: [4, 3], data: rounded });
  });

  it('rejects ids without a row, values of the wrong size, and use after dispose', () => {
    const table = new FrozenTable(values, [4, 3]);
    expect(() => embedding(table, tf.tensor1d([4], 'int32'))).toThrow(/must be in \[0, 4\), got 4/);
    expect(() => new FrozenTable(values, [4, 4])).toThrow(/4 x 4 = 16 numbers, got 12/);
    table.dispose();
    expect(() => table.rows([0])).toThrow(/used after dispose/);
  });
});
