import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectClose, expectNoLeak } from '@flamingo-ts/testing';
import { it } from 'vitest';
import { normal, toTensor } from '../test/check-op';
import { matMul } from './mat-mul';

describeBackends('matMul', () => {
  it.each([
    [3, false, false],
    [20, false, true],
    [20, true, false],
    [3, true, true],
    [20, true, true],
  ])('%i rows, transposed: %s, %s', async (rows, transposeA, transposeB) => {
    const [inner, columns] = [5, 9];
    const a = normal(1, transposeA ? [inner, rows] : [rows, inner]);
    const b = normal(2, transposeB ? [columns, inner] : [inner, columns]);
    const expected = new Float64Array(rows * columns).map((_, place) => {
      const [i, j] = [Math.floor(place / columns), place % columns];
      let sum = 0;
      for (let k = 0; k < inner; k++) {
        sum +=
          a.values[transposeA ? k * rows + i : i * inner + k]! *
          b.values[transposeB ? j * inner + k : k * columns + j]!;
      }
      return sum;
    });
    await expectNoLeak(() => {
      const [x, y] = [toTensor(a) as tf.Tensor2D, toTensor(b) as tf.Tensor2D];
      const product = matMul(x, y, transposeA, transposeB);
      expectClose(product, { shape: [rows, columns], data: expected }, { rtol: 3e-7 });
      return [x, y, product];
    });
  });
});
