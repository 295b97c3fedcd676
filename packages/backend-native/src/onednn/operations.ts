import type { Layout } from './layout';

/** Numbers of a primitive's arguments. */
export const ARG = {
  src: 1,
  src1: 2,
  dst: 17,
  weights: 33,
  bias: 41,
  mean: 49,
  variance: 50,
  scale: 51,
  shift: 52,
  diffSrc: 129,
  diffDst: 145,
  diffWeights: 161,
  diffBias: 169,
  diffScale: 255,
} as const;

/** Elementwise functions: their numbers in version 2 and in version 3. */
export const ELTWISE = {
  relu: [0x1f, 0x20],
  tanh: [0x2f, 0x21],
  elu: [0x3f, 0x22],
  square: [0x4f, 0x23],
  abs: [0x5f, 0x24],
  sqrt: [0x6f, 0x25],
  linear: [0x7f, 0x26],
  logistic: [0xaf, 0x29],
  exp: [0xbf, 0x2a],
  geluTanh: [0xcf, 0x2b],
  swish: [0xdf, 0x2c],
  log: [0xef, 0x2d],
  clip: [0xff, 0x2e],
  pow: [0x20, 0x30],
  geluErf: [0x30, 0x31],
} as const;
export type Eltwise = keyof typeof ELTWISE;

export const BINARY = { add: 0x1fff0, mul: 0x1fff1, max: 0x1fff2, min: 0x1fff3, div: 0x1fff4, sub: 0x1fff5 } as const;
export type Binary = keyof typeof BINARY;

const SOFTMAX = { softmax: 0x30000, logSoftmax: 0x30001 } as const;
export type SoftmaxKind = keyof typeof SOFTMAX;

const FORWARD_TRAINING = 64;
const FORWARD_INFERENCE = 96;
const BACKWARD = 128;
const DIRECT_CONVOLUTION = 1;
const AVERAGE_EXCLUDING_PADDING = 0x3ff;

/** A convolution's geometry as oneDNN expects it; a dilation of 0 means none. */
export interface ConvGeometry {
  readonly strides: readonly [number, number];
  readonly dilations: readonly [number, number];
  readonly padStart: readonly [number, number];
  readonly padEnd: readonly [number, number];
}

/** A pooling's geometry. */
export interface PoolGeometry {
  readonly strides: readonly [number, number];
  readonly kernel: readonly [number, number];
  readonly padStart: readonly [number, number];
  readonly padEnd: readonly [number, number];
}

/** An operation on a result before it is stored, in order; `sum` adds what the output held before, times `scale`. */
export type PostOp =
  | { readonly kind: 'eltwise'; readonly alg: Eltwise; readonly alpha?: number; readonly beta?: number }
  | { readonly kind: 'sum'; readonly scale: number }
  | { readonly kind: 'binary'; readonly alg: Binary; readonly other: Layout };

/**
 * Each operation's functions in versions 2 and 3, and the parameters that describe it:
 *
 * - `memory` a memory descriptor; `memory3` one that version 3 has alone, where version 2 has one descriptor for two operands
 * - `dims` an array of sizes
 * - `eltwise` an elementwise function, `norm` the flags of a normalization: their numbers differ between the versions
 */
