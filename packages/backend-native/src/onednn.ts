import koffi from 'koffi';
import { loadLibrary, type LoadedLibrary } from './library';

/** Values of oneDNN's enumerations that both major versions share. */
export const BF16 = 2;
export const F32 = 3;
export const S8 = 5;
export const U8 = 6;
const ANY = 1;
const FORWARD_TRAINING = 64;
const FORWARD_INFERENCE = 96;
const BACKWARD = 128;

/** Names of a primitive's arguments. */
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

/** How to ask a primitive for the layout it chose for an argument. */
const QUERY: Record<number, number> = { 1: 129, 129: 130, 33: 131, 161: 132, 17: 133, 145: 134 };

type Argument = readonly [name: number, side: Layout];

/** Elementwise functions: the numbers in version 2 and in version 3. */
const ELTWISE = {
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

const BINARY = { add: 0x1fff0, mul: 0x1fff1, max: 0x1fff2, min: 0x1fff3, div: 0x1fff4, sub: 0x1fff5 } as const;
export type Binary = keyof typeof BINARY;

const AVERAGE_EXCLUDING_PADDING = 0x3ff;

const SOFTMAX = { softmax: 0x30000, logSoftmax: 0x30001 } as const;
export type SoftmaxKind = keyof typeof SOFTMAX;

/** A memory descriptor: a struct of its own in version 2, a pointer in version 3; passed as a pointer either way. */
export type MemoryDesc = Buffer | bigint;

/** Shape, and strides in elements or `any` for a layout of oneDNN's choice. */
export interface Layout {
  readonly dims: readonly number[];
  readonly strides?: readonly number[] | 'any';
  readonly type?: number;
  /** A layout that a primitive chose for data of these dimensions and type; it stands for the strides. */
  readonly chosen?: MemoryDesc;
}

/** A convolution's geometry as oneDNN wants it; a dilation of 0 means none. */
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

/** What is done to a result before it is stored, in order; `sum` adds what stood there, times `scale`. */
export type PostOp =
  | { readonly kind: 'eltwise'; readonly alg: Eltwise; readonly alpha?: number; readonly beta?: number }
  | { readonly kind: 'sum'; readonly scale: number }
  | { readonly kind: 'binary'; readonly alg: Binary; readonly other: Layout };

type Fn = (...args: unknown[]) => number;

const MEMORY_DESC_BYTES = 696;
const OP_DESC_BYTES = 16384;

/** Row-major strides of a shape, in elements. */
export function rowMajor(dims: readonly number[]): number[] {
  const strides = new Array<number>(dims.length);
  let step = 1;
  for (let i = dims.length - 1; i >= 0; i--) {
    strides[i] = step;
    step *= dims[i]!;
  }
  return strides;
}

let shared: OneDnn | undefined;

/** The one instance: engine and stream are made once. */
export function oneDnn(): OneDnn {
  return (shared ??= new OneDnn());
}

/**
 * oneDNN's C API, versions 2.6 and 3, behind one interface: version 3 creates primitive descriptors directly, version 2
 * through operation descriptors; memory descriptors are pointers in the one and structs in the other.
 */
export class OneDnn {
  readonly library: LoadedLibrary;
  private readonly v3: boolean;
  private readonly engine: bigint;
  private readonly stream: bigint;
  private readonly functions = new Map<string, Fn>();
  private readonly setHandle: (memory: bigint, address: number) => number;
  private readonly execute: (primitive: bigint, stream: bigint, count: number, args: Buffer) => number;
  private readonly gemm: Fn;
  /** Version 3's descriptors of the primitive being made, destroyed once it is. */
  private pending: bigint[] = [];
  /** One operation descriptor serves all of version 2's creations in turn. */
  private readonly opDesc = Buffer.alloc(OP_DESC_BYTES);

  constructor() {
    this.library = loadLibrary();
    this.v3 = this.library.version[0] >= 3;
    this.engine = this.create('dnnl_engine_create', ['int', 'size_t'], 1, 0);
    this.stream = this.create('dnnl_stream_create', ['void *', 'uint'], this.engine, 1);
    const { handle } = this.library;
    this.setHandle = handle.func('dnnl_memory_set_data_handle', 'int', ['void *', 'uintptr_t']) as never;
    this.execute = handle.func('dnnl_primitive_execute', 'int', ['void *', 'void *', 'int', 'void *']) as never;
    this.gemm = this.call(
      'dnnl_sgemm',
      'int8 int8 int64 int64 int64 float uintptr_t int64 uintptr_t int64 float uintptr_t int64'.split(' '),
    );
    // Our own cache keeps what is in use; the library's would hold everything a second time.
    this.check('dnnl_set_primitive_cache_capacity', this.call('dnnl_set_primitive_cache_capacity', ['int'])(64));
  }

  /** Row-major C = op(A) op(B) + beta C, over addresses; leading dimensions in elements. */
  sgemm(
    transA: boolean,
    transB: boolean,
    m: number,
    n: number,
    k: number,
    a: number,
    lda: number,
    b: number,
    ldb: number,
    beta: number,
    c: number,
    ldc: number,
  ): void {
    const status = this.gemm(transA ? 84 : 78, transB ? 84 : 78, m, n, k, 1, a, lda, b, ldb, beta, c, ldc);
    if (status !== 0) this.check('dnnl_sgemm', status);
  }

  cpuIsa(): string {
    const isa = this.call('dnnl_get_effective_cpu_isa', [])();
    const names: Record<number, string> = {
      0x1: 'sse41',
      0x3: 'avx',
      0x7: 'avx2',
      0xf: 'avx2_vnni',
      0x1f: 'avx2_vnni_2',
      0x27: 'avx512_core',
      0x67: 'avx512_core_vnni',
      0xe7: 'avx512_core_bf16',
      0x1ef: 'avx512_core_fp16',
      0x3e7: 'avx512_core_amx',
      0x407: 'avx2_vnni',
      0xfef: 'avx512_core_amx',
      0x1fef: 'avx512_core_amx_fp16',
    };
    return names[isa] ?? `0x${isa.toString(16)}`;
  }

  // ---- primitives -------------------------------------------------------------------------------------------------

  matmul(src: Layout, weights: Layout, bias: Layout | undefined, dst: Layout, post: readonly PostOp[] = []): Primitive {
    const [s, w, d] = [this.md(src), this.md(weights), this.md(dst)];
    const b = bias ? this.md(bias) : null;
    const args: Argument[] = [[ARG.src, src], [ARG.weights, weights], ...optional(ARG.bias, bias), [ARG.dst, dst]];
    return this.build(args, post, (attr) =>
      this.v3
        ? this.pd3('dnnl_matmul_primitive_desc_create', 'ptr ptr ptr ptr', [s, w, b, d], attr)
        : this.pd2('dnnl_matmul_desc_init', 'ptr ptr ptr ptr', [s, w, b, d], attr),
    );
  }

  convForward(
    src: Layout,
    weights: Layout,
    bias: Layout | undefined,
    dst: Layout,
    g: ConvGeometry,
    post: readonly PostOp[] = [],
  ): Primitive {
    const descs = [this.md(src), this.md(weights), bias ? this.md(bias) : null, this.md(dst)];
    const args: Argument[] = [[ARG.src, src], [ARG.weights, weights], ...optional(ARG.bias, bias), [ARG.dst, dst]];
    return this.build(args, post, (attr) => this.convForwardDesc(descs, g, attr));
  }

  convBackwardData(diffSrc: Layout, weights: Layout, diffDst: Layout, g: ConvGeometry): Primitive {
    const [s, w, d] = [this.md(diffSrc), this.md(weights), this.md(diffDst)];
    const hint = this.convForwardDesc([this.md(diffSrc), this.md(weights), null, this.md(diffDst)], g, 0n);
    const types = 'int ptr ptr ptr ptr ptr ptr ptr';
    const args = [1, s, w, d, ...geometry(g)];
    const names: Argument[] = [
      [ARG.diffDst, diffDst],
      [ARG.weights, weights],
      [ARG.diffSrc, diffSrc],
    ];
    const primitive = this.build(names, [], (attr) =>
      this.v3
        ? this.pd3('dnnl_convolution_backward_data_primitive_desc_create', `${types} ptr`, [...args, hint], attr)
        : this.pd2('dnnl_dilated_convolution_backward_data_desc_init', types, args, attr, hint),
    );
    this.destroyDesc(hint);
    return primitive;
  }

  convBackwardWeights(src: Layout, diffWeights: Layout, diffDst: Layout, g: ConvGeometry): Primitive {
    const [s, w, d] = [this.md(src), this.md(diffWeights), this.md(diffDst)];
    const hint = this.convForwardDesc([this.md(src), this.md(diffWeights), null, this.md(diffDst)], g, 0n);
    const types = 'int ptr ptr ptr ptr ptr ptr ptr ptr';
    const args = [1, s, w, null, d, ...geometry(g)];
    const names: Argument[] = [
      [ARG.src, src],
      [ARG.diffDst, diffDst],
      [ARG.diffWeights, diffWeights],
    ];
    const primitive = this.build(names, [], (attr) =>
      this.v3
        ? this.pd3('dnnl_convolution_backward_weights_primitive_desc_create', `${types} ptr`, [...args, hint], attr)
        : this.pd2('dnnl_dilated_convolution_backward_weights_desc_init', types, args, attr, hint),
    );
    this.destroyDesc(hint);
    return primitive;
  }

  eltwise(alg: Eltwise, data: Layout, alpha = 0, beta = 0): Primitive {
    const d = this.md(data);
    const args: Argument[] = [
      [ARG.src, data],
      [ARG.dst, data],
    ];
    return this.build(args, [], (attr) => this.eltwiseDesc(FORWARD_INFERENCE, alg, d, alpha, beta, attr));
  }

  eltwiseBackward(alg: Eltwise, data: Layout, alpha = 0, beta = 0): Primitive {
    const d = this.md(data);
    const hint = this.eltwiseDesc(FORWARD_TRAINING, alg, d, alpha, beta, 0n);
    const code = this.eltwiseCode(alg);
    const names: Argument[] = [
      [ARG.src, data],
      [ARG.diffDst, data],
      [ARG.diffSrc, data],
    ];
    const primitive = this.build(names, [], (attr) =>
      this.v3
        ? this.pd3(
            'dnnl_eltwise_backward_primitive_desc_create',
            'int ptr ptr ptr float float ptr',
            [code, d, d, d, alpha, beta, hint],
            attr,
          )
        : this.pd2('dnnl_eltwise_backward_desc_init', 'int ptr ptr float float', [code, d, d, alpha, beta], attr, hint),
    );
    this.destroyDesc(hint);
    return primitive;
  }

  /** Sizes of 1 in the second operand are broadcast. */
  binary(alg: Binary, a: Layout, b: Layout, dst: Layout, post: readonly PostOp[] = []): Primitive {
    const args = [BINARY[alg], this.md(a), this.md(b), this.md(dst)];
    const names: Argument[] = [
      [ARG.src, a],
      [ARG.src1, b],
      [ARG.dst, dst],
    ];
    return this.build(names, post, (attr) =>
      this.v3
        ? this.pd3('dnnl_binary_primitive_desc_create', 'int ptr ptr ptr', args, attr)
        : this.pd2('dnnl_binary_desc_init', 'int ptr ptr ptr', args, attr),
    );
  }

  softmax(kind: SoftmaxKind, data: Layout, axis: number): Primitive {
    const d = this.md(data);
    const names: Argument[] = [
      [ARG.src, data],
      [ARG.dst, data],
    ];
    const args = [FORWARD_INFERENCE, SOFTMAX[kind], d, d, axis];
    return this.build(names, [], (attr) =>
      this.v3
        ? this.pd3('dnnl_softmax_forward_primitive_desc_create', 'int int ptr ptr int', args, attr)
        : this.pd2('dnnl_softmax_v2_forward_desc_init', 'int int ptr ptr int', args, attr),
    );
  }

  /**
   * Over the last axis of `[rows, width]`. Runs on x, weight, bias if there is one, y, mean `[rows]`, variance `[rows]`.
   * With `given` the two last are not computed but taken as they are.
   */
  layerNorm(rows: number, width: number, bias: boolean, eps: number, given = false): Primitive {
    const [data, stat, row]: Layout[] = [{ dims: [rows, width] }, { dims: [rows] }, { dims: [width] }];
    const names: Argument[] = [
      [ARG.src, data!],
      [ARG.scale, row!],
      ...optional(ARG.shift, bias ? row : undefined),
      [ARG.dst, data!],
      [ARG.mean, stat!],
      [ARG.variance, stat!],
    ];
    return this.build(names, [], (attr) => this.layerNormDesc(data!, stat!, eps, this.normFlags(bias, given), attr));
  }

  /**
   * Runs on x, dy, weight, mean, variance, dx, dweight: oneDNN has no gradient to the input alone. With `given`, mean and
   * variance are constants.
   */
  layerNormBackward(rows: number, width: number, eps: number, given = false): Primitive {
    const [data, stat]: Layout[] = [{ dims: [rows, width] }, { dims: [rows] }];
    const names: Argument[] = [
      [ARG.src, data!],
      [ARG.diffDst, data!],
      [ARG.scale, { dims: [width] }],
      [ARG.mean, stat!],
      [ARG.variance, stat!],
      [ARG.diffSrc, data!],
      [ARG.diffScale, { dims: [width] }],
    ];
    const flags = this.normFlags(false, given);
    const hint = this.layerNormDesc(data!, stat!, eps, flags, 0n);
    const [d, s] = [this.md(data!), this.md(stat!)];
    const primitive = this.build(names, [], (attr) =>
      this.v3
        ? this.pd3(
            'dnnl_layer_normalization_backward_primitive_desc_create',
            'int ptr ptr ptr ptr float uint ptr',
            [BACKWARD, d, d, d, s, eps, flags, hint],
            attr,
          )
        : this.pd2(
            'dnnl_layer_normalization_backward_desc_init',
            'int ptr ptr ptr float uint',
            [BACKWARD, d, d, s, eps, flags],
            attr,
            hint,
          ),
    );
    this.destroyDesc(hint);
    return primitive;
  }

  /** Means of windows, divided by the cells that are there. */
  averagePool(src: Layout, dst: Layout, g: PoolGeometry): Primitive {
    const names: Argument[] = [
      [ARG.src, src],
      [ARG.dst, dst],
    ];
    return this.build(names, [], (attr) => this.poolDesc(FORWARD_INFERENCE, src, dst, g, attr));
  }

  averagePoolBackward(diffSrc: Layout, diffDst: Layout, g: PoolGeometry): Primitive {
    const hint = this.poolDesc(FORWARD_TRAINING, diffSrc, diffDst, g, 0n);
    const names: Argument[] = [
      [ARG.diffDst, diffDst],
      [ARG.diffSrc, diffSrc],
    ];
    const types = 'int ptr ptr ptr ptr ptr ptr ptr';
    const args = [AVERAGE_EXCLUDING_PADDING, this.md(diffSrc), this.md(diffDst), ...poolGeometry(g)];
    const primitive = this.build(names, [], (attr) =>
      this.v3
        ? this.pd3('dnnl_pooling_backward_primitive_desc_create', `${types} ptr`, [...args, hint], attr)
        : this.pd2('dnnl_pooling_v2_backward_desc_init', types, args, attr, hint),
    );
    this.destroyDesc(hint);
    return primitive;
  }

  /** Copies between layouts and types. */
  reorder(src: Layout, dst: Layout): Primitive {
    const [s, d] = [this.md(src), this.md(dst)];
    const names: Argument[] = [
      [ARG.src, src],
      [ARG.dst, dst],
    ];
    return this.build(names, [], (attr) =>
      this.create(
        'dnnl_reorder_primitive_desc_create',
        ['void *', 'void *', 'void *', 'void *', 'void *'],
        s,
        this.engine,
        d,
        this.engine,
        attr,
      ),
    );
  }

  /** Bytes that data of this layout occupies. */
  bytes(layout: Layout): number {
    return Number(this.call('dnnl_memory_desc_get_size', ['void *'], 'size_t')(this.md(layout)));
  }

  /** Whether data lies alike in both. */
  sameLayout(a: Layout, b: Layout): boolean {
    return this.call('dnnl_memory_desc_equal', ['void *', 'void *'])(this.md(a), this.md(b)) === 1;
  }

  // ---- what Primitive uses ----------------------------------------------------------------------------------------

  /** @internal */
  queryDesc(primitiveDesc: bigint, what: number): bigint {
    const query = this.call('dnnl_primitive_desc_query_md', ['void *', 'int', 'int'], 'void *');
    return query(primitiveDesc, what, 0) as unknown as bigint;
  }

  /** @internal Name of the implementation chosen, `jit:avx2` or `ref:any` for example. */
  implementation(primitiveDesc: bigint): string {
    const out = Buffer.alloc(8);
    this.call('dnnl_primitive_desc_query', ['void *', 'int', 'int', 'void *'])(primitiveDesc, 8, 0, out);
    return koffi.decode.string(out.readBigUInt64LE(0));
  }

  /** @internal */
  createMemory(desc: MemoryDesc): bigint {
    return this.create('dnnl_memory_create', ['void *', 'void *', 'uintptr_t'], desc, this.engine, 0);
  }

  /** @internal */
  pointMemory(memory: bigint, address: number): void {
    const status = this.setHandle(memory, address);
    if (status !== 0) this.check('dnnl_memory_set_data_handle', status);
  }

  /** @internal */
  run(primitive: bigint, count: number, args: Buffer): void {
    const status = this.execute(primitive, this.stream, count, args);
    if (status !== 0) this.check('dnnl_primitive_execute', status);
  }

  /** @internal */
  destroy(primitive: bigint, primitiveDesc: bigint, memories: readonly bigint[]): void {
    this.call('dnnl_primitive_destroy', ['void *'])(primitive);
    this.destroyDesc(primitiveDesc);
    const destroyMemory = this.call('dnnl_memory_destroy', ['void *']);
    for (const memory of memories) destroyMemory(memory);
  }

  // ---- the two versions -------------------------------------------------------------------------------------------

  private md(layout: Layout): MemoryDesc {
    if (layout.chosen !== undefined) return layout.chosen;
    const { dims, strides = rowMajor(dims), type = F32 } = layout;
    const d = dimsBuffer(dims);
    const last = strides === 'any' ? ANY : dimsBuffer(strides);
    const types = ['int', 'void *', 'int', strides === 'any' ? 'int' : 'void *'];
    if (this.v3) {
      const name = strides === 'any' ? 'dnnl_memory_desc_create_with_tag' : 'dnnl_memory_desc_create_with_strides';
      const desc = this.create(name, types, dims.length, d, type, last);
      this.pending.push(desc);
      return desc;
    }
    const desc = Buffer.alloc(MEMORY_DESC_BYTES);
    const name = strides === 'any' ? 'dnnl_memory_desc_init_by_tag' : 'dnnl_memory_desc_init_by_strides';
    this.check(name, this.call(name, ['void *', ...types])(desc, dims.length, d, type, last));
    return desc;
  }

  private eltwiseCode(alg: Eltwise): number {
    return ELTWISE[alg][this.v3 ? 1 : 0];
  }

  private eltwiseDesc(prop: number, alg: Eltwise, d: MemoryDesc, alpha: number, beta: number, attr: bigint): bigint {
    const code = this.eltwiseCode(alg);
    return this.v3
      ? this.pd3(
          'dnnl_eltwise_forward_primitive_desc_create',
          'int int ptr ptr float float',
          [prop, code, d, d, alpha, beta],
          attr,
        )
      : this.pd2('dnnl_eltwise_forward_desc_init', 'int int ptr float float', [prop, code, d, alpha, beta], attr);
  }

  private normFlags(bias: boolean, given: boolean): number {
    const [scale, shift] = this.v3 ? [0x2, 0x4] : [0x8, 0x10];
    return scale | (bias ? shift : 0) | (given ? 0x1 : 0);
  }

  private layerNormDesc(data: Layout, stat: Layout, eps: number, flags: number, attr: bigint): bigint {
    const [d, s] = [this.md(data), this.md(stat)];
    return this.v3
      ? this.pd3(
          'dnnl_layer_normalization_forward_primitive_desc_create',
          'int ptr ptr ptr float uint',
          [FORWARD_TRAINING, d, d, s, eps, flags],
          attr,
        )
      : this.pd2(
          'dnnl_layer_normalization_forward_desc_init',
          'int ptr ptr float uint',
          [FORWARD_TRAINING, d, s, eps, flags],
          attr,
        );
  }

  private poolDesc(prop: number, src: Layout, dst: Layout, g: PoolGeometry, attr: bigint): bigint {
    const types = 'int int ptr ptr ptr ptr ptr ptr ptr';
    const args = [prop, AVERAGE_EXCLUDING_PADDING, this.md(src), this.md(dst), ...poolGeometry(g)];
    return this.v3
      ? this.pd3('dnnl_pooling_forward_primitive_desc_create', types, args, attr)
      : this.pd2('dnnl_pooling_v2_forward_desc_init', types, args, attr);
  }

  private convForwardDesc(descs: readonly (MemoryDesc | null)[], g: ConvGeometry, attr: bigint): bigint {
    const types = 'int int ptr ptr ptr ptr ptr ptr ptr ptr';
    const args = [FORWARD_TRAINING, 1, ...descs, ...geometry(g)];
    return this.v3
      ? this.pd3('dnnl_convolution_forward_primitive_desc_create', types, args, attr)
      : this.pd2('dnnl_dilated_convolution_forward_desc_init', types, args, attr);
  }

  private pd3(name: string, types: string, args: readonly unknown[], attr: bigint): bigint {
    return this.create(name, ['void *', ...pointerTypes(types), 'void *'], this.engine, ...args, attr);
  }

  private pd2(init: string, types: string, args: readonly unknown[], attr: bigint, hint: bigint = 0n): bigint {
    this.check(init, this.call(init, ['void *', ...pointerTypes(types)])(this.opDesc, ...args));
    return this.create(
      'dnnl_primitive_desc_create',
      ['void *', 'void *', 'void *', 'void *'],
      this.opDesc,
      attr,
      this.engine,
      hint,
    );
  }

  /**
   * Makes a primitive from the descriptor that `describe` creates with the given post-operations. It runs on addresses in
   * the order of `args`, then one for each binary post-operation.
   */
  private build(args: readonly Argument[], post: readonly PostOp[], describe: (attr: bigint) => bigint): Primitive {
    const attr = post.length ? this.attributes(post) : 0n;
    try {
      const desc = describe(attr);
      const primitive = this.create('dnnl_primitive_create', ['void *'], desc);
      const bound = args.map(([name, side]): [number, bigint] => {
        return [name, this.createMemory(side.strides === 'any' ? this.queryDesc(desc, QUERY[name]!) : this.md(side))];
      });
      post.forEach((op, i) => {
        if (op.kind !== 'binary') return;
        const base = this.v3 ? 0x8000 : 0x4000;
        bound.push([(base * (i + 1)) | ARG.src1, this.createMemory(this.md(op.other))]);
      });
      return new Primitive(this, primitive, desc, bound);
    } finally {
      if (attr) this.call('dnnl_primitive_attr_destroy', ['void *'])(attr);
      for (const md of this.pending) this.call('dnnl_memory_desc_destroy', ['void *'])(md);
      this.pending = [];
    }
  }

  private attributes(post: readonly PostOp[]): bigint {
    const ops = this.create('dnnl_post_ops_create', []);
    for (const op of post) this.append(ops, op);
    const attr = this.create('dnnl_primitive_attr_create', []);
    const set = this.call('dnnl_primitive_attr_set_post_ops', ['void *', 'void *']);
    this.check('dnnl_primitive_attr_set_post_ops', set(attr, ops));
    this.call('dnnl_post_ops_destroy', ['void *'])(ops);
    return attr;
  }

  private append(ops: bigint, op: PostOp): void {
    if (op.kind === 'eltwise') {
      const name = 'dnnl_post_ops_append_eltwise';
      const rest = [this.eltwiseCode(op.alg), op.alpha ?? 0, op.beta ?? 0];
      const types = ['int', 'float', 'float'];
      const status = this.v3
        ? this.call(name, ['void *', ...types])(ops, ...rest)
        : this.call(name, ['void *', 'float', ...types])(ops, 1, ...rest);
      this.check(name, status);
    } else if (op.kind === 'sum') {
      const name = 'dnnl_post_ops_append_sum';
      const status = this.v3
        ? this.call(name, ['void *', 'float', 'int32', 'int'])(ops, op.scale, 0, 0)
        : this.call(name, ['void *', 'float'])(ops, op.scale);
      this.check(name, status);
    } else {
      const name = 'dnnl_post_ops_append_binary';
      this.check(name, this.call(name, ['void *', 'int', 'void *'])(ops, BINARY[op.alg], this.md(op.other)));
    }
  }

  private destroyDesc(primitiveDesc: bigint): void {
    this.call('dnnl_primitive_desc_destroy', ['void *'])(primitiveDesc);
  }

  /** Calls a function whose first parameter receives the new object. */
  private create(name: string, types: readonly string[], ...args: unknown[]): bigint {
    const out = Buffer.alloc(8);
    this.check(name, this.call(name, ['void *', ...types])(out, ...args));
    return out.readBigUInt64LE(0);
  }

  private call(name: string, types: readonly string[], result = 'int'): Fn {
    let fn = this.functions.get(name);
    if (!fn) {
      fn = this.library.handle.func(name, result, [...types]) as unknown as Fn;
      this.functions.set(name, fn);
    }
    return fn;
  }

  private check(name: string, status: number): void {
    if (status === 0) return;
    const words = ['success', 'out of memory', 'invalid arguments', 'not implemented', 'end', 'run-time error'];
    throw new Error(
      `oneDNN ${this.library.version.join('.')}: ${name} failed: ${words[status] ?? `status ${status}`}.`,
    );
  }
}

/**
 * A compiled operation for one set of shapes. Its memory objects stay; each run points them at the tensors' buffers, and
 * a buffer that is where it was the last time (the rule in a training loop with pooled buffers) costs nothing.
 */
export class Primitive {
  private readonly args: Buffer;
  private readonly memories: readonly bigint[];
  private readonly pointed: number[];

  constructor(
    private readonly dnn: OneDnn,
    private readonly handle: bigint,
    private readonly desc: bigint,
    bound: readonly (readonly [name: number, memory: bigint])[],
  ) {
    this.memories = bound.map(([, memory]) => memory);
    this.pointed = bound.map(() => 0);
    this.args = Buffer.alloc(bound.length * 16);
    bound.forEach(([name, memory], i) => {
      this.args.writeInt32LE(name, i * 16);
      this.args.writeBigUInt64LE(memory, i * 16 + 8);
    });
  }

  /** The layout that oneDNN chose for an argument laid out as `any`. Valid while the primitive lives. */
  layout(name: number): bigint {
    return this.dnn.queryDesc(this.desc, QUERY[name]!);
  }

  get implementation(): string {
    return this.dnn.implementation(this.desc);
  }

  /** Addresses of the arguments' data, in the order in which the maker names them. */
  run(...addresses: number[]): void {
    for (let i = 0; i < addresses.length; i++) {
      const address = addresses[i]!;
      if (this.pointed[i] !== address) {
        this.dnn.pointMemory(this.memories[i]!, address);
        this.pointed[i] = address;
      }
    }
    this.dnn.run(this.handle, addresses.length, this.args);
  }

  destroy(): void {
    this.dnn.destroy(this.handle, this.desc, this.memories);
  }
}

const optional = (name: number, side: Layout | undefined): Argument[] => (side ? [[name, side]] : []);

const geometry = (g: ConvGeometry): Buffer[] =>
  [g.strides, g.dilations, g.padStart, g.padEnd].map((pair) => dimsBuffer(pair));

const poolGeometry = (g: PoolGeometry): Buffer[] =>
  [g.strides, g.kernel, [0, 0], g.padStart, g.padEnd].map((pair) => dimsBuffer(pair));

const pointerTypes = (types: string): string[] => types.split(' ').map((type) => (type === 'ptr' ? 'void *' : type));

function dimsBuffer(dims: readonly number[]): Buffer {
  const buffer = Buffer.alloc(8 * 12);
  dims.forEach((n, i) => buffer.writeBigInt64LE(BigInt(n), i * 8));
  return buffer;
}
