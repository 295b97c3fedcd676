import * as tf from '@tensorflow/tfjs-core';
import { activation as activate, activationGrad, expectActivation, type Activation } from './activation';
import { checkValue, rule } from './check-config';
import { FrozenFilter } from './frozen-filter';
import { fusedOp } from './fused-op';
import { asRows, expectShape } from './shape';
import { sumRows } from './sum-rows';

/** Parameters of a convolution. */
export interface Conv2dParams {
  /** `[out, in / groups, kernelHeight, kernelWidth]`; a frozen one gets no gradient */
  readonly weight: tf.Tensor | FrozenFilter;
  /** `[out]` */
  readonly bias?: tf.Tensor1D;
}

/** `same`: TensorFlow's, with an odd cell at the end; `symmetric`: floor(k / 2) cells on both sides; `valid`: none. */
export type Padding = 'same' | 'symmetric' | 'valid';

const PADDING = rule.oneOf(['same', 'symmetric', 'valid']);

/** Options of `conv2d`. */
export interface Conv2dOptions {
  readonly stride: number;
  readonly groups?: number;
  readonly padding: Padding;
  /** Applied to the result. */
  readonly activation?: Activation;
}

/** Cells around an image: zeros to add or, if negative, cells to remove. */
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

interface ForwardAttrs extends ConvAttrs {
  readonly activation?: Activation;
  /** Replaces the input `weight`: packed by a backend, without a gradient. */
  readonly frozen?: FrozenFilter;
}

/** Zeros before and after an axis of n cells. */
function padsOf(n: number, kernel: number, stride: number, padding: Padding): [before: number, after: number] {
  if (padding === 'valid') return [0, 0];
  if (padding === 'symmetric') return [Math.floor(kernel / 2), Math.floor(kernel / 2)];
  const total = Math.max((Math.ceil(n / stride) - 1) * stride + kernel - n, 0);
  return [Math.floor(total / 2), total - Math.floor(total / 2)];
}

/** `{x NHWC, weight? OIHW, bias? [out]}` -> `[y NHWC, z]`; z, the value before the activation, only with an activation and if taped. */
const convOp = fusedOp<ForwardAttrs>({
  name: 'FlamingoConv2D',
  forward: ({ x, weight, bias }, { activation, frozen, taped, ...attrs }) => {
    const kernels = splitChannels(tf.transpose(frozen?.dense() ?? weight!, [2, 3, 1, 0]), attrs.groups); // HWIO
    let z: tf.Tensor = joinChannels(
      splitChannels(x!, attrs.groups).map((part, g) => convolve(part, kernels[g]!, attrs.stride, attrs)),
    );
    if (bias) z = tf.add(z, bias);
    if (!activation) return [z];
    const y = activate(z, activation);
    return taped ? [y, z] : [y];
  },
  saveInputs: ['x', 'weight'],
  saveOutputs: [false, true],
  gradient: ([dy], { x, weight, out1: z }, { activation, frozen, ...attrs }) => {
    const dz = activation ? activationGrad(dy!, z!, activation) : dy!;
    const [, height, width] = x!.shape as [number, number, number, number];
    return {
      x: () => convInputGradOp({ dy: dz, weight: frozen?.dense() ?? weight }, { ...attrs, height, width })[0]!,
      weight: () => {
        const [, , kernelHeight, kernelWidth] = weight!.shape as [number, number, number, number];
        return convWeightGradOp({ dy: dz, x }, { ...attrs, kernelHeight, kernelWidth })[0]!;
      },
      bias: () => sumRows(dz),
    };
  },
});

/**
 * `{dy NHWC, weight OIHW}` -> dx `[batch, height, width, in]`
 *
 * Does not use tfjs' Conv2DBackpropInput, which on wasm is 20 times slower than a convolution. Instead, the cells of dx that
 * are a stride apart are one convolution of dy with the part of the kernel that reaches them, flipped.
 */
