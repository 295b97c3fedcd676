import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectClose, expectNoLeak } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { checkOp, normal, toTensor } from '../test/check-op';
import { toBfloat16, widened } from './bfloat16';
import { FrozenMatrix } from './frozen-matrix';
import { linear } from './linear';
import { linearReference } from './linear.reference';

const tolerance = { forward: 3e-7, gradient: 6e-7 };
const WIDTH = 5;
const x = normal(1, [2, 3, WIDTH]);
const weight = normal(2, [4, WIDTH]);
const bias = normal(3, [4]);

describeBackends('linear', () => {
  it('with bias, over leading axes', () => {
    checkOp(
      (x, w, b) => linear(x!, { weight: w as tf.Tensor2D, bias: b as tf.Tensor1D }),
      (x, w, b) => linearReference(x!, w!, b, WIDTH),
      [x, weight, bias],
      tolerance,
    );
  });

  it.each([[WIDTH], [1, WIDTH], [7, WIDTH], [2, 1, 6, WIDTH]])('without bias, x [%s, ...]', (...shape) => {
    checkOp(
      (x, w) => linear(x!, { weight: w as tf.Tensor2D }),
      (x, w) => linearReference(x!, w!, undefined, WIDTH),
      [normal(4, shape), weight],
      tolerance,
    );
  });

  it.each(['gelu', 'squared-relu', 'relu'] as const)('with %s', (kind) => {
    checkOp(
      (x, w, b) => linear(x!, { weight: w as tf.Tensor2D, bias: b as tf.Tensor1D }, kind),
      (x, w, b) => linearReference(x!, w!, b, WIDTH, kind),
      [x, weight, bias],
      tolerance,
    );
  });

  it('through a frozen matrix to its input and bias', () => {
    const frozen = new FrozenMatrix(weight.values, [4, WIDTH]);
    const w = Float64Array.from(weight.values);
    checkOp(
      (x, b) => linear(x!, { weight: frozen, bias: b as tf.Tensor1D }, 'gelu'),
      (x, b) => linearReference(x!, w, b, WIDTH, 'gelu'),
      [x, bias],
      tolerance,
    );
    frozen.dispose();
  });

  it('has the same values with and without a tape', () => {
    tf.tidy(() => {
      const [xs, w, b] = [toTensor(x), toTensor(weight) as tf.Tensor2D, toTensor(bias) as tf.Tensor1D];
      const f = (x: tf.Tensor) => tf.sum(linear(x, { weight: w, bias: b }, 'gelu')) as tf.Scalar;
      expectClose(tf.valueAndGrad(f)(xs).value, f(xs), { atol: 0 });
    });
  });

  it('computes only the requested gradients', async () => {
    const w = tf.variable(toTensor(weight)) as tf.Variable<tf.Rank.R2>;
    const xs = toTensor(x);
    const run = () => tf.variableGrads(() => tf.sum(linear(xs, { weight: w })) as tf.Scalar, [w]);
    const profile = await tf.profile(() => void tf.dispose(run() as unknown as tf.TensorContainer));
    const products = profile.kernels.filter(({ name }) => name === 'BatchMatMul').length;
    expect(products).toBeLessThanOrEqual(2); // the result and the gradient to the weight
    tf.dispose([w, xs]);
  });

  it('accepts an input without rows', () => {
    tf.tidy(() => {
      const w = toTensor(weight) as tf.Tensor2D;
      expect(linear(tf.zeros([2, 0, WIDTH]), { weight: w }).shape).toEqual([2, 0, 4]);
      const dw = tf.grad((w) => tf.sum(linear(tf.zeros([0, WIDTH]), { weight: w as tf.Tensor2D }, 'gelu')))(w);
      expectClose(dw, new Float32Array(20), { atol: 0 });
    });
  });

  it('says what does not fit', () => {
    const w = toTensor(weight) as tf.Tensor2D;
    expect(() => linear(tf.zeros([2, 4]), { weight: w })).toThrow(
      /x must be \[\.\.\., 5\].*weight \[4, 5\], got \[2, 4\]/,
    );
    expect(() => linear(tf.zeros([2, 5]), { weight: w, bias: tf.zeros([5]) })).toThrow(/bias must be \[4\], got \[5\]/);
    w.dispose();
  });
});

