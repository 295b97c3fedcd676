import * as tf from '@tensorflow/tfjs-core';
import { ARG, type ConvGeometry, type Layout, type OneDnn, type Primitive } from '../onednn';
import type { NativeBackend, NativeKernel } from '../native-backend';
import { plainFloats, sizeOf } from '../pooled-backend';
import type { Compiled } from '../primitive-cache';
import { activate } from './activate';

/** Everything about a convolution: NHWC pictures, and how the kernel's `[o, i, h, w]` lies in memory. */
interface Convolution {
  readonly x: readonly [batch: number, height: number, width: number, channels: number];
  readonly y: readonly [batch: number, height: number, width: number, channels: number];
  readonly kernel: readonly [height: number, width: number];
  readonly groups: number;
  /** Memory order of the kernel: tfjs' `hwio`, depthwise `hwim` with m outputs per input, or this project's `oihw`. */
  readonly order: 'hwio' | 'hwim' | 'oihw';
  readonly stride: readonly [number, number];
  readonly dilation: readonly [number, number];
  readonly padStart: readonly [number, number];
}

type Direction = 'forward' | 'input' | 'weights';

function pictures([n, h, w, c]: readonly [number, number, number, number]): Layout {
  return { dims: [n, c, h, w], strides: [h * w * c, 1, w * c, c] };
}

/** The kernel as its owner has it, with an axis for groups if there is more than one. */
function kernelLayout({ x, y, kernel: [kh, kw], groups, order }: Convolution): Layout {
  const [inputs, outputs] = [x[3] / groups, y[3] / groups];
  const dims = [outputs, inputs, kh, kw];
  if (order === 'hwim') {
    // One input per group; the outputs of input c are c * m ... c * m + m - 1.
    return { dims: [groups, ...dims], strides: [outputs, 1, 1, kw * y[3], y[3]] };
  }
  if (order === 'hwio') return { dims, strides: hwioStrides(dims) };
  return { dims: groups === 1 ? dims : [groups, ...dims] };
}

function hwioStrides([outputs, inputs, , kw]: readonly number[]): number[] {
  return [1, outputs!, kw! * inputs! * outputs!, inputs! * outputs!];
}

function geometryOf({ x, y, kernel, stride, dilation, padStart }: Convolution): ConvGeometry {
  const end = (axis: 0 | 1) => {
    const reach = (kernel[axis] - 1) * dilation[axis] + 1;
    return Math.max(0, (y[axis + 1]! - 1) * stride[axis] + reach - x[axis + 1]! - padStart[axis]);
  };
  return { strides: stride, dilations: [dilation[0] - 1, dilation[1] - 1], padStart, padEnd: [end(0), end(1)] };
}

/**
 * Whether to use an implementation. The reference one is slow. The one for 1x1 kernels writes past its buffers when it also
 * has to skip pixels and the channels do not fill its blocks of eight (seen in 2.6.3: wrong sums and a damaged heap).
 */
function trusted({ implementation }: Primitive, { x, y, groups, stride }: Convolution): boolean {
  if (implementation.startsWith('ref')) return false;
  const skips = stride[0] > 1 || stride[1] > 1;
  const ragged = (x[3] / groups) % 8 !== 0 || (y[3] / groups) % 8 !== 0;
  return !(implementation.startsWith('jit_1x1') && skips && ragged);
}

/**
 * A convolution compiled for one direction. oneDNN wants kernels in blocks of its own: they are small, so they are
 * rearranged at each call, while pictures stay NHWC.
 */
class ConvPlan implements Compiled {
  private main: Primitive;
  private readonly rearrange: Primitive | undefined;
  /** Holds the kernel in oneDNN's blocks; kept so that the memory stays. */
  private readonly blocked: Float32Array | undefined;
  private readonly address: number = 0;

  constructor(dnn: OneDnn, direction: Direction, c: Convolution, bias: boolean, backend: NativeBackend) {
    const plain = kernelLayout(c);
    const make = (kernel: Layout) => {
      const g = geometryOf(c);
      const [x, y] = [pictures(c.x), pictures(c.y)];
      if (direction === 'input') return dnn.convBackwardData(x, kernel, y, g);
      if (direction === 'weights') return dnn.convBackwardWeights(x, kernel, y, g);
      return dnn.convForward(x, kernel, bias ? { dims: [c.y[3]] } : undefined, y, g);
    };
    const { dims } = plain;
    this.main = make({ dims, strides: 'any' });
    if (!trusted(this.main, c) && dims.length === 4) {
      // The one plain layout that its convolution by matrix product takes.
      const byProduct = make({ dims, strides: hwioStrides(dims) });
      this.main.destroy();
      this.main = byProduct;
      if (c.order === 'hwio') return;
    }
    const chosen = { dims, chosen: this.main.layout(direction === 'weights' ? ARG.diffWeights : ARG.weights) };
    this.rearrange = direction === 'weights' ? dnn.reorder(chosen, plain) : dnn.reorder(plain, chosen);
    this.blocked = backend.pool.allocate(Math.ceil(dnn.bytes(chosen) / 4));
    this.address = backend.pool.address(this.blocked);
  }

