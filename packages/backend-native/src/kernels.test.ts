import { globalNorm } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { expectAsOnCpu, numbers, relativeError, uniform, useNative } from '../test/against-cpu';

const tolerance = { relative: 2e-6 };

beforeAll(useNative);

/** Sizes below and above the limit at which oneDNN replaces a loop. */
const SMALL = [3, 5];
const LARGE = [37, 311];

describe('elementwise', () => {
  const unary: Record<string, (x: tf.Tensor) => tf.Tensor> = {
    relu: tf.relu,
    abs: tf.abs,
    neg: tf.neg,
    square: tf.square,
    sqrt: (x) => tf.sqrt(tf.abs(x)),
    exp: tf.exp,
    log: (x) => tf.log(tf.abs(x)),
    tanh: tf.tanh,
    sigmoid: tf.sigmoid,
    rsqrt: (x) => tf.rsqrt(tf.abs(x)),
    reciprocal: tf.reciprocal,
    erf: tf.erf,
    step: tf.step,
  };
  for (const [name, op] of Object.entries(unary)) {
    it.each([SMALL, LARGE])(`${name} of [%i, %i]`, async (...shape) => {
      await expectAsOnCpu(() => op(uniform(shape)), tolerance);
    });

    it(`${name} propagates NaN and infinity`, () => {
      const values = numbers(LARGE);
      values.set([NaN, 1, NaN, Infinity]);
      tf.tidy(() => {
        const y = op(tf.tensor(values)).dataSync();
        expect([y[0], y[2]]).toEqual([NaN, NaN]);
        expect(y[1]).not.toBeNaN();
        const limit: Record<string, number> = {
          neg: -Infinity,
          tanh: 1,
          sigmoid: 1,
          rsqrt: 0,
          reciprocal: 0,
          erf: 1,
          step: 1,
        };
        expect(Object.is(y[3], limit[name] ?? Infinity)).toBe(true);
      });
    });
  }

  /** Enough copies of the values for oneDNN to compute them. */
  const many = (values: number[]) => tf.tile(tf.tensor1d(values), [1500]);

  it.each([
    ['neg', tf.neg, [-0, 0]],
    ['relu', tf.relu, [0, 0]],
    ['abs', tf.abs, [0, 0]],
    ['square', tf.square, [0, 0]],
  ] as const)('%s returns 0 with the right sign', (_, op, expected) => {
    tf.tidy(() => {
      const y = op(many([0, -0, 1, -1])).dataSync();
      expect([y[0], y[1]]).toEqual(expected);
    });
  });

  it('log is exact to float32 for denormals and around 1', () => {
    tf.tidy(() => {
      const values = Float32Array.of(1e-40, 1e-45, 1, 1.001, 0.999, 0.81, 1.24, 0, -0, -1);
      const y = tf.log(many([...values])).dataSync();
      values.forEach((v, i) => {
        const expected = Math.fround(Math.log(v));
        if (Number.isFinite(expected))
          expect(Math.abs(y[i]! - expected)).toBeLessThanOrEqual(1e-7 * Math.abs(expected));
        else expect(y[i]).toBe(expected);
      });
    });
  });

  const binary = {
    add: tf.add,
    sub: tf.sub,
    mul: tf.mul,
    div: tf.div,
    maximum: tf.maximum,
    minimum: tf.minimum,
    squaredDifference: tf.squaredDifference,
    equal: tf.equal,
    notEqual: tf.notEqual,
    greater: tf.greater,
    greaterEqual: tf.greaterEqual,
    less: tf.less,
    lessEqual: tf.lessEqual,
  };
  const pairs: [number[], number[]][] = [
    [LARGE, LARGE],
    [LARGE, []],
    [[], LARGE],
    [LARGE, [311]],
    [[311], LARGE],
    [LARGE, [37, 1]],
    [[37, 1], LARGE],
    [
      [37, 1],
      [1, 311],
    ],
    [
      [8, 1, 40],
      [8, 30, 40],
    ],
    [
      [8, 30, 40],
      [1, 30, 1],
    ],
    [
      [2, 3, 1, 5, 40],
      [3, 7, 1, 40],
    ],
    [SMALL, [5]],
    [
      [3, 1],
      [1, 5],
    ],
  ];
  for (const [name, op] of Object.entries(binary)) {
    it.each(pairs)(`${name} of %j and %j`, async (a, b) => {
      // Away from 0, where a quotient would amplify rounding errors.
      await expectAsOnCpu(() => op(uniform(a, 1), tf.add(uniform(b, 2), 1.5)), tolerance);
    });
  }

  it('maximum and minimum propagate NaN from either side', () => {
    tf.tidy(() => {
      const [a, b] = [tf.tensor1d([NaN, 1, NaN, 2]), tf.tensor1d([1, NaN, NaN, 3])];
      expect(Array.from(tf.maximum(a, b).dataSync())).toEqual([NaN, NaN, NaN, 3]);
      expect(Array.from(tf.minimum(a, b).dataSync())).toEqual([NaN, NaN, NaN, 2]);
    });
  });

  it('leaves other types to the CPU kernels', async () => {
    const ints = () => tf.tensor1d([3, -5, 7], 'int32');
    await expectAsOnCpu(() => [tf.add(ints(), ints()), tf.abs(ints()), tf.square(ints()), tf.sum(ints())], tolerance);
    await expectAsOnCpu(() => [tf.add(ints(), uniform([3])), tf.mul(ints(), tf.scalar(2, 'int32'))], tolerance);
    await expectAsOnCpu(() => tf.add(tf.complex([1, 2], [3, 4]), tf.complex([5, 6], [7, 8])), tolerance);
  });

  it('accepts empty tensors', async () => {
    const none = () => tf.zeros([0, 4]);
    await expectAsOnCpu(() => [tf.relu(none()), tf.add(none(), 1), tf.sum(none(), 0), tf.transpose(none())], tolerance);
    await expectAsOnCpu(() => [tf.matMul(tf.zeros([0, 3]), tf.zeros([3, 2])), tf.concat([none(), none()])], tolerance);
  });

  it('addN', async () => {
    await expectAsOnCpu(() => tf.addN([1, 2, 3].map((seed) => uniform(LARGE, seed))), tolerance);
    await expectAsOnCpu(() => tf.addN([1, 2, 3].map((seed) => uniform(SMALL, seed))), tolerance);
  });
});

