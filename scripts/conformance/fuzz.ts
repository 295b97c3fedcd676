/**
 * Compares random operations on backend native with tfjs' CPU backend: values and gradients, for unusual shapes, types and
 * values. The same seed gives the same cases.
 */
import { Random, useBackend } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';

interface Values {
  readonly shape: readonly number[];
  readonly dtype: 'float32' | 'int32' | 'bool';
  readonly data: Float32Array | Int32Array | Uint8Array;
}

interface Case {
  readonly name: string;
  readonly inputs: readonly Values[];
  readonly compute: (...inputs: tf.Tensor[]) => tf.Tensor;
  /** Whether tfjs' CPU backend has gradients with respect to all inputs. */
  readonly gradient?: boolean;
  /** Whether the comparison distinguishes 0 from -0. */
  readonly signedZeros?: boolean;
}

interface Result {
  readonly error?: string;
  readonly shape?: readonly number[];
  readonly dtype?: string;
  /** The output, then the gradients. */
  readonly values?: readonly number[][];
}

/** Kinds of numbers in a case. */
const MODES = ['plain', 'plain', 'plain', 'special', 'large', 'small', 'zeros'] as const;
const SPECIAL = [NaN, Infinity, -Infinity, 0, -0, 1e-40, -1e-40, 1e-38];
/** Maximum number of elements of an operand. */
const LARGEST = 30_000;

const sizeOf = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1);

/** Generates random cases. */
class Cases {
  private mode: (typeof MODES)[number] = 'plain';

  constructor(private readonly random: Random) {}

  next(): Case {
    this.mode = this.pick(MODES);
    const make = this.pick([
      () => this.unary(),
      () => this.unary(),
      () => this.binary(),
      () => this.binary(),
      () => this.matMul(),
      () => this.convolution(),
      () => this.convolution(),
      () => this.depthwise(),
      () => this.transposedConvolution(),
      () => this.pooling(),
      () => this.reduction(),
      () => this.softmax(),
      () => this.softmax(),
      () => this.moving(),
      () => this.moving(),
      () => this.selection(),
    ]);
    const { name, ...rest } = make();
    return { ...rest, name: `${name}, ${this.mode} numbers` };
  }

  private pick<T>(from: readonly T[]): T {
    return from[this.random.int(from.length)]!;
  }

  private between(low: number, high: number): number {
    return low + this.random.int(high - low + 1);
  }

  private chance(probability: number): boolean {
    return this.random.uniform() < probability;
  }

  private number(): number {
    const x = this.random.normal();
    if (this.mode === 'special' && this.chance(0.06)) return this.pick(SPECIAL);
    if (this.mode === 'zeros' && this.chance(0.5)) return 0;
    return this.mode === 'large' ? x * 1e15 : this.mode === 'small' ? x * 1e-20 : x;
  }

  private values(shape: readonly number[], dtype: Values['dtype'] = 'float32'): Values {
    const length = sizeOf(shape);
    if (dtype === 'bool') return { shape, dtype, data: Uint8Array.from({ length }, () => this.random.int(2)) };
    if (dtype === 'int32') return { shape, dtype, data: Int32Array.from({ length }, () => this.between(-9, 9)) };
    return { shape, dtype, data: Float32Array.from({ length }, () => this.number()) };
  }

  /** A shape with `least` to `most` axes. Includes small ones, which native computes in loops, and large ones for oneDNN. */
  private shape(least = 0, most = 5): number[] {
    for (;;) {
      const shape = this.chance(0.2)
        ? this.pick([[5000], [64, 80], [37, 311], [4, 33, 65], [2, 3, 40, 40]])
        : Array.from({ length: this.between(least, most) }, () =>
            this.chance(0.04) ? 0 : this.pick([1, 1, 2, 3, 5, 8, 17, 33]),
          );
      if (shape.length >= least && shape.length <= most && sizeOf(shape) <= LARGEST) return shape;
    }
  }

  /** A shape that broadcasts to another. */
  private narrower(shape: readonly number[]): number[] {
    return shape.slice(this.chance(0.5) ? 0 : this.random.int(shape.length + 1)).map((n) => (this.chance(0.3) ? 1 : n));
  }

  private dtype(): Values['dtype'] {
    return this.pick(['float32', 'float32', 'float32', 'int32', 'bool']);
  }

  private unary(): Case {
    const smooth = { abs: tf.abs, exp: tf.exp, log: tf.log, neg: tf.neg, reciprocal: tf.reciprocal, relu: tf.relu };
    const more = { rsqrt: tf.rsqrt, sigmoid: tf.sigmoid, sqrt: tf.sqrt, square: tf.square, tanh: tf.tanh, erf: tf.erf };
    const others = { step: tf.step, elu: tf.elu, softplus: tf.softplus, log1p: tf.log1p, floor: tf.floor, sin: tf.sin };
    const [name, op] = this.pick(Object.entries({ ...smooth, ...more, ...others }));
    const gradient = name !== 'floor';
    return { name, inputs: [this.values(this.shape())], compute: (x) => op(x!), gradient, signedZeros: true };
  }

