import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectClose, expectNoLeak } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { checkOp, normal, toTensor } from '../test/check-op';
import { FrozenMatrix, linear, linearAdd, mlp } from './index';
import { linearReference } from './linear.reference';
import { mlpReference } from './mlp.reference';

const tolerance = { forward: 5e-7, gradient: 1e-6 };
const [WIDTH, INNER, OUT] = [5, 7, 4];
const x = normal(1, [2, 3, WIDTH]);
const [up, upBias] = [normal(2, [INNER, WIDTH]), normal(3, [INNER])];
const [down, downBias] = [normal(4, [OUT, INNER]), normal(5, [OUT])];
const residual = normal(6, [2, 3, OUT]);

const params = (u: tf.Tensor | FrozenMatrix, ub: tf.Tensor, d: tf.Tensor | FrozenMatrix, db: tf.Tensor) => ({
  up: { weight: u as tf.Tensor2D, bias: ub as tf.Tensor1D },
  down: { weight: d as tf.Tensor2D, bias: db as tf.Tensor1D },
});

describeBackends('mlp', () => {
  it.each(['gelu', 'squared-relu', 'gelu-tanh'] as const)('with %s, added to a residual', (kind) => {
    checkOp(
      (a, u, ub, d, db, r) => mlp(a!, params(u!, ub!, d!, db!), kind, r),
      (a, u, ub, d, db, r) => mlpReference(a!, u!, ub!, d!, db!, r, WIDTH, kind),
      [x, up, upBias, down, downBias, residual],
      tolerance,
    );
  });

  it('alone, through frozen matrices to its input and biases', () => {
    const [frozenUp, frozenDown] = [
      new FrozenMatrix(up.values, [INNER, WIDTH]),
      new FrozenMatrix(down.values, [OUT, INNER]),
    ];
    const [u, d] = [Float64Array.from(up.values), Float64Array.from(down.values)];
    checkOp(
      (a, ub, db) => mlp(a!, params(frozenUp, ub!, frozenDown, db!), 'gelu'),
      (a, ub, db) => mlpReference(a!, u, ub!, d, db!, undefined, WIDTH, 'gelu'),
      [x, upBias, downBias],
      tolerance,
    );
    frozenUp.dispose();
    frozenDown.dispose();
  });

  it('equals its two layers, with and without a tape', () => {
    tf.tidy(() => {
      const [a, u, ub, d, db, r] = [x, up, upBias, down, downBias, residual].map(toTensor) as tf.Tensor[];
      const p = params(u!, ub!, d!, db!);
      const f = (input: tf.Tensor) => mlp(input, p, 'gelu', r);
      const two = linearAdd(linear(a!, p.up, 'gelu'), p.down, r!);
      expectClose(f(a!), two, { rtol: 1e-6 });
      expectClose(tf.valueAndGrad((input: tf.Tensor) => tf.sum(f(input)))(a!).value, tf.sum(two), { rtol: 1e-6 });
    });
  });

  it('leaves no tensors behind', async () => {
    const [a, u, ub, d, db] = [x, up, upBias, down, downBias].map(toTensor) as tf.Tensor[];
    await expectNoLeak(() => tf.grad((input) => mlp(input, params(u!, ub!, d!, db!), 'gelu'))(a!));
  });

  it('says what does not fit', () => {
    const [u, ub, d, db] = [tf.ones([7, 5]), tf.ones([7]), tf.ones([4, 7]), tf.ones([4])];
    expect(() => mlp(tf.ones([2, 6]), params(u, ub, d, db), 'gelu')).toThrow(
      /mlp: up: x must be \[..., 5\].*got \[2, 6\]/,
    );
    expect(() => mlp(tf.ones([2, 5]), params(u, ub, tf.ones([4, 6]), db), 'gelu')).toThrow(
      /mlp: down: x must be \[..., 6\]/,
    );
    expect(() => mlp(tf.ones([2, 5]), params(u, ub, d, db), 'gelu', tf.ones([1, 4]))).toThrow(
      /residual must be \[2, 4\]/,
    );
  });
});

describeBackends('linearAdd', () => {
  it('adds the layer to the residual', () => {
    checkOp(
      (a, w, b, r) => linearAdd(a!, { weight: w as tf.Tensor2D, bias: b as tf.Tensor1D }, r!),
      (a, w, b, r) => linearReference(a!, w!, b, WIDTH).map((y, i) => y + r![i]!),
      [x, normal(7, [OUT, WIDTH]), downBias, residual],
      tolerance,
    );
  });

  it('says what does not fit', () => {
    expect(() => linearAdd(tf.ones([2, 5]), { weight: tf.ones([4, 5]) }, tf.ones([2, 5]))).toThrow(
      /linearAdd: residual must be \[2, 4\], got \[2, 5\]/,
    );
  });
});