const convInputGradOp = fusedOp<ConvAttrs & { readonly height: number; readonly width: number }>({
  name: 'FlamingoConv2DInputGrad',
  forward: ({ dy, weight }, { height, width, stride, groups, top, left }) => {
    const [batch, h, w] = dy!.shape as [number, number, number, number];
    const [, inputs, kernelHeight, kernelWidth] = weight!.shape as [number, number, number, number];
    const vertical = phases(height, h, top, kernelHeight, stride);
    const horizontal = phases(width, w, left, kernelWidth, stride);
    const kernels = tf.split(tf.transpose(weight!, [2, 3, 0, 1]), groups, 2); // HWOI: dy's channels go in
    const parts = splitChannels(dy!, groups).map((part, g) => {
      const cells = (y: Phase, x: Phase): tf.Tensor4D => {
        if (!y.taps.length || !x.taps.length) return tf.zeros([batch, y.length, x.length, inputs]);
        const kernel = take(take(kernels[g]!, y.taps, 0), x.taps, 1) as tf.Tensor4D;
        return convolve(part, kernel, 1, { top: y.before, bottom: y.after, left: x.before, right: x.after });
      };
      return interleave(vertical.map((y) => horizontal.map((x) => cells(y, x))));
    });
    const dx = joinChannels(parts);
    return [frame(dx, { top: 0, left: 0, bottom: height - dx.shape[1], right: width - dx.shape[2] })];
  },
});

/** `{dy NHWC, x NHWC}` -> dweight OIHW. One matrix product per cell of the kernel, over all its positions. */
const convWeightGradOp = fusedOp<ConvAttrs & { readonly kernelHeight: number; readonly kernelWidth: number }>({
  name: 'FlamingoConv2DWeightGrad',
  forward: ({ dy, x }, { kernelHeight, kernelWidth, stride, groups, top, left }) => {
    const [batch, h, w, out] = dy!.shape as [number, number, number, number];
    const [, height, width, channels] = x!.shape as [number, number, number, number];
    const dys = tf.split(tf.transpose(tf.reshape(dy!, asRows(dy!))), groups, 0); // [out, places] of each group
    const reach = (n: number, kernel: number) => (n + Math.floor((kernel - 1) / stride)) * stride;
    const bottom = reach(h, kernelHeight) - height - top;
    const right = reach(w, kernelWidth) - width - left;
    const images = splitChannels(frame(x as tf.Tensor4D, { top, left, bottom, right }), groups);
    const inputs = channels / groups;

    const parts = images.map((image, g) => {
      const phase = separate(image, stride);
      const taps = range(kernelHeight).flatMap((ky) =>
        range(kernelWidth).map((kx) => {
          const start = [0, Math.floor(ky / stride), Math.floor(kx / stride), 0];
          const met = tf.slice(phase[ky % stride]![kx % stride]!, start, [batch, h, w, inputs]);
          return tf.matMul(dys[g]! as tf.Tensor2D, tf.reshape(met, [batch * h * w, inputs]));
        }),
      );
      return tf.stack(taps); // [kernelHeight * kernelWidth, out / groups, inputs]
    });
    const weight = tf.transpose(tf.concat(parts, 1), [1, 2, 0]);
    return [tf.reshape(weight, [out, inputs, kernelHeight, kernelWidth])];
  },
});

/** The cells of an axis of dx that are a stride apart. */
interface Phase {
  readonly length: number;
  /** The kernel's cells that reach them, last first. */
  readonly taps: readonly number[];
  /** Zeros around dy. */
  readonly before: number;
  readonly after: number;
}

/** Phases of an axis of `size` cells with `before` zeros, from which a kernel computed n cells. */
function phases(size: number, n: number, before: number, kernel: number, stride: number): Phase[] {
  const length = Math.ceil(size / stride);
  return range(stride).map((offset) => {
    const first = (offset + before) % stride;
    const shift = Math.floor((offset + before) / stride);
    const taps = range(kernel).filter((k) => k % stride === first);
    return { length, taps: taps.reverse(), before: taps.length - 1 - shift, after: length + shift - n };
  });
}