export const OPERATIONS = {
  matmul: {
    v2: 'dnnl_matmul_desc_init',
    v3: 'dnnl_matmul_primitive_desc_create',
    parameters: 'memory memory memory memory',
  },
  convForward: {
    v2: 'dnnl_dilated_convolution_forward_desc_init',
    v3: 'dnnl_convolution_forward_primitive_desc_create',
    parameters: 'int int memory memory memory memory dims dims dims dims',
  },
  convBackwardData: {
    v2: 'dnnl_dilated_convolution_backward_data_desc_init',
    v3: 'dnnl_convolution_backward_data_primitive_desc_create',
    parameters: 'int memory memory memory dims dims dims dims',
  },
  convBackwardWeights: {
    v2: 'dnnl_dilated_convolution_backward_weights_desc_init',
    v3: 'dnnl_convolution_backward_weights_primitive_desc_create',
    parameters: 'int memory memory memory memory dims dims dims dims',
  },
  eltwiseForward: {
    v2: 'dnnl_eltwise_forward_desc_init',
    v3: 'dnnl_eltwise_forward_primitive_desc_create',
    parameters: 'int eltwise memory memory3 float float',
  },
  eltwiseBackward: {
    v2: 'dnnl_eltwise_backward_desc_init',
    v3: 'dnnl_eltwise_backward_primitive_desc_create',
    parameters: 'eltwise memory3 memory memory float float',
  },
  binary: {
    v2: 'dnnl_binary_desc_init',
    v3: 'dnnl_binary_primitive_desc_create',
    parameters: 'int memory memory memory',
  },
  softmax: {
    v2: 'dnnl_softmax_v2_forward_desc_init',
    v3: 'dnnl_softmax_forward_primitive_desc_create',
    parameters: 'int int memory memory int',
  },
  layerNormForward: {
    v2: 'dnnl_layer_normalization_forward_desc_init',
    v3: 'dnnl_layer_normalization_forward_primitive_desc_create',
    parameters: 'int memory memory3 memory float norm',
  },
  layerNormBackward: {
    v2: 'dnnl_layer_normalization_backward_desc_init',
    v3: 'dnnl_layer_normalization_backward_primitive_desc_create',
    parameters: 'int memory3 memory memory memory float norm',
  },
  poolForward: {
    v2: 'dnnl_pooling_v2_forward_desc_init',
    v3: 'dnnl_pooling_forward_primitive_desc_create',
    parameters: 'int int memory memory dims dims dims dims dims',
  },
  poolBackward: {
    v2: 'dnnl_pooling_v2_backward_desc_init',
    v3: 'dnnl_pooling_backward_primitive_desc_create',
    parameters: 'int memory memory dims dims dims dims dims',
  },
} as const;

/** Flags of a normalization. */
export interface NormFlags {
  readonly shift: boolean;
  /** Mean and variance are given, not computed. */
  readonly given: boolean;
}

/** One operation on data of these layouts. */
export interface Description {
  readonly operation: keyof typeof OPERATIONS;
  /** One for each parameter of the operation. */
  readonly values: readonly (number | Eltwise | NormFlags | Layout | readonly number[] | undefined)[];
  /** The arguments it runs on, in the order of `Primitive.run`. */
  readonly args: readonly (readonly [arg: number, layout: Layout])[];
  /** The forward operation of a gradient, by which oneDNN chooses its code. */
  readonly hint?: Description;
}

const optional = (arg: number, layout: Layout | undefined): Description['args'] => (layout ? [[arg, layout]] : []);

export const matmul = (src: Layout, weights: Layout, bias: Layout | undefined, dst: Layout): Description => ({
  operation: 'matmul',
  values: [src, weights, bias, dst],
  args: [[ARG.src, src], [ARG.weights, weights], ...optional(ARG.bias, bias), [ARG.dst, dst]],
});

const convValues = (g: ConvGeometry) => [g.strides, g.dilations, g.padStart, g.padEnd];

export const convForward = (
  src: Layout,
  weights: Layout,
  bias: Layout | undefined,
  dst: Layout,
  g: ConvGeometry,
): Description => ({
  operation: 'convForward',
  values: [FORWARD_TRAINING, DIRECT_CONVOLUTION, src, weights, bias, dst, ...convValues(g)],
  args: [[ARG.src, src], [ARG.weights, weights], ...optional(ARG.bias, bias), [ARG.dst, dst]],
});

export const convBackwardData = (diffSrc: Layout, weights: Layout, diffDst: Layout, g: ConvGeometry): Description => ({
  operation: 'convBackwardData',
  values: [DIRECT_CONVOLUTION, diffSrc, weights, diffDst, ...convValues(g)],
  args: [
    [ARG.diffDst, diffDst],
    [ARG.weights, weights],
    [ARG.diffSrc, diffSrc],
  ],
  hint: convForward(diffSrc, weights, undefined, diffDst, g),
});