  private binary(): Case {
    const arithmetic = { add: tf.add, sub: tf.sub, mul: tf.mul, div: tf.div, squaredDifference: tf.squaredDifference };
    const order = { maximum: tf.maximum, minimum: tf.minimum };
    const comparison = { equal: tf.equal, greater: tf.greater, lessEqual: tf.lessEqual };
    const [name, op] = this.pick(Object.entries<typeof tf.add>({ ...arithmetic, ...order, ...comparison } as never));
    const shape = this.shape();
    const shapes = [shape, this.narrower(shape)];
    if (this.chance(0.5)) shapes.reverse();
    const [a, b] = [this.values(shapes[0]!, this.dtype()), this.values(shapes[1]!, this.dtype())];
    const gradient = !(name in comparison) && a.dtype === 'float32' && b.dtype === 'float32';
    return { name: `${name} of ${a.dtype} and ${b.dtype}`, inputs: [a, b], compute: (x, y) => op(x!, y!), gradient };
  }

  private matMul(): Case {
    const [m, n, k] = [this.pick([1, 3, 8, 33]), this.pick([1, 5, 17, 33]), this.pick([0, 1, 3, 16, 65, 130])];
    const batch = this.chance(0.5) ? [] : [this.between(1, 4)];
    const [transposeA, transposeB] = [this.chance(0.5), this.chance(0.5)];
    const a = this.values([...batch, ...(transposeA ? [k, m] : [m, k])]);
    const b = this.values([...batch, ...(transposeB ? [n, k] : [k, n])]);
    if (batch.length || this.chance(0.6)) {
      const compute = (x?: tf.Tensor, y?: tf.Tensor) => tf.matMul(x!, y!, transposeA, transposeB);
      return { name: 'matMul', inputs: [a, b], compute, gradient: true };
    }
    const activation = this.pick(['linear', 'relu', 'sigmoid', 'elu'] as const);
    return {
      name: `fused.matMul with ${activation}`,
      inputs: [a, b, this.values([n])],
      compute: (x, y, bias) =>
        tf.fused.matMul({ a: x as tf.Tensor2D, b: y as tf.Tensor2D, bias: bias!, transposeA, transposeB, activation }),
    };
  }

  private convolution(): Case {
    const [height, width, channels] = [this.between(1, 12), this.between(1, 12), this.pick([1, 2, 3, 8, 17])];
    const [kernelHeight, kernelWidth] = [this.pick([1, 2, 3, 5]), this.pick([1, 2, 3, 5])];
    const out = this.pick([1, 3, 8, 16]);
    const dilation = this.pick([1, 1, 1, 2]);
    const stride = dilation > 1 ? 1 : this.pick<number | [number, number]>([1, 2, 3, [1, 2], [2, 1]]);
    const pad = this.pick<tf.backend_util.ExplicitPadding | number | 'same' | 'valid'>([
      'same',
      'valid',
      0,
      1,
      2,
      [[0, 0], [1, 2], [0, 1], [0, 0]], // prettier-ignore
    ]);
    const [x, filter] = [
      this.values([this.between(1, 3), height, width, channels]),
      this.values([kernelHeight, kernelWidth, channels, out]),
    ];
    const name = `conv2d, kernel ${kernelHeight} x ${kernelWidth}, stride ${String(stride)}, pad ${String(pad)}, dilation ${dilation}`;
    if (this.chance(0.6)) {
      const compute = (a?: tf.Tensor, b?: tf.Tensor) =>
        tf.conv2d(a as tf.Tensor4D, b as tf.Tensor4D, stride, pad as number, 'NHWC', dilation);
      // tfjs has no gradient for dilated convolutions.
      return { name, inputs: [x, filter], compute, gradient: dilation === 1 };
    }
    const activation = this.pick(['linear', 'relu', 'sigmoid', 'elu'] as const);
    return {
      name: `fused ${name}, ${activation}`,
      inputs: [x, filter, this.values([out])],
      compute: (a, b, bias) =>
        tf.fused.conv2d({
          x: a as tf.Tensor4D,
          filter: b as tf.Tensor4D,
          bias: bias!,
          strides: stride,
          pad: pad as number,
          dilations: dilation,
          activation,
        }),
    };
  }