describe('matMul', () => {
  it.each<[number[], number[], boolean, boolean]>([
    [[33, 65], [65, 17], false, false],
    [[65, 33], [65, 17], true, false],
    [[33, 65], [17, 65], false, true],
    [[65, 33], [17, 65], true, true],
    [[4, 33, 65], [4, 65, 17], false, false],
    [[4, 65, 33], [4, 17, 65], true, true],
    [[4, 33, 65], [1, 65, 17], false, false],
    [[1, 33, 65], [4, 65, 17], false, false],
    [[1, 1], [1, 1], false, false],
  ])('%j by %j, transposed %s, %s', async (a, b, transposeA, transposeB) => {
    await expectAsOnCpu(() => tf.matMul(uniform(a, 1), uniform(b, 2), transposeA, transposeB), tolerance);
  });

  it('batches broadcast along any axis', () => {
    // Compare with tiled batches: tfjs' CPU kernel pairs broadcast batches wrongly.
    tf.tidy(() => {
      const [a, b] = [uniform([2, 3, 9, 8], 1), uniform([2, 1, 8, 7], 2)];
      const wanted = tf.matMul(a, tf.tile(b, [1, 3, 1, 1])).dataSync();
      expect(relativeError(tf.matMul(a, b).dataSync(), wanted)).toBeLessThan(2e-6);
      const [c, d] = [uniform([2, 1, 9, 8], 1), uniform([3, 7, 8], 2)];
      const tiled = tf.matMul(
        tf.tile(c, [1, 3, 1, 1]),
        tf.tile(tf.reshape(d, [1, 3, 7, 8]), [2, 1, 1, 1]),
        false,
        true,
      );
      expect(relativeError(tf.matMul(c, d, false, true).dataSync(), tiled.dataSync())).toBeLessThan(2e-6);
    });
  });

  it('with bias and activation', async () => {
    for (const activation of ['linear', 'relu', 'sigmoid', 'elu', 'relu6'] as const) {
      const fused = () =>
        tf.fused.matMul({
          a: uniform([33, 65], 1) as tf.Tensor2D,
          b: uniform([65, 17], 2) as tf.Tensor2D,
          bias: uniform([17], 3),
          activation,
        });
      await expectAsOnCpu(fused, tolerance);
    }
  });
});