  forward(x: number, kernel: number, y: number, bias?: number): void {
    const weights = this.arranged(kernel);
    if (bias === undefined) this.main.run(x, weights, y);
    else this.main.run(x, weights, bias, y);
  }

  input(dy: number, kernel: number, dx: number): void {
    this.main.run(dy, this.arranged(kernel), dx);
  }

  weights(x: number, dy: number, dkernel: number): void {
    this.main.run(x, dy, this.blocked ? this.address : dkernel);
    this.rearrange?.run(this.address, dkernel);
  }

  private arranged(kernel: number): number {
    if (!this.rearrange) return kernel;
    this.rearrange.run(kernel, this.address);
    return this.address;
  }

  destroy(): void {
    this.main.destroy();
    this.rearrange?.destroy();
  }
}

function plan(backend: NativeBackend, direction: Direction, c: Convolution, bias = false): ConvPlan {
  const numbers = [c.x, c.y, c.kernel, c.groups, c.stride, c.dilation, c.padStart].join();
  const key = `conv ${direction} ${c.order} ${bias} ${numbers}`;
  return backend.compiled(key, (dnn) => new ConvPlan(dnn, direction, c, bias, backend));
}

function forward(b: NativeBackend, c: Convolution, x: tf.TensorInfo, w: tf.TensorInfo, bias?: tf.TensorInfo) {
  const y = b.output(c.y);
  const address = bias && b.address(bias);
  plan(b, 'forward', c, bias !== undefined).forward(b.address(x), b.address(w), b.address(y), address);
  return y;
}

function inputGradient(b: NativeBackend, c: Convolution, dy: tf.TensorInfo, w: tf.TensorInfo) {
  const dx = b.output(c.x);
  plan(b, 'input', c).input(b.address(dy), b.address(w), b.address(dx));
  return dx;
}

function weightsGradient(b: NativeBackend, c: Convolution, x: tf.TensorInfo, dy: tf.TensorInfo, shape: number[]) {
  const dw = b.output(shape);
  if (!sizeOf(x.shape) || !sizeOf(dy.shape)) {
    b.values(dw).fill(0);
    return dw;
  }
  plan(b, 'weights', c).weights(b.address(x), b.address(dy), b.address(dw));
  return dw;
}

// ---- tfjs' kernels ------------------------------------------------------------------------------------------------

interface ConvAttrs {
  readonly strides: [number, number] | number;
  readonly pad: 'valid' | 'same' | number | tf.backend_util.ExplicitPadding;
  readonly dataFormat?: string;
  readonly dilations?: [number, number] | number;
  readonly dimRoundingMode?: 'floor' | 'round' | 'ceil';
}

/** A tfjs convolution, or nothing where it is not one for oneDNN. */
function describe(x: number[], filter: number[], attrs: ConvAttrs, depthwise: boolean): Convolution | undefined {
  const { strides, pad, dataFormat = 'NHWC', dilations, dimRoundingMode } = attrs;
  if (dataFormat !== 'NHWC') return undefined;
  const info = tf.backend_util.computeConv2DInfo(
    x as [number, number, number, number],
    filter as [number, number, number, number],
    strides,
    dilations ?? 1,
    pad,
    dimRoundingMode,
    depthwise,
  );
  if (!depthwise && info.inChannels !== filter[2]) return undefined;
  if (sizeOf(info.outShape) <= 0) return undefined;
  return {
    x: info.inShape,
    y: info.outShape,
    kernel: [info.filterHeight, info.filterWidth],
    groups: depthwise ? info.inChannels : 1,
    order: depthwise ? 'hwim' : 'hwio',
    stride: [info.strideHeight, info.strideWidth],
    dilation: [info.dilationHeight, info.dilationWidth],
    padStart: [info.padInfo.top, info.padInfo.left],
  };
}

type Attrs = Record<string, unknown>;
const convAttrs = (attrs: Attrs) => attrs as unknown as ConvAttrs;

const convolution =
  (depthwise: boolean): NativeKernel =>
  ({ x, filter }, attrs, backend) => {
    const c = plainFloats(x, filter) ? describe(x!.shape, filter!.shape, convAttrs(attrs), depthwise) : undefined;
    return c && forward(backend, c, x!, filter!);
  };