  private depthwise(): Case {
    const [channels, kernel] = [this.pick([1, 2, 5, 8]), [this.pick([1, 2, 3]), this.pick([1, 2, 3])]];
    const [stride, pad] = [this.pick([1, 2]), this.pick<number | 'same' | 'valid'>(['same', 'valid', 1])];
    const x = this.values([this.between(1, 2), this.between(1, 10), this.between(1, 10), channels]);
    const filter = this.values([...kernel, channels, this.pick([1, 1, 2])]);
    return {
      name: `depthwiseConv2d, kernel ${kernel.join(' x ')}, stride ${stride}, pad ${pad}`,
      inputs: [x, filter],
      compute: (a, b) => tf.depthwiseConv2d(a as tf.Tensor4D, b as tf.Tensor4D, stride, pad),
      gradient: true,
    };
  }

  private transposedConvolution(): Case {
    const [height, width] = [this.between(1, 6), this.between(1, 6)];
    const [channels, out, kernel, stride] = [
      this.pick([1, 3]),
      this.pick([1, 4]),
      this.between(1, 3),
      this.pick([1, 2]),
    ];
    const shape: [number, number, number, number] = [1, height * stride - this.random.int(stride), width * stride, out];
    return {
      name: `conv2dTranspose, kernel ${kernel}, stride ${stride}`,
      inputs: [this.values([1, height, width, channels]), this.values([kernel, kernel, out, channels])],
      compute: (a, b) => tf.conv2dTranspose(a as tf.Tensor4D, b as tf.Tensor4D, shape, stride, 'same'),
      gradient: true,
    };
  }

  private pooling(): Case {
    const average = this.chance(0.7);
    const window = this.pick<number | [number, number]>([1, 2, 3, [2, 3], [1, 4]]);
    const [stride, pad] = [this.pick([1, 2, 3]), this.pick<number | 'same' | 'valid'>(['same', 'valid', 0, 1])];
    const x = this.values([this.between(1, 2), this.between(1, 9), this.between(1, 9), this.pick([1, 3, 16])]);
    return {
      name: `${average ? 'avgPool' : 'maxPool'}, window ${String(window)}, stride ${stride}, pad ${pad}`,
      inputs: [x],
      compute: (a) => (average ? tf.avgPool : tf.maxPool)(a as tf.Tensor4D, window, stride, pad),
      gradient: average,
    };
  }

  private reduction(): Case {
    const ops = { sum: tf.sum, mean: tf.mean, max: tf.max, min: tf.min, logSumExp: tf.logSumExp };
    const [name, op] = this.pick(Object.entries(ops));
    const shape = this.shape();
    const dtype = name === 'logSumExp' ? 'float32' : this.dtype();
    const axes = this.chance(0.3) ? undefined : shape.map((_, i) => i).filter(() => this.chance(0.5));
    const keep = this.chance(0.5);
    const gradient = dtype === 'float32' && (name === 'sum' || name === 'mean');
    return {
      name: `${name} of ${dtype}`,
      inputs: [this.values(shape, dtype)],
      compute: (x) => op(x!, axes, keep),
      gradient,
    };
  }

  private softmax(): Case {
    const [name, op] = this.pick(Object.entries({ softmax: tf.softmax, logSoftmax: tf.logSoftmax }));
    return { name, inputs: [this.values(this.shape(1, 4))], compute: (x) => op(x!), gradient: true };
  }

  private moving(): Case {
    const shape = this.shape(1, 4);
    const dtype = this.dtype();
    const x = this.values(shape, dtype);
    const axis = this.random.int(shape.length);
    const gradient = dtype === 'float32';
    const order = this.random.fork('order');
    const permutation = shape.map((_, i) => [order.next(), i] as const).sort(([a], [b]) => a - b);
    const begin = shape.map((n) => this.random.int(Math.max(1, n)));
    const size = shape.map((n, i) => this.between(0, n - begin[i]!));
    const paddings = shape.map((): [number, number] => [this.random.int(3), this.random.int(3)]);
    const first = this.between(0, shape[axis]!);
    const other = this.values(shape.map((n, i) => (i === axis ? this.between(0, 5) : n)), dtype); // prettier-ignore
    return this.pick<Case>([
      { name: 'transpose', inputs: [x], compute: (a) => tf.transpose(a!, permutation.map(([, i]) => i)), gradient }, // prettier-ignore
      { name: 'slice', inputs: [x], compute: (a) => tf.slice(a!, begin, size), gradient },
      { name: 'pad', inputs: [x], compute: (a) => tf.pad(a!, paddings, dtype === 'float32' ? 1.5 : 1), gradient },
      { name: 'concat', inputs: [x, other], compute: (...all) => tf.concat(all, axis), gradient },
      { name: 'reverse', inputs: [x], compute: (a) => tf.reverse(a!, axis) },
      { name: 'tile', inputs: [x], compute: (a) => tf.tile(a!, shape.map((_, i) => 1 + (i % 2))), gradient }, // prettier-ignore
      {
        name: 'split',
        inputs: [x],
        compute: (a) => tf.concat(tf.split(a!, [first, shape[axis]! - first], axis).reverse(), axis),
        gradient,
      },
    ]);
  }