describe('convolution', () => {
  const conv = (
    x: number[],
    filter: number[],
    strides: number,
    pad: 'same' | 'valid' | number,
    depthwise = false,
    dilation = 1,
  ) => {
    const kernels = depthwise
      ? [tf.DepthwiseConv2dNative, tf.DepthwiseConv2dNativeBackpropInput, tf.DepthwiseConv2dNativeBackpropFilter]
      : [tf.Conv2D, tf.Conv2DBackpropInput, tf.Conv2DBackpropFilter];
    const attrs = { strides: [strides, strides], pad, dataFormat: 'NHWC', dilations: [dilation, dilation] };
    const run = (name: string, inputs: Record<string, tf.Tensor>, more: object = {}) =>
      tf.engine().runKernel(name, inputs, { ...attrs, ...more } as never) as tf.Tensor;
    const [image, weights] = [uniform(x, 1), uniform(filter, 2)];
    const y = run(kernels[0]!, { x: image, filter: weights });
    // tfjs' CPU kernels have no gradient with dilation.
    if (dilation > 1) return [y];
    const dy = uniform(y.shape, 3);
    const dx = run(kernels[1]!, { dy, filter: weights }, { inputShape: x });
    return [y, dx, run(kernels[2]!, { x: image, dy }, { filterShape: filter })];
  };

  it.each<[number[], number[], number, 'same' | 'valid' | number, boolean?, number?]>([
    [[2, 9, 8, 3], [3, 3, 3, 5], 2, 'same'],
    [[2, 9, 8, 16], [3, 3, 16, 24], 1, 'same'],
    [[1, 9, 8, 4], [3, 2, 4, 5], 1, 'valid', false, 2],
    [[2, 10, 11, 8], [5, 5, 8, 7], 3, 'valid'],
    [[2, 6, 6, 10], [3, 3, 10, 10], 2, 1],
    // A 1x1 kernel that skips pixels, with channels that do not fill a block: oneDNN 2.6.3's fast code damages memory here.
    [[2, 8, 8, 4], [1, 1, 4, 8], 2, 'same'],
    [[2, 8, 8, 3], [1, 1, 3, 20], 2, 'valid'],
    [[2, 8, 8, 16], [1, 1, 16, 16], 2, 'same'],
    [[2, 9, 8, 6], [3, 3, 6, 1], 1, 'same', true],
    [[2, 9, 8, 6], [3, 3, 6, 2], 2, 'valid', true],
    [[2, 9, 8, 8], [3, 3, 8, 1], 1, 'same', true, 2],
  ])(
    '%j by %j, stride %i, %s, depthwise %s, dilation %s, with gradients',
    async (x, filter, stride, pad, deep, dilated) => {
      await expectAsOnCpu(() => conv(x, filter, stride, pad, deep, dilated), tolerance);
    },
  );

  it("is the same on every run, unlike oneDNN's fast code", () => {
    tf.tidy(() => {
      const gradients = () => conv([2, 8, 8, 4], [1, 1, 4, 8], 2, 'same')[2]!.dataSync();
      const first = gradients();
      for (let i = 0; i < 50; i++) expect(gradients()).toEqual(first);
    });
  });

  it('with numeric padding and a kernel that is not square, whose width tfjs computes from its height', async () => {
    const image = () => uniform([1, 9, 5, 3]) as tf.Tensor4D;
    const filter = (h: number, w: number) => uniform([h, w, 3, 4], 2) as tf.Tensor4D;
    await expectAsOnCpu(
      () => [
        tf.conv2d(image(), filter(3, 1), 1, 1),
        tf.conv2d(image(), filter(3, 1), [2, 1], 2),
        tf.conv2d(image(), filter(1, 3), 1, 1),
        tf.conv2d(image(), filter(2, 1), 1, 0),
        tf.conv2d(image(), filter(3, 1), 1, 2, 'NHWC', 3),
        tf.grad((x) => tf.conv2d(x as tf.Tensor4D, filter(3, 1), 1, 1))(image()),
        tf.fused.conv2d({ x: image(), filter: filter(3, 1), strides: 1, pad: 1, activation: 'relu' }),
        tf.depthwiseConv2d(image(), uniform([3, 1, 3, 2], 2) as tf.Tensor4D, 2, 1),
      ],
      tolerance,
    );
  });

  it('with a kernel larger than the image', async () => {
    const run = () => tf.conv2d(tf.ones([1, 4, 4, 1]) as tf.Tensor4D, tf.ones([6, 6, 1, 1]) as tf.Tensor4D, 1, 'valid');
    await expectAsOnCpu(run, tolerance);
  });

  it('with padding larger than the kernel, where an infinite gradient stays infinite', async () => {
    const gradients: ArrayLike<number>[] = [];
    for (const backend of ['cpu', 'native']) {
      await tf.setBackend(backend);
      tf.tidy(() => {
        const [x, filter] = [tf.ones([1, 6, 7, 1]), tf.ones([1, 3, 1, 8])];
        const conv = (w: tf.Tensor) => tf.conv2d(x as tf.Tensor4D, w as tf.Tensor4D, 1, 1);
        const { shape, size } = conv(filter);
        const dy = new Float32Array(size).fill(1);
        dy[0] = Infinity;
        gradients.push(tf.grad(conv)(filter, tf.tensor(dy, shape)).dataSync());
      });
    }
    expect(gradients[1]).toEqual(gradients[0]);
  });

  it('with bias and activation', async () => {
    await expectAsOnCpu(
      () =>
        tf.fused.conv2d({
          x: uniform([2, 9, 8, 4]) as tf.Tensor4D,
          filter: uniform([3, 3, 4, 6]) as tf.Tensor4D,
          strides: 1,
          pad: 'same',
          bias: uniform([6]),
          activation: 'relu',
        }),
      tolerance,
    );
  });

  it('transposed, with sizes that no convolution has', async () => {
    const [x, w] = [
      [1, 8, 8, 8],
      [8, 8, 8, 8],
    ] as const;
    await expectAsOnCpu(
      () => tf.conv2dTranspose(uniform(x) as tf.Tensor4D, uniform(w) as tf.Tensor4D, [1, 4, 4, 8], 1, 'same'),
      tolerance,
    );
  });

  it.each([2, 3] as const)('average pooling, windows of %i', async (size) => {
    for (const pad of ['same', 'valid'] as const) {
      await expectAsOnCpu(() => tf.avgPool(uniform([2, 9, 7, 5]) as tf.Tensor4D, size, 2, pad), tolerance);
    }
  });
});

