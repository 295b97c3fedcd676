import koffi from 'koffi';
import { OneDnnError, type OneDnnApi } from './api';

/** oneDNN's query for the layout of each argument, by argument number. */
const QUERY: Record<number, number> = { 1: 129, 129: 130, 33: 131, 161: 132, 17: 133, 145: 134 };

/** The layout that a primitive's descriptor has for an argument. */
export function layoutOf(api: OneDnnApi, desc: bigint, arg: number): bigint {
  const query = api.call('dnnl_primitive_desc_query_md', ['void *', 'int', 'int'], 'void *');
  return query(desc, QUERY[arg]!, 0) as unknown as bigint;
}

/**
 * A compiled operation for one set of shapes. Its memory objects persist; each run points them at the tensors' buffers. A
 * buffer at the same address as in the last run, the rule in a training loop with pooled buffers, costs nothing.
 */
export class Primitive {
  private readonly args: Buffer;
  private readonly memories: readonly bigint[];
  private readonly pointed: number[];

  constructor(
    private readonly api: OneDnnApi,
    private readonly handle: bigint,
    private readonly desc: bigint,
    bound: readonly (readonly [arg: number, memory: bigint])[],
  ) {
    this.memories = bound.map(([, memory]) => memory);
    this.pointed = bound.map(() => 0);
    this.args = Buffer.alloc(bound.length * 16);
    bound.forEach(([arg, memory], i) => {
      this.args.writeInt32LE(arg, i * 16);
      this.args.writeBigUInt64LE(memory, i * 16 + 8);
    });
  }

  /** The layout that oneDNN chose for an argument described as `any`. Valid until the primitive is destroyed. */
  layout(arg: number): bigint {
    return layoutOf(this.api, this.desc, arg);
  }

  /** Name of the implementation that oneDNN chose, `jit:avx2` or `ref:any` for example. */
  get implementation(): string {
    const out = Buffer.alloc(8);
    this.api.call('dnnl_primitive_desc_query', ['void *', 'int', 'int', 'void *'])(this.desc, 8, 0, out);
    return koffi.decode.string(out.readBigUInt64LE(0));
  }

  /** Whether oneDNN has only its slow reference code for this operation. */
  get isReference(): boolean {
    return this.implementation.startsWith('ref');
  }

  /** Runs on data at these addresses, in the order of the description's arguments. */
  run(...addresses: number[]): void {
    for (let i = 0; i < addresses.length; i++) {
      const address = addresses[i]!;
      if (this.pointed[i] !== address) {
        this.api.pointMemory(this.memories[i]!, address);
        this.pointed[i] = address;
      }
    }
    this.api.run(this.handle, addresses.length, this.args);
  }

  destroy(): void {
    const { api } = this;
    api.call('dnnl_primitive_destroy', ['void *'])(this.handle);
    api.call('dnnl_primitive_desc_destroy', ['void *'])(this.desc);
    const destroyMemory = api.call('dnnl_memory_destroy', ['void *']);
    for (const memory of this.memories) destroyMemory(memory);
  }
}

/** The primitive that `make` creates, undefined if oneDNN does not implement it here. Other failures are thrown. */
export function ifImplemented(make: () => Primitive): Primitive | undefined {
  try {
    return make();
  } catch (error) {
    if (error instanceof OneDnnError && error.isNotImplemented) return undefined;
    throw error;
  }
}
