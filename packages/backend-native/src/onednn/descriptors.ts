import type { OneDnnApi } from './api';
import { F32, rowMajor, type Layout, type MemoryDesc } from './layout';
import { ELTWISE, OPERATIONS, type Description, type Eltwise, type NormFlags } from './operations';

/** What differs between oneDNN's versions 2 and 3: how operations, memory and post-operations are described. */
export interface Descriptors {
  memory(layout: Layout): MemoryDesc;
  /** The descriptor of a primitive; `attr` and `hint` are 0n where there are none. */
  primitive(description: Description, attr: bigint, hint: bigint): bigint;
  appendEltwise(ops: bigint, alg: Eltwise, alpha: number, beta: number): void;
  appendSum(ops: bigint, scale: number): void;
  /** Number of the arguments of the post-operation at this position. */
  postOpArg(position: number): number;
  /** Frees the memory descriptors created since the last call. */
  release(): void;
}

/** Format tag `any`. */
const ANY = 1;
const MEMORY_DESC_BYTES = 696;
const OP_DESC_BYTES = 16384;

/** Version 2 describes an operation in a struct, from which it creates the primitive's descriptor. */
class DescriptorsV2 implements Descriptors {
  /** One struct serves all operations, one after another. */
  private readonly opDesc = Buffer.alloc(OP_DESC_BYTES);

  constructor(private readonly api: OneDnnApi) {}

  memory(layout: Layout): MemoryDesc {
    if (layout.chosen !== undefined) return layout.chosen;
    const desc = Buffer.alloc(MEMORY_DESC_BYTES);
    const { isAny, types, args } = describeMemory(layout);
    const name = isAny ? 'dnnl_memory_desc_init_by_tag' : 'dnnl_memory_desc_init_by_strides';
    this.api.check(name, this.api.call(name, ['void *', ...types])(desc, ...args));
    return desc;
  }

  primitive(description: Description, attr: bigint, hint: bigint): bigint {
    const { api, opDesc } = this;
    const { v2 } = OPERATIONS[description.operation];
    const { types, args } = parametersOf(description, 2, (layout) => this.memory(layout));
    api.check(v2, api.call(v2, ['void *', ...types])(opDesc, ...args));
    const pointers = ['void *', 'void *', 'void *', 'void *'];
    return api.create('dnnl_primitive_desc_create', pointers, opDesc, attr, api.engine, hint);
  }

  appendEltwise(ops: bigint, alg: Eltwise, alpha: number, beta: number): void {
    const name = 'dnnl_post_ops_append_eltwise';
    const append = this.api.call(name, ['void *', 'float', 'int', 'float', 'float']);
    this.api.check(name, append(ops, 1, ELTWISE[alg][0], alpha, beta));
  }

  appendSum(ops: bigint, scale: number): void {
    const name = 'dnnl_post_ops_append_sum';
    this.api.check(name, this.api.call(name, ['void *', 'float'])(ops, scale));
  }

  postOpArg(position: number): number {
    return 0x4000 * (position + 1);
  }

  release(): void {
    // The descriptors are buffers, which the collector frees.
  }
}

/** Version 3 creates the primitive's descriptor from the operation's parameters, and allocates memory descriptors. */
class DescriptorsV3 implements Descriptors {
  private created: bigint[] = [];

  constructor(private readonly api: OneDnnApi) {}

  memory(layout: Layout): MemoryDesc {
    if (layout.chosen !== undefined) return layout.chosen;
    const { isAny, types, args } = describeMemory(layout);
    const name = isAny ? 'dnnl_memory_desc_create_with_tag' : 'dnnl_memory_desc_create_with_strides';
    const desc = this.api.create(name, types, ...args);
    this.created.push(desc);
    return desc;
  }

  primitive(description: Description, attr: bigint, hint: bigint): bigint {
    const { v3 } = OPERATIONS[description.operation];
    const { types, args } = parametersOf(description, 3, (layout) => this.memory(layout));
    const hints = description.hint ? [hint] : [];
    const all = ['void *', ...types, ...hints.map(() => 'void *'), 'void *'];
    return this.api.create(v3, all, this.api.engine, ...args, ...hints, attr);
  }

  appendEltwise(ops: bigint, alg: Eltwise, alpha: number, beta: number): void {
    const name = 'dnnl_post_ops_append_eltwise';
    const append = this.api.call(name, ['void *', 'int', 'float', 'float']);
    this.api.check(name, append(ops, ELTWISE[alg][1], alpha, beta));
  }

  appendSum(ops: bigint, scale: number): void {
    const name = 'dnnl_post_ops_append_sum';
    this.api.check(name, this.api.call(name, ['void *', 'float', 'int32', 'int'])(ops, scale, 0, 0));
  }

  postOpArg(position: number): number {
    return 0x8000 * (position + 1);
  }

  release(): void {
    const destroy = this.api.call('dnnl_memory_desc_destroy', ['void *']);
    for (const desc of this.created) destroy(desc);
    this.created = [];
  }
}

/** The descriptors of the version that is loaded. */
export const descriptorsFor = (api: OneDnnApi): Descriptors =>
  api.library.version[0] >= 3 ? new DescriptorsV3(api) : new DescriptorsV2(api);

/** The parameters, but the first, of both versions' functions that describe memory. */
function describeMemory({ dims, strides = rowMajor(dims), type = F32 }: Layout) {
  const isAny = strides === 'any';
  return {
    isAny,
    types: ['int', 'void *', 'int', isAny ? 'int' : 'void *'],
    args: [dims.length, dimsBuffer(dims), type, isAny ? ANY : dimsBuffer(strides)],
  };
}

/** Types and values of an operation's parameters in one version's C function. */
function parametersOf(description: Description, version: 2 | 3, memory: (layout: Layout) => MemoryDesc) {
  const types: string[] = [];
  const args: unknown[] = [];
  OPERATIONS[description.operation].parameters.split(' ').forEach((kind, i) => {
    const value = description.values[i];
    if (kind === 'memory3' && version === 2) return;
    if (kind === 'memory' || kind === 'memory3') {
      types.push('void *');
      args.push(value === undefined ? null : memory(value as Layout));
    } else if (kind === 'dims') {
      types.push('void *');
      args.push(dimsBuffer(value as readonly number[]));
    } else if (kind === 'eltwise') {
      types.push('int');
      args.push(ELTWISE[value as Eltwise][version - 2]);
    } else if (kind === 'norm') {
      types.push('uint');
      args.push(normFlags(value as NormFlags, version));
    } else {
      types.push(kind);
      args.push(value);
    }
  });
  return { types, args };
}

function normFlags({ shift, given }: NormFlags, version: 2 | 3): number {
  const [useScale, useShift] = version === 3 ? [0x2, 0x4] : [0x8, 0x10];
  const useGiven = 0x1;
  return useScale | (shift ? useShift : 0) | (given ? useGiven : 0);
}

function dimsBuffer(dims: readonly number[]): Buffer {
  const buffer = Buffer.alloc(8 * 12);
  dims.forEach((n, i) => buffer.writeBigInt64LE(BigInt(n), i * 8));
  return buffer;
}
