import * as tf from '@tensorflow/tfjs-core';
import { fusedOp } from './fused-op';
import { asRows, expectShape } from './shape';
import { sumRows } from './sum-rows';

/** Parameters of a convolution. */
export interface Conv2dParams {
  /** `[out, in / groups, kernelHeight, kernelWidth]` */
  readonly weight: tf.Tensor;
  /** `[out]` */
  readonly bias?: tf.Tensor1D;
}

/** `same`: TensorFlow's, the odd cell after; `symmetric`: floor(k / 2) on both sides; `valid`: none. */
export type Padding = 'same' | 'symmetric' | 'valid';

/** How `conv2d` moves. */
export interface Conv2dOptions {
  readonly stride: number;
  readonly groups?: number;
  readonly padding: Padding;
}

/** Zeros around a picture. */
interface Pads {
  readonly top: number;
  readonly bottom: number;
  readonly left: number;
  readonly right: number;
}

interface ConvAttrs extends Pads {
  readonly stride: number;
  readonly groups: number;
}

/** Zeros before and after an axis of n cells. */
function padsOf(n: number, kernel: number, stride: number, padding: Padding): [before: number, after: number] {
  if (padding === 'valid') return [0, 0];
  if (padding === 'symmetric') return [Math.floor(kernel / 2), Math.floor(kernel / 2)];
  const total = Math.max((Math.ceil(n / stride) - 1) * stride + kernel - n, 0);
  return [Math.floor(total / 2), total - Math.floor(total / 2)];
}

function pad(x: tf.Tensor4D, { top, bottom, left, right }: Pads): tf.Tensor4D {
  return top || bottom || left || right
    ? tf.pad(x, [
        [0, 0],
        [top, bottom],
        [left, right],
        [0, 0],
      ])
    : x;
}

/** A picture's channels in equal parts. */
function splitChannels(x: tf.Tensor, groups: number): tf.Tensor4D[] {
  return (groups === 1 ? [x] : tf.split(x, groups, 3)) as tf.Tensor4D[];
}

/** OIHW kernels of each group as HWIO. */
function kernelsOf(weight: tf.Tensor, groups: number): tf.Tensor4D[] {
  const hwio = tf.transpose(weight, [2, 3, 1, 0]);
  return splitChannels(hwio, groups);
}

/** `{x NHWC, weight OIHW, bias? [out]}` -> `[y NHWC]` */
const convOp = fusedOp<ConvAttrs>({
  name: 'FlamingoConv2D',
  forward: ({ x, weight, bias }, attrs) => {
    const kernels = kernelsOf(weight!, attrs.groups);
    const parts = splitChannels(pad(x as tf.Tensor4D, attrs), attrs.groups).map((part, g) =>
      tf.conv2d(part, kernels[g]!, attrs.stride, 'valid'),
    );
    const y = tf.concat(parts, 3);
    return [bias ? tf.add(y, bias) : y];
  },
  saveInputs: ['x', 'weight'],
  gradient: ([dy], { x, weight }, attrs) => ({
    x: () => convInputGradOp({ dy, weight }, { ...attrs, height: x!.shape[1]!, width: x!.shape[2]! })[0]!,
    weight: () =>
      convWeightGradOp({ dy, x }, { ...attrs, kernelHeight: weight!.shape[2]!, kernelWidth: weight!.shape[3]! })[0]!,
    bias: () => sumRows(dy!),
  }),
});

/** `{dy NHWC, weight OIHW}` -> dx `[batch, height, width, in]` */
const convInputGradOp = fusedOp<ConvAttrs & { readonly height: number; readonly width: number }>({
  name: 'FlamingoConv2DInputGrad',
  forward: ({ dy, weight }, attrs) => {
    const { height, width, top, bottom, left, right, stride, groups } = attrs;
    const batch = dy!.shape[0]!;
    const inputs = weight!.shape[1]!;
    const kernels = kernelsOf(weight!, groups);
    const parts = splitChannels(dy!, groups).map((part, g) =>
      conv2dInputGrad([batch, height + top + bottom, width + left + right, inputs], part, kernels[g]!, stride),
    );
    return [tf.slice(tf.concat(parts, 3), [0, top, left, 0], [batch, height, width, inputs * groups])];
  },
});