export const convBackwardWeights = (
  src: Layout,
  diffWeights: Layout,
  diffDst: Layout,
  g: ConvGeometry,
): Description => ({
  operation: 'convBackwardWeights',
  values: [DIRECT_CONVOLUTION, src, diffWeights, undefined, diffDst, ...convValues(g)],
  args: [
    [ARG.src, src],
    [ARG.diffDst, diffDst],
    [ARG.diffWeights, diffWeights],
  ],
  hint: convForward(src, diffWeights, undefined, diffDst, g),
});

const eltwiseForward = (prop: number, alg: Eltwise, data: Layout, alpha: number, beta: number): Description => ({
  operation: 'eltwiseForward',
  values: [prop, alg, data, data, alpha, beta],
  args: [
    [ARG.src, data],
    [ARG.dst, data],
  ],
});

export const eltwise = (alg: Eltwise, data: Layout, alpha = 0, beta = 0): Description =>
  eltwiseForward(FORWARD_INFERENCE, alg, data, alpha, beta);

export const eltwiseBackward = (alg: Eltwise, data: Layout, alpha = 0, beta = 0): Description => ({
  operation: 'eltwiseBackward',
  values: [alg, data, data, data, alpha, beta],
  args: [
    [ARG.src, data],
    [ARG.diffDst, data],
    [ARG.diffSrc, data],
  ],
  hint: eltwiseForward(FORWARD_TRAINING, alg, data, alpha, beta),
});

export const binary = (alg: Binary, a: Layout, b: Layout, dst: Layout): Description => ({
  operation: 'binary',
  values: [BINARY[alg], a, b, dst],
  args: [
    [ARG.src, a],
    [ARG.src1, b],
    [ARG.dst, dst],
  ],
});

export const softmax = (kind: SoftmaxKind, data: Layout, axis: number): Description => ({
  operation: 'softmax',
  values: [FORWARD_INFERENCE, SOFTMAX[kind], data, data, axis],
  args: [
    [ARG.src, data],
    [ARG.dst, data],
  ],
});

export function layerNorm(rows: number, width: number, bias: boolean, eps: number, given: boolean): Description {
  const [data, stat, row]: [Layout, Layout, Layout] = [{ dims: [rows, width] }, { dims: [rows] }, { dims: [width] }];
  return {
    operation: 'layerNormForward',
    values: [FORWARD_TRAINING, data, data, stat, eps, { shift: bias, given }],
    args: [
      [ARG.src, data],
      [ARG.scale, row],
      ...optional(ARG.shift, bias ? row : undefined),
      [ARG.dst, data],
      [ARG.mean, stat],
      [ARG.variance, stat],
    ],
  };
}

export function layerNormBackward(rows: number, width: number, eps: number, given: boolean): Description {
  const [data, stat, row]: [Layout, Layout, Layout] = [{ dims: [rows, width] }, { dims: [rows] }, { dims: [width] }];
  return {
    operation: 'layerNormBackward',
    values: [BACKWARD, data, data, data, stat, eps, { shift: false, given }],
    args: [
      [ARG.src, data],
      [ARG.diffDst, data],
      [ARG.scale, row],
      [ARG.mean, stat],
      [ARG.variance, stat],
      [ARG.diffSrc, data],
      [ARG.diffScale, row],
    ],
    hint: layerNorm(rows, width, false, eps, given),
  };
}

const poolValues = (g: PoolGeometry) => [g.strides, g.kernel, [0, 0], g.padStart, g.padEnd];

const poolForward = (prop: number, src: Layout, dst: Layout, g: PoolGeometry): Description => ({
  operation: 'poolForward',
  values: [prop, AVERAGE_EXCLUDING_PADDING, src, dst, ...poolValues(g)],
  args: [
    [ARG.src, src],
    [ARG.dst, dst],
  ],
});

export const averagePool = (src: Layout, dst: Layout, g: PoolGeometry): Description =>
  poolForward(FORWARD_INFERENCE, src, dst, g);

export const averagePoolBackward = (diffSrc: Layout, diffDst: Layout, g: PoolGeometry): Description => ({
  operation: 'poolBackward',
  values: [AVERAGE_EXCLUDING_PADDING, diffSrc, diffDst, ...poolValues(g)],
  args: [
    [ARG.diffDst, diffDst],
    [ARG.diffSrc, diffSrc],
  ],
  hint: poolForward(FORWARD_TRAINING, diffSrc, diffDst, g),
});