/** Splits an image into images of the cells a stride apart, by their first row and column: `[rows][columns]`. */
function separate(x: tf.Tensor4D, stride: number): tf.Tensor4D[][] {
  if (stride === 1) return [[x]];
  const [b, height, width, c] = x.shape;
  const [h, w] = [height / stride, width / stride];
  const rows = tf.split(tf.reshape(x, [b * h, stride, w, stride * c]), stride, 1);
  return rows.map((row) => tf.split(row, stride, 3).map((part) => tf.reshape(part, [b, h, w, c]) as tf.Tensor4D));
}

/** The inverse of `separate`. */
function interleave(parts: tf.Tensor4D[][]): tf.Tensor4D {
  const stride = parts.length;
  if (stride === 1) return parts[0]![0]!;
  const [b, h, w, c] = parts[0]![0]!.shape;
  const rows = parts.map((row) => tf.reshape(tf.concat(row, 3), [b * h, 1, w, stride * c]));
  return tf.reshape(tf.concat(rows, 1), [b, h * stride, w * stride, c]);
}

/** A convolution without groups, HWIO. Not every backend supports unequal pads, so they are added first. */
function convolve(x: tf.Tensor4D, kernel: tf.Tensor4D, stride: number, pads: Pads): tf.Tensor4D {
  const [top, bottom] = padsOf(x.shape[1], kernel.shape[0], stride, 'same');
  const [left, right] = padsOf(x.shape[2], kernel.shape[1], stride, 'same');
  const same = top === pads.top && bottom === pads.bottom && left === pads.left && right === pads.right;
  return same ? tf.conv2d(x, kernel, stride, 'same') : tf.conv2d(frame(x, pads), kernel, stride, 'valid');
}

/** Adds zeros or removes cells. */
function frame(x: tf.Tensor4D, { top, bottom, left, right }: Pads): tf.Tensor4D {
  const all = [top, bottom, left, right];
  const [b, height, width, c] = x.shape;
  let framed = x;
  if (all.some((n) => n < 0)) {
    const [y, z] = [Math.max(-top, 0), Math.max(-left, 0)];
    framed = tf.slice(x, [0, y, z, 0], [b, height - y - Math.max(-bottom, 0), width - z - Math.max(-right, 0), c]);
  }
  if (!all.some((n) => n > 0)) return framed;
  const zeros = all.map((n) => Math.max(n, 0)) as [number, number, number, number];
  return tf.pad(framed, [
    [0, 0],
    [zeros[0], zeros[1]],
    [zeros[2], zeros[3]],
    [0, 0],
  ]);
}

function splitChannels(x: tf.Tensor, groups: number): tf.Tensor4D[] {
  return (groups === 1 ? [x] : tf.split(x, groups, 3)) as tf.Tensor4D[];
}

function joinChannels(parts: tf.Tensor4D[]): tf.Tensor4D {
  return parts.length === 1 ? parts[0]! : tf.concat(parts, 3);
}

function take(x: tf.Tensor, indices: readonly number[], axis: number): tf.Tensor {
  return tf.gather(x, tf.tensor1d([...indices], 'int32'), axis);
}

function range(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i);
}

/** Checks a convolution; returns its attributes and the shape of its result. */
function described(x: { readonly shape: readonly number[] }, p: Conv2dParams, o: Conv2dOptions) {
  const { stride, groups = 1, padding, activation } = o;
  checkValue('conv2d', 'stride', stride, rule.size);
  checkValue('conv2d', 'groups', groups, rule.size);
  checkValue('conv2d', 'padding', padding, PADDING);
  expectActivation('conv2d', activation);
  expectShape('conv2d: x', x, ['batch', 'height', 'width', 'in'], 'Images are NHWC.');
  const [batch, height, width, channels] = x.shape as [number, number, number, number];
  expectShape(
    'conv2d: weight',
    p.weight,
    ['out', channels / groups, 'kernelHeight', 'kernelWidth'],
    'Kernels are OIHW, I = in / groups.',
  );
  const [out, , kernelHeight, kernelWidth] = p.weight.shape as [number, number, number, number];
  if (out % groups !== 0) {
    throw new Error(`conv2d: the number of output channels, ${out}, must be a multiple of groups, got ${groups}.`);
  }
  if (p.bias) expectShape('conv2d: bias', p.bias, [out], 'Pass one bias per output channel.');
  const [top, bottom] = padsOf(height, kernelHeight, stride, padding);
  const [left, right] = padsOf(width, kernelWidth, stride, padding);
  const padded = [height + top + bottom, width + left + right] as const;
  if (kernelHeight > padded[0] || kernelWidth > padded[1]) {
    throw new Error(
      `conv2d: the kernel ${kernelHeight}x${kernelWidth} is larger than the padded image ${padded.join('x')}. ` +
        "Use a larger image or padding 'same'.",
    );
  }
  const cells = (n: number, kernel: number) => Math.floor((n - kernel) / stride) + 1;
  return {
    attrs: { stride, groups, top, bottom, left, right, activation },
    shape: [batch, cells(padded[0], kernelHeight), cells(padded[1], kernelWidth), out],
  };
}