  private selection(): Case {
    const shape = this.shape(1, 4).map((n) => Math.max(1, n));
    const [x, y] = [this.values(shape), this.values(shape)];
    const rows = Array.from({ length: this.between(1, 6) }, () => this.random.int(shape[0]!));
    const to = this.dtype();
    return this.pick<Case>([
      { name: 'where', inputs: [this.values(shape, 'bool'), x, y], compute: (c, a, b) => tf.where(c!, a!, b!) },
      { name: 'addN', inputs: [x, y, x], compute: (...all) => tf.addN(all), gradient: true },
      { name: 'gather', inputs: [x], compute: (a) => tf.gather(a!, tf.tensor1d(rows, 'int32')), gradient: true },
      { name: `cast to ${to}`, inputs: [this.values(shape, this.dtype())], compute: (a) => tf.cast(a!, to) },
      { name: 'argMax', inputs: [x], compute: (a) => tf.argMax(a!, -1) },
      { name: 'cumsum', inputs: [x], compute: (a) => tf.cumsum(a!, -1) },
    ]);
  }
}

function resultOf({ inputs, compute, gradient }: Case): Result {
  try {
    return tf.tidy(() => {
      const tensors = inputs.map(({ data, shape, dtype }) => tf.tensor(data, [...shape], dtype));
      const y = compute(...tensors);
      const all = [y];
      if (gradient) {
        const dy = tf.tensor(Float32Array.from({ length: y.size }, (_, i) => ((i * 7) % 11) / 5 - 1), y.shape); // prettier-ignore
        all.push(...tf.grads((...x: tf.Tensor[]) => compute(...x))(tensors, dy));
      }
      return { shape: y.shape, dtype: y.dtype, values: all.map((x) => Array.from(x.dataSync())) };
    });
  } catch (error) {
    return { error: (error as Error).message };
  }
}

/** Describes the first difference; undefined if there is none. Both backends may fail, with different messages. */
function difference(native: Result, cpu: Result, signedZeros: boolean): string | undefined {
  if (native.error !== undefined || cpu.error !== undefined) {
    if (native.error !== undefined && cpu.error !== undefined) return undefined;
    return `native ${native.error ?? 'succeeds'}, cpu ${cpu.error ?? 'succeeds'}`;
  }
  const [ours, theirs] = [native, cpu].map(({ shape, dtype }) => `${dtype} [${shape!.join(', ')}]`);
  if (ours !== theirs) return `native ${ours}, cpu ${theirs}`;
  for (const [i, expected] of cpu.values!.entries()) {
    const actual = native.values![i]!;
    // Gradients are sums of numbers around 1, which may cancel.
    const least = i === 0 ? 0 : 0.1;
    const scale = expected.reduce((top, v) => (Number.isFinite(v) ? Math.max(top, Math.abs(v)) : top), least);
    const at = expected.findIndex((v, j) => !isClose(actual[j]!, v, scale, signedZeros && i === 0));
    const what = i === 0 ? 'value' : `gradient of input ${i - 1}`;
    if (at >= 0) return `${what}, element ${at}: native ${show(actual[at]!)}, cpu ${show(expected[at]!)}`;
  }
  return undefined;
}

const show = (x: number): string => (Object.is(x, -0) ? '-0' : String(x));

/** Allows rounding differences relative to the largest value, and denormal results as 0. */
function isClose(x: number, y: number, scale: number, signedZeros: boolean): boolean {
  if (signedZeros && x === 0 && y === 0) return Object.is(x, y);
  if (x === y || (Number.isNaN(x) && Number.isNaN(y))) return true;
  return Math.abs(x - y) <= 3e-5 * scale + 1e-3 * Math.abs(y) + 2 ** -126;
}

/** Runs `count` cases and prints those that differ. */
export async function fuzz(seed: number, count: number): Promise<{ passed: number; failed: number }> {
  const cases = new Cases(new Random(seed));
  await useBackend('cpu');
  await useBackend('native');
  let failed = 0;
  for (let i = 0; i < count; i++) {
    const each = cases.next();
    await tf.setBackend('native');
    const native = resultOf(each);
    await tf.setBackend('cpu');
    const found = difference(native, resultOf(each), each.signedZeros ?? false);
    if (found === undefined) continue;
    failed++;
    const shapes = each.inputs.map(({ shape }) => `[${shape.join(', ')}]`).join(', ');
    console.log(`FAILED random case ${i} of seed ${seed}: ${each.name}, shapes ${shapes}\n    ${found}`);
  }
  return { passed: count - failed, failed };
}