const convolutionInputGradient =
  (depthwise: boolean): NativeKernel =>
  ({ dy, filter }, attrs, backend) => {
    const shape = attrs['inputShape'] as number[];
    const c = plainFloats(dy, filter) ? describe(shape, filter!.shape, convAttrs(attrs), depthwise) : undefined;
    // tfjs' transposed convolution also comes here, with sizes that need not be those of the convolution it transposes.
    if (c && !tf.util.arraysEqual(dy!.shape, [...c.y])) return undefined;
    return c && inputGradient(backend, c, dy!, filter!);
  };

const convolutionFilterGradient =
  (depthwise: boolean): NativeKernel =>
  ({ x, dy }, attrs, backend) => {
    const shape = attrs['filterShape'] as number[];
    const c = plainFloats(x, dy) ? describe(x!.shape, shape, convAttrs(attrs), depthwise) : undefined;
    if (c && !tf.util.arraysEqual(dy!.shape, [...c.y])) return undefined;
    return c && weightsGradient(backend, c, x!, dy!, shape);
  };

const fusedConvolution =
  (depthwise: boolean): NativeKernel =>
  ({ x, filter, bias, preluActivationWeights }, attrs, backend) => {
    if (!plainFloats(x, filter, bias, preluActivationWeights)) return undefined;
    const c = describe(x!.shape, filter!.shape, convAttrs(attrs), depthwise);
    if (!c || (bias && sizeOf(bias.shape) !== c.y[3])) return undefined;
    return activate(forward(backend, c, x!, filter!, bias), attrs, preluActivationWeights, backend);
  };

// ---- this project's convolution in groups -------------------------------------------------------------------------

interface GroupedAttrs {
  readonly stride: number;
  readonly groups: number;
  readonly top: number;
  readonly bottom: number;
  readonly left: number;
  readonly right: number;
}

function grouped(x: readonly number[], out: number, kernel: readonly number[], attrs: Attrs): Convolution {
  const { stride, groups, top, bottom, left, right } = attrs as unknown as GroupedAttrs;
  const [n, h, w, c] = x as [number, number, number, number];
  const [kh, kw] = kernel as [number, number];
  const height = Math.floor((h + top + bottom - kh) / stride) + 1;
  const width = Math.floor((w + left + right - kw) / stride) + 1;
  return {
    x: [n, h, w, c],
    y: [n, height, width, out],
    kernel: [kh, kw],
    groups,
    order: 'oihw',
    stride: [stride, stride],
    dilation: [1, 1],
    padStart: [top, left],
  };
}

const groupedConvolution: NativeKernel = ({ x, weight, bias }, attrs, backend) => {
  const [out, , kh, kw] = weight!.shape as [number, number, number, number];
  return [forward(backend, grouped(x!.shape, out, [kh, kw], attrs), x!, weight!, bias)];
};

const groupedInputGradient: NativeKernel = ({ dy, weight }, attrs, backend) => {
  const [out, inputs, kh, kw] = weight!.shape as [number, number, number, number];
  const x = [dy!.shape[0]!, attrs['height'] as number, attrs['width'] as number, inputs * (attrs['groups'] as number)];
  return [inputGradient(backend, grouped(x, out, [kh, kw], attrs), dy!, weight!)];
};

const groupedWeightGradient: NativeKernel = ({ dy, x }, attrs, backend) => {
  const kernel = [attrs['kernelHeight'] as number, attrs['kernelWidth'] as number];
  const out = dy!.shape[3]!;
  const shape = [out, x!.shape[3]! / (attrs['groups'] as number), ...kernel];
  return [weightsGradient(backend, grouped(x!.shape, out, kernel, attrs), x!, dy!, shape)];
};

export const convKernels: Record<string, NativeKernel> = {
  [tf.Conv2D]: convolution(false),
  [tf.Conv2DBackpropInput]: convolutionInputGradient(false),
  [tf.Conv2DBackpropFilter]: convolutionFilterGradient(false),
  [tf.FusedConv2D]: fusedConvolution(false),
  [tf.DepthwiseConv2dNative]: convolution(true),
  [tf.DepthwiseConv2dNativeBackpropInput]: convolutionInputGradient(true),
  [tf.DepthwiseConv2dNativeBackpropFilter]: convolutionFilterGradient(true),
  [tf.FusedDepthwiseConv2D]: fusedConvolution(true),
  FlamingoConv2D: groupedConvolution,
  FlamingoConv2DInputGrad: groupedInputGradient,
  FlamingoConv2DWeightGrad: groupedWeightGradient,
};