describeBackends('FrozenMatrix', () => {
  it('multiplies from both sides and returns its values', async () => {
    await expectNoLeak(async () => {
      const frozen = new FrozenMatrix(weight.values, [4, WIDTH]);
      const x = tf.tensor2d([1, 0, 0, 0, 2], [1, WIDTH]);
      const y = frozen.multiply(x);
      const w = weight.values;
      expectClose(
        y,
        [0, 1, 2, 3].map((o) => w[o * WIDTH]! + 2 * w[o * WIDTH + 4]!),
        { rtol: 2e-7 },
      );
      const dy = tf.tensor2d([0, 1, 0, 0], [1, 4]);
      const back = frozen.multiply(dy, true);
      expectClose(back, w.slice(WIDTH, 2 * WIDTH), { rtol: 1e-7 });
      expect(await frozen.data()).toEqual(w);
      expect(frozen.bytes).toBeGreaterThanOrEqual(80);
      frozen.dispose();
      expect(() => frozen.multiply(x)).toThrow(/used after dispose/);
      return [x, y, dy, back];
    });
  });

  it('rounds a bfloat16 matrix by no more than its precision', () => {
    const frozen = new FrozenMatrix(weight.values, [4, WIDTH], 'bfloat16');
    const x = toTensor(normal(5, [6, WIDTH])) as tf.Tensor2D;
    const y = frozen.multiply(x);
    const expected = tf.tidy(() => tf.matMul(x, toTensor(weight) as tf.Tensor2D, false, true));
    expectClose(y, expected, { rtol: 2e-2 });
    frozen.dispose();
    tf.dispose([x, y, expected]);
  });

  it('accepts values as bfloat16 bits and keeps them unchanged', async () => {
    const bits = toBfloat16(weight.values);
    const exact = widened(bits);
    for (const precision of ['float32', 'bfloat16'] as const) {
      const frozen = new FrozenMatrix(bits, [4, WIDTH], precision);
      expect(await frozen.data()).toEqual(exact);
      const x = tf.eye(WIDTH);
      const y = frozen.multiply(x);
      expectClose(
        y,
        exact.map((_, i) => exact[(i % 4) * WIDTH + Math.floor(i / 4)]!),
        { rtol: 1e-6 },
      );
      frozen.dispose();
      tf.dispose([x, y]);
    }
  });

  it('uses borrowed values without a copy and releases them once', async () => {
    for (const given of [weight.values, toBfloat16(weight.values)]) {
      for (const precision of ['float32', 'bfloat16', 'int8'] as const) {
        let released = 0;
        const borrowed = given.slice();
        const frozen = new FrozenMatrix(borrowed, [4, WIDTH], precision, () => void (borrowed.fill(0), released++));
        const copy = new FrozenMatrix(given, [4, WIDTH], precision);
        for (const transpose of [true, false, true]) {
          const x = tf.ones<tf.Rank.R2>([transpose ? 2 : 3, transpose ? 4 : WIDTH]);
          const [a, b] = [frozen.multiply(x, transpose), copy.multiply(x, transpose)];
          expectClose(a, b, { atol: 1e-6 });
          tf.dispose([x, a, b]);
        }
        expect(await frozen.data()).toEqual(await copy.data());
        frozen.dispose();
        copy.dispose();
        expect(released).toBe(1);
      }
    }
  });

  it('holds int8 with a scale for each row, and multiplies by the values it holds', async () => {
    const [out, inputs] = [300, 1500]; // more than a panel
    const wide = normal(6, [out, inputs]);
    // A row a hundred times as large as the others must not cost them precision.
    wide.values.subarray(0, inputs).forEach((v, i) => (wide.values[i] = 100 * v));
    wide.values.fill(0, inputs, 2 * inputs);
    await expectNoLeak(async () => {
      const frozen = new FrozenMatrix(wide.values, [out, inputs], 'int8');
      const held = await frozen.data();
      if (frozen.packed) expect(frozen.bytes).toBeLessThan(1.02 * out * inputs);
      for (let o = 0; o < out; o++) {
        const row = wide.values.subarray(o * inputs, (o + 1) * inputs);
        const step = row.reduce((a, v) => Math.max(a, Math.abs(v)), 0) / 127;
        const worst = row.reduce((a, v, i) => Math.max(a, Math.abs(v - held[o * inputs + i]!)), 0);
        expect(worst).toBeLessThanOrEqual(0.5001 * step);
      }
      const dense = tf.tensor2d(held, [out, inputs]);
      const made: tf.Tensor[] = [dense];
      for (const rows of [1, 5]) {
        const x = toTensor(normal(7, [rows, inputs])) as tf.Tensor2D;
        const dy = toTensor(normal(8, [rows, out])) as tf.Tensor2D;
        const [y, dx] = [frozen.multiply(x), frozen.multiply(dy, true)];
        const [wantY, wantDx] = [tf.matMul(x, dense, false, true), tf.matMul(dy, dense)];
        expectClose(y, wantY, { rtol: 1e-4, atol: 2e-3 });
        expectClose(dx, wantDx, { rtol: 1e-4, atol: 2e-2 });
        made.push(x, dy, y, dx, wantY, wantDx);
      }
      frozen.dispose();
      return made;
    });
  });

  it('multiplies few rows like many', () => {
    // Sizes that do and do not divide into whole blocks, and row counts on both sides of the limit for few rows.
    for (const [out, inputs] of [
      [1, 32],
      [17, 64],
      [130, 96],
      [96, 100],
    ] as const) {
      const w = normal(9, [out, inputs]);
      for (const precision of ['float32', 'bfloat16', 'int8'] as const) {
        const frozen = new FrozenMatrix(w.values, [out, inputs], precision);
        const x = toTensor(normal(10, [40, inputs])) as tf.Tensor2D;
        const all = frozen.multiply(x);
        for (const rows of [1, 2, 3, 4, 5, 8, 9]) {
          const few = tf.slice(x, [7, 0], [rows, inputs]);
          const [y, want] = [frozen.multiply(few), tf.slice(all, [7, 0], [rows, out])];
          // A backend that multiplies bfloat16 directly may also round the rows.
          expectClose(y, want, {
            rtol: precision === 'bfloat16' ? 2e-2 : 2e-6,
            atol: precision === 'bfloat16' ? 5e-2 : 2e-5,
          });
          tf.dispose([few, y, want]);
        }
        frozen.dispose();
        tf.dispose([x, all]);
      }
    }
  });

  it('rejects values of the wrong size', () => {
    expect(() => new FrozenMatrix(weight.values, [5, WIDTH])).toThrow(/5 x 5 = 25 numbers, got 20/);
  });
});