/**
 * A grouped convolution with an optional activation.
 *
 * @param x float32 `[batch, height, width, in]`
 * @param p weight `[out, in / groups, kernelHeight, kernelWidth]` (a frozen one gets no gradient) and bias `[out]`
 * @returns float32 `[batch, height', width', out]`
 */
export function conv2d(x: tf.Tensor, p: Conv2dParams, o: Conv2dOptions): tf.Tensor4D {
  const { attrs } = described(x, p, o);
  return tf.tidy(() => {
    const { weight, frozen } = kernelOf(p);
    return convOp({ x, weight, bias: p.bias }, { ...attrs, frozen })[0] as tf.Tensor4D;
  });
}

/** The kernel as the operation expects it: packed by the current backend, or a tensor. */
function kernelOf({ weight }: Conv2dParams): { readonly weight?: tf.Tensor; readonly frozen?: FrozenFilter } {
  if (!(weight instanceof FrozenFilter)) return { weight };
  return weight.packedHere ? { frozen: weight } : { weight: weight.dense() };
}

/** One of several convolutions in sequence. */
export interface Conv2dLayer extends Conv2dOptions {
  readonly params: Conv2dParams;
}

/** `{x NHWC, weight0? OIHW, bias0? [out], weight1?, bias1?, ...}` -> `[y NHWC]`; intermediate results are not kept for a gradient. */
const sequenceOp = fusedOp<{ readonly layers: readonly ForwardAttrs[] }>({
  name: 'FlamingoConv2DSequence',
  forward: ({ x, ...rest }, { layers }) => {
    const steps = layers.map((attrs, i) => (y: tf.Tensor) => {
      return convOp({ x: y, weight: rest[`weight${i}`], bias: rest[`bias${i}`] }, attrs)[0]!;
    });
    return [runInSequence(x!, steps)];
  },
});

/**
 * Several convolutions in sequence, each with an optional activation. Without a gradient they are one operation, in which a
 * backend may keep intermediate results in the type that it multiplies in.
 *
 * @param x float32 `[batch, height, width, in]`
 * @returns float32 `[batch, height', width', out]` of the last
 */
export function conv2dSequence(x: tf.Tensor, layers: readonly Conv2dLayer[]): tf.Tensor4D {
  return tf.tidy(() => {
    if (layers.length === 1 || tf.engine().isTapeOn()) {
      const steps = layers.map((layer) => (y: tf.Tensor) => conv2d(y, layer.params, layer));
      return runInSequence(x, steps) as tf.Tensor4D;
    }
    const inputs: Record<string, tf.Tensor | undefined> = { x };
    let from: { readonly shape: readonly number[] } = x;
    const attrs = layers.map(({ params, ...o }, i) => {
      const { attrs, shape } = described(from, params, o);
      const { weight, frozen } = kernelOf(params);
      [inputs[`weight${i}`], inputs[`bias${i}`]] = [weight, params.bias];
      from = { shape };
      return { ...attrs, frozen };
    });
    return sequenceOp(inputs, { layers: attrs })[0] as tf.Tensor4D;
  });
}

/** Applies functions in sequence and frees each intermediate result after its use. */
function runInSequence(x: tf.Tensor, steps: readonly ((x: tf.Tensor) => tf.Tensor)[]): tf.Tensor {
  return steps.reduce((y, step) => {
    const next = step(y);
    if (y !== x) y.dispose();
    return next;
  }, x);
}
