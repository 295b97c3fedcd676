import { F32, type Layout } from '../onednn/layout';
import type { OneDnn } from '../onednn/onednn';
import type { ConvGeometry, PostOp } from '../onednn/operations';
import type { Primitive } from '../onednn/primitive';

/** Everything about a convolution: NHWC images, and the memory order of the kernel `[o, i, h, w]`. */
export interface Convolution {
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

export function images([n, h, w, c]: readonly [number, number, number, number], type = F32): Layout {
  return { dims: [n, c, h, w], strides: [h * w * c, 1, w * c, c], type };
}

/** The kernel's layout in its tensor, with an axis for groups if there is more than one. */
export function kernelLayout({ x, y, kernel: [kh, kw], groups, order }: Convolution): Layout {
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

export function geometryOf({ x, y, kernel, stride, dilation, padStart }: Convolution): ConvGeometry {
  const end = (axis: 0 | 1) => {
    const reach = (kernel[axis] - 1) * dilation[axis] + 1;
    return Math.max(0, (y[axis + 1]! - 1) * stride[axis] + reach - x[axis + 1]! - padStart[axis]);
  };
  return { strides: stride, dilations: [dilation[0] - 1, dilation[1] - 1], padStart, padEnd: [end(0), end(1)] };
}

/**
 * Whether the output has every position at which the kernel fits, and each position overlaps the image. tfjs also computes
 * others: for numeric padding it derives the output's width from the height of the kernel and of the stride.
 */
export function isRegular(c: Convolution): boolean {
  const { padEnd } = geometryOf(c);
  return ([0, 1] as const).every((axis) => {
    const reach = (c.kernel[axis] - 1) * c.dilation[axis] + 1;
    const room = c.x[axis + 1]! + c.padStart[axis] + padEnd[axis] - reach;
    return Math.floor(room / c.stride[axis]) + 1 === c.y[axis + 1] && Math.max(c.padStart[axis], padEnd[axis]) < reach;
  });
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

/** Operations on a result before it is stored. */
export interface Ending {
  readonly bias?: boolean;
  readonly post?: readonly PostOp[];
}

/**
 * Creates a convolution with the kernel in blocks of oneDNN's choice; if its implementation cannot be trusted, with the one
 * plain layout that oneDNN's convolution by matrix product supports.
 */
export function choose(make: (kernel: Layout) => Primitive, c: Convolution, type = F32) {
  const { dims } = kernelLayout(c);
  const primitive = make({ dims, strides: 'any', type });
  if (trusted(primitive, c) || dims.length > 4) return { primitive, plain: false };
  primitive.destroy();
  return { primitive: make({ dims, strides: hwioStrides(dims), type }), plain: true };
}

/** Creates forward convolutions of images and kernel of one type, with a result of another. */
export const forwardMaker = (dnn: OneDnn, c: Convolution, { bias, post }: Ending, type = F32, result = F32) => {
  const [x, y] = [images(c.x, type), images(c.y, result)];
  return (kernel: Layout) => dnn.convForward(x, kernel, bias ? { dims: [c.y[3]] } : undefined, y, geometryOf(c), post);
};

/** Attributes of this project's grouped convolution. */
interface GroupedAttrs {
  readonly stride: number;
  readonly groups: number;
  readonly top: number;
  readonly bottom: number;
  readonly left: number;
  readonly right: number;
}

/** A convolution of images of this shape by a kernel `[out, in / groups, ...kernel]`. */
export function grouped(x: readonly number[], out: number, kernel: readonly number[], attrs: object): Convolution {
  const { stride, groups, top, bottom, left, right } = attrs as GroupedAttrs;
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

/** Everything a compiled convolution depends on, besides its direction and types. */
export const keyOf = (c: Convolution, { bias, post }: Ending): string => {
  const numbers = [c.x, c.y, c.kernel, c.groups, c.stride, c.dilation, c.padStart].join();
  return `${c.order} ${bias ?? false} ${numbers} ${post ? JSON.stringify(post) : ''}`;
};