describe('reductions', () => {
  it.each<[number[], number[] | undefined]>([
    [[7, 300], [1]],
    [[7, 3000], [1]],
    [[700, 30], [0]],
    [[5000, 3], [0]],
    [[6, 50, 40], [1]],
    [
      [6, 50, 40],
      [0, 1],
    ],
    [
      [6, 50, 40],
      [1, 2],
    ],
    [
      [6, 50, 40],
      [0, 2],
    ],
    [[6, 50, 40], undefined],
    [[200_003], undefined],
    [[3, 4], [0]],
  ])('sum and mean of %j over %j', async (shape, axes) => {
    const x = () => tf.add(uniform(shape), 1);
    await expectAsOnCpu(() => [tf.sum(x(), axes), tf.mean(x(), axes), tf.sum(x(), axes, true)], tolerance);
  });

  it.each([{ sizes: [100] }, { sizes: [5000] }, { sizes: [1024, 4096, 3] }, { sizes: [140_001] }])(
    'global norm of tensors of $sizes',
    ({ sizes }) => {
      tf.tidy(() => {
        const values = sizes.map((size, i) => numbers([size], i + 1));
        const wanted = Math.sqrt(values.flatMap((x) => [...x]).reduce((sum, x) => sum + x * x, 0));
        const norm = globalNorm(values.map((x) => tf.tensor(x))).dataSync()[0]!;
        expect(Math.abs(norm / wanted - 1)).toBeLessThan(2e-7);
      });
    },
  );

  it('global norm does not overflow for large numbers, and is NaN for NaN', () => {
    tf.tidy(() => {
      const norm = (value: number) => globalNorm([tf.fill([10_000], value)]).dataSync()[0]!;
      expect(Math.abs(norm(1e25) / 1e27 - 1)).toBeLessThan(2e-7);
      expect(norm(NaN)).toBeNaN();
    });
  });

  it.each([SMALL, [40, 700], [700, 3]])('softmax and logSoftmax of [%i, %i]', async (...shape) => {
    const x = () => tf.mul(uniform(shape), 20);
    await expectAsOnCpu(() => [tf.softmax(x()), tf.logSoftmax(x())], tolerance);
  });

  it.each([3, 300, 2000])(
    'softmax of rows of %i is NaN for rows with a NaN or an infinite maximum, as on the CPU',
    (width) => {
      tf.tidy(() => {
        const rows = 40;
        const values = numbers([rows, width]);
        const put = (row: number, ...at: number[]) => at.forEach((value, i) => (values[row * width + i] = value));
        put(1, 1, NaN);
        put(3, Infinity);
        put(5, Infinity, -Infinity);
        put(7, NaN, -Infinity);
        values.fill(-Infinity, 9 * width, 10 * width);
        // Defined: sums that overflow, and keys that are masked by an infinity.
        put(11, -3.4e38, -3.4e38);
        put(13, 3.4e38, 3.4e38);
        put(15, -Infinity, 1);
        for (const op of [tf.softmax, tf.logSoftmax]) {
          const y = op(tf.tensor2d(values, [rows, width])).dataSync();
          for (let row = 0; row < rows; row++) {
            const isNaN = Array.from(y.subarray(row * width, (row + 1) * width), Number.isNaN);
            expect(isNaN, `row ${row}`).toEqual(new Array(width).fill([1, 3, 5, 7, 9].includes(row)));
          }
        }
      });
    },
  );
});

