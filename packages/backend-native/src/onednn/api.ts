import type { LoadedLibrary } from './library';

type Fn = (...args: unknown[]) => number;

const NOT_IMPLEMENTED = 3;
const STATUS = ['success', 'out of memory', 'invalid arguments', 'not implemented', 'end', 'run-time error'];

/** A failed call to oneDNN. */
export class OneDnnError extends Error {
  /** @param status oneDNN's status code */
  constructor(
    message: string,
    private readonly status: number,
  ) {
    super(message);
  }

  /** Whether this oneDNN has no code for the operation on this processor. Any other status is a bug or a lack of memory. */
  get isNotImplemented(): boolean {
    return this.status === NOT_IMPLEMENTED;
  }
}

/** oneDNN's C functions, with one engine and one stream on the processor. */
export class OneDnnApi {
  readonly engine: bigint;
  private readonly stream: bigint;
  private readonly functions = new Map<string, Fn>();
  private readonly setHandle: (memory: bigint, address: number) => number;
  private readonly execute: (primitive: bigint, stream: bigint, count: number, args: Buffer) => number;

  constructor(readonly library: LoadedLibrary) {
    this.engine = this.create('dnnl_engine_create', ['int', 'size_t'], 1, 0);
    this.stream = this.create('dnnl_stream_create', ['void *', 'uint'], this.engine, 1);
    const { handle } = library;
    this.setHandle = handle.func('dnnl_memory_set_data_handle', 'int', ['void *', 'uintptr_t']) as never;
    this.execute = handle.func('dnnl_primitive_execute', 'int', ['void *', 'void *', 'int', 'void *']) as never;
  }

  /** Points a memory object at data. */
  pointMemory(memory: bigint, address: number): void {
    const status = this.setHandle(memory, address);
    if (status !== 0) this.check('dnnl_memory_set_data_handle', status);
  }

  run(primitive: bigint, count: number, args: Buffer): void {
    const status = this.execute(primitive, this.stream, count, args);
    if (status !== 0) this.check('dnnl_primitive_execute', status);
  }

  /** Calls a function whose first parameter receives the new object. */
  create(name: string, types: readonly string[], ...args: unknown[]): bigint {
    const out = Buffer.alloc(8);
    this.check(name, this.call(name, ['void *', ...types])(out, ...args));
    return out.readBigUInt64LE(0);
  }

  /** A C function of these parameter types. */
  call(name: string, types: readonly string[], result = 'int'): Fn {
    let fn = this.functions.get(name);
    if (!fn) {
      fn = this.library.handle.func(name, result, [...types]) as unknown as Fn;
      this.functions.set(name, fn);
    }
    return fn;
  }

  check(name: string, status: number): void {
    if (status === 0) return;
    const reason = STATUS[status] ?? `status ${status}`;
    throw new OneDnnError(`oneDNN ${this.library.version.join('.')}: ${name} failed: ${reason}.`, status);
  }
}
