import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectClose, expectNoLeak, relativeError } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { checkOp, normal, toTensor } from '../test/check-op';
import { activationReference } from './activation.reference';
import { useBackend } from './backend';
import { conv2d, conv2dSequence, type Conv2dLayer } from './conv2d';
import { conv2dReference, type ConvCase } from './conv2d.reference';
import { FrozenFilter } from './frozen-filter';

const base: ConvCase = {
  batch: 2,
  height: 5,
  width: 4,
  channels: 4,
  out: 6,
  kernel: [3, 3],
  stride: 1,
  groups: 1,
  padding: 'same',
};

describeBackends('conv2d', () => {
  it.each<[string, ConvCase]>([
    ['same', base],
    ['same, stride 2, odd by even', { ...base, stride: 2 }],
    ['same, stride 2, even by odd', { ...base, stride: 2, height: 4, width: 7 }],
    ['same, stride 2, 1x1 kernel', { ...base, stride: 2, kernel: [1, 1] }],
    ['same, stride 2, one cell', { ...base, stride: 2, height: 1, width: 1 }],
    ['same, even kernel', { ...base, kernel: [2, 4] }],
    ['symmetric', { ...base, padding: 'symmetric' }],
    ['symmetric, stride 2', { ...base, padding: 'symmetric', stride: 2 }],
    ['valid, stride 2 that leaves a column out', { ...base, padding: 'valid', stride: 2, width: 6 }],
    ['valid, patches', { ...base, padding: 'valid', stride: 2, height: 6, kernel: [2, 2] }],
    ['1x1', { ...base, kernel: [1, 1] }],
    ['two groups', { ...base, groups: 2 }],
    ['two groups, stride 2', { ...base, groups: 2, stride: 2 }],
    ['one channel per group', { ...base, channels: 3, out: 3, groups: 3 }],
  ])('%s', (_, c) => {
    const { batch, height, width, channels, out, kernel, groups } = c;
    checkOp(
      (x, weight, bias) => conv2d(x!, { weight: weight!, bias: bias as tf.Tensor1D }, c),
      (x, weight, bias) => conv2dReference(x!, weight!, bias, c),
      [normal(1, [batch, height, width, channels]), normal(2, [out, channels / groups, ...kernel]), normal(3, [out])],
      { forward: 6e-7, gradient: 1e-6 },
    );
  });

  it('without bias', () => {
    checkOp(
      (x, weight) => conv2d(x!, { weight: weight! }, { stride: 1, padding: 'same' }),
      (x, weight) =>
        conv2dReference(x!, weight!, undefined, { ...base, batch: 1, height: 3, width: 3, channels: 2, out: 3 }),
      [normal(1, [1, 3, 3, 2]), normal(2, [3, 2, 3, 3])],
      { forward: 6e-7, gradient: 1e-6 },
    );
  });

  it.each(['scaled-gelu-tanh', 'relu'] as const)('with %s', (kind) => {
    checkOp(
      (x, weight, bias) => conv2d(x!, { weight: weight!, bias: bias as tf.Tensor1D }, { ...base, activation: kind }),
      (x, weight, bias) => conv2dReference(x!, weight!, bias, base).map((z) => activationReference(z, kind)),
      [normal(1, [2, 5, 4, 4]), normal(2, [6, 4, 3, 3]), normal(3, [6])],
      { forward: 6e-7, gradient: 3e-6 },
    );
  });

  it('same padding adds the odd cell at the end', () => {
    tf.tidy(() => {
      const x = tf.tensor4d([1, 2, 3, 4], [1, 1, 4, 1]);
      const y = conv2d(x, { weight: tf.tensor4d([1, 10, 100], [1, 1, 1, 3]) }, { stride: 2, padding: 'same' });
      expectClose(y, [321, 43], { atol: 0 });
    });
  });

  it('says what does not fit', () => {
    tf.tidy(() => {
      const x = tf.ones([1, 4, 4, 4]);
      const o = { stride: 1, padding: 'same' } as const;
      expect(() => conv2d(tf.ones([4, 4, 4]), { weight: tf.ones([2, 4, 3, 3]) }, o)).toThrow(
        /x must be \[batch, .*NHWC/,
      );
      expect(() => conv2d(x, { weight: tf.ones([2, 3, 3, 3]) }, o)).toThrow(
        /weight must be \[out, 4, .*got \[2, 3, 3, 3\]/,
      );
      expect(() => conv2d(x, { weight: tf.ones([3, 2, 3, 3]) }, { ...o, groups: 2 })).toThrow(
        /output channels, 3, must be a multiple of groups, got 2/,
      );
      expect(() => conv2d(x, { weight: tf.ones([2, 4, 3, 3]), bias: tf.ones([3]) }, o)).toThrow(/bias must be \[2\]/);
      expect(() => conv2d(x, { weight: tf.ones([2, 4, 5, 5]) }, { ...o, padding: 'valid' })).toThrow(
        /kernel 5x5 is larger than the padded image 4x4/,
      );
    });
  });
});

/** Three convolutions, as in a residual branch. */
const branch = [
  { shape: [8, 4, 1, 1], groups: 1, stride: 1, activation: 'scaled-gelu' },
  { shape: [8, 4, 3, 3], groups: 2, stride: 2, activation: 'relu' },
  { shape: [6, 8, 3, 3], groups: 1, stride: 1 },
] as const;

/** Their layers, with fresh parameters. */
function layersOf(weightOf: (weight: tf.Tensor) => tf.Tensor | FrozenFilter): Conv2dLayer[] {
  return branch.map(({ shape, ...how }, i) => {
    const weight = tf.tidy(() => tf.mul(toTensor(normal(10 + i, shape)), (shape[1] * shape[2] ** 2) ** -0.5));
    const params = { weight: weightOf(weight), bias: toTensor(normal(20 + i, [shape[0]])) as tf.Tensor1D };
    return { params, padding: 'same', ...how };
  });
}

const images = () => toTensor(normal(1, [2, 6, 5, 4])) as tf.Tensor4D;

function disposeLayers(layers: readonly Conv2dLayer[]): void {
  for (const { params } of layers) {
    params.weight.dispose();
    params.bias!.dispose();
  }
}

function frozen(precision?: 'float32' | 'bfloat16') {
  return (weight: tf.Tensor) => {
    const filter = new FrozenFilter(weight, precision);
    weight.dispose();
    return filter;
  };
}

describeBackends('conv2dSequence', () => {
  it('equals its convolutions applied one by one, with gradients, frozen or not', async () => {
    await expectNoLeak(() => {
      const plain = layersOf((weight) => weight);
      const packed = layersOf(frozen());
      tf.tidy(() => {
        const x = images();
        const oneByOne = plain.reduce((y: tf.Tensor, layer) => conv2d(y, layer.params, layer), x);
        const [first, ...rest] = plain as [Conv2dLayer, ...Conv2dLayer[]];
        const cotangent = toTensor(normal(2, oneByOne.shape));
        const toInput = (layers: Conv2dLayer[]) =>
          tf.valueAndGrad((x) => tf.sum(tf.mul(conv2dSequence(x, layers), cotangent)))(x).grad;
        expectClose(conv2dSequence(x, plain), oneByOne, { rtol: 1e-6 });
        expectClose(conv2dSequence(x, packed), oneByOne, { rtol: 1e-6 });
        expectClose(toInput(packed), toInput(plain), { rtol: 1e-6 });
        const toBias = tf.grad((bias) => {
          const params = { ...first.params, bias: bias as tf.Tensor1D };
          return tf.sum(tf.mul(conv2dSequence(x, [{ ...first, params }, ...rest]), cotangent));
        })(first.params.bias!);
        expect(toBias.shape).toEqual([8]);
        expectClose(conv2dSequence(x, [packed[0]!, ...rest]), oneByOne, { rtol: 1e-6 }); // some frozen, some not
      });
      disposeLayers(plain);
      disposeLayers(packed);
    });
  });

  it('is as accurate as bfloat16 allows', () => {
    const [exact, rounded] = [layersOf((weight) => weight), layersOf(frozen('bfloat16'))];
    tf.tidy(() => {
      const x = images();
      expect(relativeError(conv2dSequence(x, rounded), conv2dSequence(x, exact))).toBeLessThan(1e-2);
    });
    disposeLayers(exact);
    disposeLayers(rounded);
  });

  it('reports a mismatch in any of its convolutions', () => {
    const [first, , last] = layersOf((weight) => weight) as [Conv2dLayer, Conv2dLayer, Conv2dLayer];
    tf.tidy(() => {
      const x = images();
      expect(() => conv2dSequence(x, [first, { ...last, groups: 2 }])).toThrow(
        /conv2d: weight must be \[out, 4, .*got \[6, 8, 3, 3\]/,
      );
    });
  });
});

describeBackends('FrozenFilter', (backend) => {
  const weight = normal(2, [6, 2, 3, 3]);
  const o = { stride: 1, groups: 2, padding: 'same' } as const;

  it('convolves images of any size, returns its values, and throws after dispose', async () => {
    await expectNoLeak(async () => {
      const w = toTensor(weight);
      const filter = new FrozenFilter(w);
      for (const [height, width] of [
        [5, 4],
        [9, 9],
        [1, 1],
      ] as const) {
        tf.tidy(() => {
          const x = toTensor(normal(3, [1, height, width, 4]));
          expectClose(conv2d(x, { weight: filter }, o), conv2d(x, { weight: w }, o), { rtol: 1e-6, atol: 1e-6 });
        });
      }
      expect(await filter.data()).toEqual(weight.values);
      expect(filter.bytes).toBeGreaterThanOrEqual(4 * 108);
      filter.dispose();
      const x = tf.zeros([1, 5, 4, 4]);
      expect(() => conv2d(x, { weight: filter }, o)).toThrow(/FrozenFilter: used after dispose/);
      return [w, x];
    });
  });

  it('works on a backend other than the one it was created on', async () => {
    const w = toTensor(weight);
    const filter = new FrozenFilter(w);
    const expected = tf.tidy(() => conv2d(tf.ones([1, 5, 4, 4]), { weight: w }, o).dataSync());
    await useBackend(backend === 'cpu' ? 'wasm' : 'cpu');
    await expectNoLeak(() => {
      const x = tf.ones([1, 5, 4, 4]);
      const y = conv2d(x, { weight: filter }, o);
      expectClose(y, expected, { rtol: 1e-6 });
      return [x, y];
    });
    await useBackend(backend);
    filter.dispose();
    w.dispose();
  });

  it('rejects a tensor that is not a kernel', () => {
    tf.tidy(() => {
      expect(() => new FrozenFilter(tf.ones([2, 3]))).toThrow(/weight must be \[out, .*got \[2, 3\].*FrozenMatrix/);
    });
  });
});