describe('moving data', () => {
  it.each<[number[], number[]]>([
    [
      [3, 5],
      [1, 0],
    ],
    [
      [37, 41],
      [1, 0],
    ],
    [
      [5, 6, 7, 8],
      [0, 2, 1, 3],
    ],
    [
      [5, 6, 7, 8],
      [3, 1, 0, 2],
    ],
    [
      [5, 1, 7],
      [1, 0, 2],
    ],
    [
      [2, 3, 4, 5, 6, 7],
      [5, 3, 1, 0, 2, 4],
    ],
  ])('transpose of %j to %j', async (shape, perm) => {
    await expectAsOnCpu(() => tf.transpose(uniform(shape), perm), { relative: 0 });
  });

  it('slice, concat, pad, tile, gather, where, cast', async () => {
    const x = () => uniform([20, 30, 5]);
    await expectAsOnCpu(
      () => [
        tf.slice(x(), [3, 0, 0], [10, 30, 5]),
        tf.slice(x(), [3, 4, 1], [10, 20, 3]),
        tf.slice(x(), [0, 4, 1], [2, 2, 2]),
        tf.concat([x(), x()], 0),
        tf.concat([x(), tf.zeros([20, 0, 5]), uniform([20, 7, 5])], 1),
        tf.concat([x(), uniform([20, 30, 1])], 2),
        tf.pad(x(), [[1, 2], [0, 0], [3, 0]], 7), // prettier-ignore
        tf.tile(x(), [1, 2, 3]),
        tf.tile(uniform([20, 1, 5]), [2, 4, 1]),
        tf.gather(x(), tf.tensor1d([3, 3, 0, 19], 'int32')),
        tf.gather(x(), tf.tensor2d([[3, 3], [0, 19]], [2, 2], 'int32')), // prettier-ignore
        tf.gather(x(), tf.tensor1d([4, 0], 'int32'), 1),
        tf.where(tf.greater(x(), 0), x(), tf.neg(x())),
        tf.cast(tf.tensor1d([1, 2, 3], 'int32'), 'float32'),
        tf.cast(tf.greater(x(), 0), 'float32'),
        tf.zerosLike(x()),
        tf.onesLike(x()),
        tf.fill([3, 4], 2.5),
      ],
      { relative: 0 },
    );
  });

  it('names an index that is out of range', () => {
    tf.tidy(() => {
      expect(() => tf.gather(uniform([3, 2]), tf.tensor1d([3], 'int32'))).toThrow(/index value 3 is not in \[0, 2\]/);
    });
  });
});