/** tfjs' own kernel for the gradient to a `valid` convolution's input. */
function conv2dInputGrad(
  inputShape: [number, number, number, number],
  dy: tf.Tensor4D,
  filter: tf.Tensor4D,
  stride: number,
): tf.Tensor4D {
  const attrs = { strides: [stride, stride], pad: 'valid', dataFormat: 'NHWC', inputShape };
  return tf.engine().runKernel(tf.Conv2DBackpropInput, { dy, filter }, attrs) as tf.Tensor4D;
}

/** `{dy NHWC, x NHWC}` -> dweight OIHW */
const convWeightGradOp = fusedOp<ConvAttrs & { readonly kernelHeight: number; readonly kernelWidth: number }>({
  name: 'FlamingoConv2DWeightGrad',
  forward: ({ dy, x }, attrs) => {
    const { kernelHeight, kernelWidth, groups } = attrs;
    const dys = splitChannels(dy!, groups).map(rowsOf);
    const parts = splitChannels(pad(x as tf.Tensor4D, attrs), groups).map((part, g) => {
      const taps: tf.Tensor[] = [];
      // Each cell of the kernel saw a picture of the output's size: one matMul per cell.
      for (let ky = 0; ky < kernelHeight; ky++) {
        for (let kx = 0; kx < kernelWidth; kx++) {
          taps.push(tf.matMul(dys[g]!, rowsOf(cellsSeen(part, ky, kx, attrs.stride, dy!.shape)), true)); // [out, in]
        }
      }
      return tf.stack(taps, -1);
    });
    const weight = tf.concat(parts, 0); //                                                       [out, in, kh*kw]
    return [tf.reshape(weight, [weight.shape[0]!, weight.shape[1]!, kernelHeight, kernelWidth])];
  },
});

/** What the kernel's cell (ky, kx) meets at each place of the output. */
function cellsSeen(x: tf.Tensor4D, ky: number, kx: number, stride: number, [b, h, w]: number[]): tf.Tensor4D {
  const size: [number, number, number, number] = [b!, (h! - 1) * stride + 1, (w! - 1) * stride + 1, x.shape[3]];
  if (stride === 1) return tf.slice(x, [0, ky, kx, 0], size);
  const end = [b!, ky + size[1], kx + size[2], x.shape[3]];
  return tf.stridedSlice(x, [0, ky, kx, 0], end, [1, stride, stride, 1]) as tf.Tensor4D;
}

function rowsOf(x: tf.Tensor): tf.Tensor2D {
  return tf.reshape(x, asRows(x));
}

/**
 * A convolution in groups.
 *
 * @param x float32 `[batch, height, width, in]`
 * @param p weight `[out, in / groups, kernelHeight, kernelWidth]` and bias `[out]`
 * @returns float32 `[batch, height', width', out]`
 */
export function conv2d(x: tf.Tensor, p: Conv2dParams, o: Conv2dOptions): tf.Tensor4D {
  const { stride, groups = 1, padding } = o;
  expectShape('conv2d: x', x, ['batch', 'height', 'width', 'in'], 'Images are NHWC.');
  const [, height, width, channels] = x.shape as [number, number, number, number];
  expectShape(
    'conv2d: weight',
    p.weight,
    ['out', channels / groups, 'kernelHeight', 'kernelWidth'],
    'Kernels are OIHW, I = in / groups.',
  );
  const [out, , kernelHeight, kernelWidth] = p.weight.shape as [number, number, number, number];
  if (out % groups !== 0) {
    throw new Error(`conv2d: the ${out} output channels must be a multiple of groups, got ${groups}.`);
  }
  if (p.bias) expectShape('conv2d: bias', p.bias, [out], 'Give one bias per output channel.');
  const [top, bottom] = padsOf(height, kernelHeight, stride, padding);
  const [left, right] = padsOf(width, kernelWidth, stride, padding);
  const padded = [height + top + bottom, width + left + right] as const;
  if (kernelHeight > padded[0] || kernelWidth > padded[1]) {
    throw new Error(
      `conv2d: the kernel ${kernelHeight}x${kernelWidth} is larger than the padded picture ${padded.join('x')}. ` +
        "Use a larger picture or padding 'same'.",
    );
  }
  const attrs = { stride, groups, top, bottom, left, right };
  return convOp({ x, weight: p.weight, bias: p.bias }, attrs)[0] as tf.Tensor4D;
}
