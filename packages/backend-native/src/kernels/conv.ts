import * as tf from '@tensorflow/tfjs-core';
import type { Layout } from '../onednn/layout';
import type { OneDnn } from '../onednn/onednn';
import { ARG, type PostOp } from '../onednn/operations';
import type { Primitive } from '../onednn/primitive';
import type { OneDnnBackend, NativeKernel } from '../onednn/onednn-backend';
import type { PackedFilter } from '../frozen/packed-filter';
import { plainFloats, sizeOf } from '../shared/pooled-backend';
import type { Compiled } from '../shared/primitive-cache';
import { activate } from './activate';
import { activateInto, asPostOps } from './activation';
import {
  choose,
  forwardMaker,
  geometryOf,
  grouped,
  kernelLayout,
  keyOf,
  images,
  isRegular,
  type Convolution,
  type Ending,
} from './convolution';
import { frozenConvolutions, type FrozenLayer } from './frozen-conv';

type Direction = 'forward' | 'input' | 'weights';

/**
 * A convolution compiled for one direction. oneDNN requires kernels in blocks of its own: they are small, so each call
 * rearranges them. Images stay NHWC.
 */
class ConvPlan implements Compiled {
  private readonly main: Primitive;
  private readonly rearrange: Primitive | undefined;
  /** Holds the kernel in oneDNN's blocks. */
  private readonly blocked: Float32Array | undefined;
  private readonly address: number = 0;

  constructor(
    dnn: OneDnn,
    direction: Direction,
    c: Convolution,
    ending: Ending,
    private readonly backend: OneDnnBackend,
  ) {
    const [x, y] = [images(c.x), images(c.y)];
    const make = {
      forward: forwardMaker(dnn, c, ending),
      input: (kernel: Layout) => dnn.convBackwardData(x, kernel, y, geometryOf(c)),
      weights: (kernel: Layout) => dnn.convBackwardWeights(x, kernel, y, geometryOf(c)),
    }[direction];
    const chosen = choose(make, c);
    this.main = chosen.primitive;
    if (chosen.plain && c.order === 'hwio') return;
    const plain = kernelLayout(c);
    const blocks = {
      dims: plain.dims,
      chosen: this.main.layout(direction === 'weights' ? ARG.diffWeights : ARG.weights),
    };
    this.rearrange = direction === 'weights' ? dnn.reorder(blocks, plain) : dnn.reorder(plain, blocks);
    this.blocked = backend.pool.allocate(Math.ceil(dnn.bytes(blocks) / 4));
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
    if (this.blocked) this.backend.pool.release(this.blocked);
  }
}

function plan(backend: OneDnnBackend, direction: Direction, c: Convolution, ending: Ending = {}): ConvPlan {
  const key = `conv ${direction} ${keyOf(c, ending)}`;
  return backend.compiled(key, (dnn) => new ConvPlan(dnn, direction, c, ending, backend));
}

function forward(
  b: OneDnnBackend,
  c: Convolution,
  x: tf.TensorInfo,
  w: tf.TensorInfo,
  bias?: tf.TensorInfo,
  post?: readonly PostOp[],
) {
  const y = b.output(c.y);
  const address = bias && b.address(bias);
  plan(b, 'forward', c, { bias: bias !== undefined, post }).forward(b.address(x), b.address(w), b.address(y), address);
  return y;
}

function inputGradient(b: OneDnnBackend, c: Convolution, dy: tf.TensorInfo, w: tf.TensorInfo) {
  const dx = b.output(c.x);
  plan(b, 'input', c).input(b.address(dy), b.address(w), b.address(dx));
  return dx;
}

function weightsGradient(b: OneDnnBackend, c: Convolution, x: tf.TensorInfo, dy: tf.TensorInfo, shape: number[]) {
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

/** A tfjs convolution; undefined if oneDNN cannot compute it. */
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
  if (info.outShape.some((n) => n <= 0)) return undefined;
  const c: Convolution = {
    x: info.inShape,
    y: info.outShape,
    kernel: [info.filterHeight, info.filterWidth],
    groups: depthwise ? info.inChannels : 1,
    order: depthwise ? 'hwim' : 'hwio',
    stride: [info.strideHeight, info.strideWidth],
    dilation: [info.dilationHeight, info.dilationWidth],
    padStart: [info.padInfo.top, info.padInfo.left],
  };
  return isRegular(c) ? c : undefined;
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
    // tfjs' transposed convolution uses this kernel too, with sizes that may differ from those of the convolution.
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

/** Attributes of one convolution: its activation, and the frozen kernel if this backend packed one. */
interface GroupedAttrs {
  readonly activation?: string;
  readonly frozen?: { readonly shape: readonly number[]; readonly packed: PackedFilter };
}

/** `{x NHWC, weight? OIHW, bias? [out]}` -> `[y NHWC, z]`; z, before the activation, only if it is taped. */
const groupedConvolution: NativeKernel = ({ x, weight, bias }, attrs, backend) => {
  const { activation, frozen, taped } = attrs as GroupedAttrs & { taped?: boolean };
  if (frozen && !taped) return [frozenConvolutions(backend, x!, [frozenLayer(x!.shape, attrs, bias)])];
  // The activation is fused into the convolution unless its input is needed too.
  const fused = activation && !taped ? asPostOps(activation) : undefined;
  let z: tf.TensorInfo;
  if (frozen) z = frozenConvolutions(backend, x!, [frozenLayer(x!.shape, { ...attrs, activation: undefined }, bias)]);
  else {
    const [out, , ...kernel] = weight!.shape;
    z = forward(backend, grouped(x!.shape, out!, kernel, attrs), x!, weight!, bias, fused);
  }
  if (!activation || fused) return [z];
  const y = taped ? backend.output(z.shape) : z;
  const n = sizeOf(z.shape);
  if (n) activateInto(backend, activation, backend.address(z), backend.address(y), n);
  return taped ? [y, z] : [y];
};

function frozenLayer(x: readonly number[], attrs: Attrs, bias: tf.TensorInfo | undefined): FrozenLayer {
  const { activation, frozen } = attrs as GroupedAttrs;
  const [out, , ...kernel] = frozen!.shape;
  return { convolution: grouped(x, out!, kernel, attrs), filter: frozen!.packed, bias, activation };
}

/** `{x NHWC, weight0? OIHW, bias0? [out], weight1?, bias1?, ...}` -> `[y NHWC]` */
const sequence: NativeKernel = ({ x, ...rest }, attrs, backend) => {
  const layers = attrs['layers'] as readonly Attrs[];
  if (layers.every(({ frozen }) => frozen)) {
    let shape: readonly number[] = x!.shape;
    const described = layers.map((layer, i) => {
      const next = frozenLayer(shape, layer, rest[`bias${i}`]);
      shape = next.convolution.y;
      return next;
    });
    return [frozenConvolutions(backend, x!, described)];
  }
  let from = x!;
  layers.forEach((layer, i) => {
    const inputs = { x: from, weight: rest[`weight${i}`]!, bias: rest[`bias${i}`]! };
    const [y] = groupedConvolution(inputs, layer, backend) as [tf.TensorInfo];
    if (i > 0) backend.disposeData(from.dataId);
    from = y;
  });
  return [from];
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
  FlamingoConv2DSequence: sequence,
  FlamingoConv2DInputGrad: groupedInputGradient,
  FlamingoConv2DWeightGrad: groupedWeightGradient,
};
