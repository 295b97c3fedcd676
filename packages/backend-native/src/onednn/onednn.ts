import { OneDnnApi } from './api';
import { descriptorsFor, type Descriptors } from './descriptors';
import type { Layout } from './layout';
import { loadLibrary } from './library';
import * as operations from './operations';
import { ARG, BINARY, type ConvGeometry, type Description, type PoolGeometry, type PostOp } from './operations';
import { layoutOf, Primitive } from './primitive';

let shared: OneDnn | undefined;

/** The one instance: engine and stream are created once. */
export function oneDnn(): OneDnn {
  return (shared ??= new OneDnn());
}

/** Instruction sets by oneDNN's numbers. */
const ISA: Record<number, string> = {
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

/** Primitives of oneDNN 2.6 and later 2.x, and 3.x. */
export class OneDnn {
  private readonly api = new OneDnnApi(loadLibrary());
  private readonly descriptors: Descriptors = descriptorsFor(this.api);
  private readonly gemm = this.api.call(
    'dnnl_sgemm',
    'int8 int8 int64 int64 int64 float uintptr_t int64 uintptr_t int64 float uintptr_t int64'.split(' '),
  );

  constructor() {
    // The backend's own cache keeps what is in use; the library's would hold everything a second time.
    const name = 'dnnl_set_primitive_cache_capacity';
    this.api.check(name, this.api.call(name, ['int'])(64));
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
    // The letters N and T.
    const status = this.gemm(transA ? 84 : 78, transB ? 84 : 78, m, n, k, 1, a, lda, b, ldb, beta, c, ldc);
    if (status !== 0) this.api.check('dnnl_sgemm', status);
  }

  /** The instruction set that oneDNN uses, `avx2` for example. */
  cpuIsa(): string {
    const isa = this.api.call('dnnl_get_effective_cpu_isa', [])();
    return ISA[isa] ?? `0x${isa.toString(16)}`;
  }

  matmul(src: Layout, weights: Layout, bias: Layout | undefined, dst: Layout, post: readonly PostOp[] = []): Primitive {
    return this.build(operations.matmul(src, weights, bias, dst), post);
  }

  convForward(
    src: Layout,
    weights: Layout,
    bias: Layout | undefined,
    dst: Layout,
    g: ConvGeometry,
    post: readonly PostOp[] = [],
  ): Primitive {
    return this.build(operations.convForward(src, weights, bias, dst, g), post);
  }

  convBackwardData(diffSrc: Layout, weights: Layout, diffDst: Layout, g: ConvGeometry): Primitive {
    return this.build(operations.convBackwardData(diffSrc, weights, diffDst, g));
  }

  convBackwardWeights(src: Layout, diffWeights: Layout, diffDst: Layout, g: ConvGeometry): Primitive {
    return this.build(operations.convBackwardWeights(src, diffWeights, diffDst, g));
  }

  eltwise(...args: Parameters<typeof operations.eltwise>): Primitive {
    return this.build(operations.eltwise(...args));
  }

  eltwiseBackward(...args: Parameters<typeof operations.eltwiseBackward>): Primitive {
    return this.build(operations.eltwiseBackward(...args));
  }

  /** Sizes of 1 in the second operand are broadcast. */
  binary(alg: operations.Binary, a: Layout, b: Layout, dst: Layout, post: readonly PostOp[] = []): Primitive {
    return this.build(operations.binary(alg, a, b, dst), post);
  }

  softmax(kind: operations.SoftmaxKind, data: Layout, axis: number): Primitive {
    return this.build(operations.softmax(kind, data, axis));
  }

  /**
   * Over the last axis of `[rows, width]`. Runs on x, weight, bias if there is one, y, mean `[rows]`, variance `[rows]`.
   * With `given`, mean and variance are inputs.
   */
  layerNorm(rows: number, width: number, bias: boolean, eps: number, given = false): Primitive {
    return this.build(operations.layerNorm(rows, width, bias, eps, given));
  }

  /**
   * Runs on x, dy, weight, mean, variance, dx, dweight: oneDNN has no gradient to the input alone. With `given`, mean and
   * variance are constants.
   */
  layerNormBackward(rows: number, width: number, eps: number, given = false): Primitive {
    return this.build(operations.layerNormBackward(rows, width, eps, given));
  }

  /** Means of windows, divided by the number of cells inside the image. */
  averagePool(src: Layout, dst: Layout, g: PoolGeometry): Primitive {
    return this.build(operations.averagePool(src, dst, g));
  }

  averagePoolBackward(diffSrc: Layout, diffDst: Layout, g: PoolGeometry): Primitive {
    return this.build(operations.averagePoolBackward(diffSrc, diffDst, g));
  }

  /** Copies between layouts and types. */
  reorder(src: Layout, dst: Layout): Primitive {
    const { api, descriptors } = this;
    try {
      const pointers = ['void *', 'void *', 'void *', 'void *', 'void *'];
      const [from, to] = [descriptors.memory(src), descriptors.memory(dst)];
      const args = [from, api.engine, to, api.engine, 0n];
      const desc = api.create('dnnl_reorder_primitive_desc_create', pointers, ...args);
      return this.primitive(desc, [
        [ARG.src, src],
        [ARG.dst, dst],
      ]);
    } finally {
      descriptors.release();
    }
  }

  /** Bytes that data of this layout occupies. */
  bytes(layout: Layout): number {
    try {
      const desc = this.descriptors.memory(layout);
      return Number(this.api.call('dnnl_memory_desc_get_size', ['void *'], 'size_t')(desc));
    } finally {
      this.descriptors.release();
    }
  }

  /** Whether the two layouts are the same. */
  sameLayout(a: Layout, b: Layout): boolean {
    try {
      const [left, right] = [this.descriptors.memory(a), this.descriptors.memory(b)];
      return this.api.call('dnnl_memory_desc_equal', ['void *', 'void *'])(left, right) === 1;
    } finally {
      this.descriptors.release();
    }
  }

  /** Creates a primitive. It runs on the description's arguments, then on one for each binary post-operation. */
  private build(description: Description, post: readonly PostOp[] = []): Primitive {
    const { api, descriptors } = this;
    let [attr, hint] = [0n, 0n];
    try {
      if (post.length) attr = this.attributes(post);
      if (description.hint) hint = descriptors.primitive(description.hint, 0n, 0n);
      const desc = descriptors.primitive(description, attr, hint);
      const operands = post.flatMap((op, i): [number, Layout][] =>
        op.kind === 'binary' ? [[descriptors.postOpArg(i) | ARG.src1, op.other]] : [],
      );
      return this.primitive(desc, [...description.args, ...operands]);
    } finally {
      if (attr) api.call('dnnl_primitive_attr_destroy', ['void *'])(attr);
      if (hint) api.call('dnnl_primitive_desc_destroy', ['void *'])(hint);
      descriptors.release();
    }
  }

  private primitive(desc: bigint, args: Description['args']): Primitive {
    const { api, descriptors } = this;
    const handle = api.create('dnnl_primitive_create', ['void *'], desc);
    const bound = args.map(([arg, layout]): [number, bigint] => {
      const memory = layout.strides === 'any' ? layoutOf(api, desc, arg) : descriptors.memory(layout);
      const types = ['void *', 'void *', 'uintptr_t'];
      return [arg, api.create('dnnl_memory_create', types, memory, api.engine, 0)];
    });
    return new Primitive(api, handle, desc, bound);
  }

  private attributes(post: readonly PostOp[]): bigint {
    const { api } = this;
    const ops = api.create('dnnl_post_ops_create', []);
    for (const op of post) this.append(ops, op);
    const attr = api.create('dnnl_primitive_attr_create', []);
    const name = 'dnnl_primitive_attr_set_post_ops';
    api.check(name, api.call(name, ['void *', 'void *'])(attr, ops));
    api.call('dnnl_post_ops_destroy', ['void *'])(ops);
    return attr;
  }

  private append(ops: bigint, op: PostOp): void {
    if (op.kind === 'eltwise') this.descriptors.appendEltwise(ops, op.alg, op.alpha ?? 0, op.beta ?? 0);
    else if (op.kind === 'sum') this.descriptors.appendSum(ops, op.scale);
    else {
      const name = 'dnnl_post_ops_append_binary';
      const append = this.api.call(name, ['void *', 'int', 'void *']);
      this.api.check(name, append(ops, BINARY[op.alg], this.descriptors.memory(op.other)));
    }
  }
}
