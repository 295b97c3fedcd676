import type { BufferPool } from '../shared/pool';
import type { Entry } from '../shared/pooled-backend';
import type { Compiled } from '../shared/primitive-cache';
import { BF16, U8 } from './layout';
import type { OneDnn } from './onednn';
import type { Primitive } from './primitive';

/** The part of a backend that conversions need. */
interface Compiler {
  readonly pool: BufferPool;
  compiled<T extends Compiled>(key: string, make: (dnn: OneDnn) => T): T;
}

/** Converts n float32 to bfloat16, over addresses. */
export function convertToBfloat16(backend: Compiler, from: number, to: number, n: number): void {
  backend.compiled(`to bfloat16 ${n}`, (dnn) => dnn.reorder({ dims: [n] }, { dims: [n], type: BF16 })).run(from, to);
}

/** Memory of the pool for n numbers in bfloat16. */
export function allocateBfloat16({ pool }: Compiler, n: number): Float32Array {
  return pool.allocate(Math.ceil(n / 2));
}

/** Data of a tensor that is held in bfloat16 and, once it is read as float32, in float32 too. */
export class Bfloat16Entry implements Entry {
  readonly dtype = 'float32';
  refCount = 1;
  readonly bits: Float32Array;
  private floats: Float32Array | undefined;

  constructor(
    private readonly backend: Compiler,
    private readonly size: number,
  ) {
    this.bits = allocateBfloat16(backend, size);
  }

  get values(): Float32Array {
    if (this.floats) return this.floats;
    const { backend, size, bits } = this;
    const floats = backend.pool.allocate(size);
    const widening = backend.compiled(`widen ${size}`, (dnn) =>
      dnn.reorder({ dims: [size], type: BF16 }, { dims: [size] }),
    );
    widening.run(backend.pool.address(bits), backend.pool.address(floats));
    return (this.floats = floats);
  }

  release(): void {
    this.backend.pool.release(this.bits);
    if (this.floats) this.backend.pool.release(this.floats);
  }
}

/** Bytes of all conversions kept. */
const HELD = 1 << 24;
/** An operation has at most this many factors, so this many conversions are kept whatever their size. */
const FACTORS = 4;

/**
 * Tensors' data in bfloat16, kept as long as the tensor lives and memory allows: a training step multiplies by most of its
 * activations and weights two or three times. The least recently used go first.
 */
export class Bfloat16Cache {
  private readonly held = new Map<object, Float32Array>();
  private bytes = 0;

  constructor(private readonly backend: Compiler) {}

  /** Address of a tensor's values in bfloat16; valid until four others have been requested. */
  of(dataId: object, values: Float32Array): number {
    const { backend, held } = this;
    let bits = held.get(dataId);
    if (bits) held.delete(dataId);
    else {
      bits = allocateBfloat16(backend, values.length);
      convertToBfloat16(backend, backend.pool.address(values), backend.pool.address(bits), values.length);
      this.bytes += bits.byteLength;
    }
    held.set(dataId, bits);
    for (const oldest of held.keys()) {
      if (this.bytes <= HELD || held.size <= FACTORS) break;
      this.forget(oldest);
    }
    return backend.pool.address(bits);
  }

  forget(dataId: object): void {
    const bits = this.held.get(dataId);
    if (!bits) return;
    this.held.delete(dataId);
    this.bytes -= bits.byteLength;
    this.backend.pool.release(bits);
  }
}

/** Address of n numbers in bfloat16 expanded to float32, valid until the next call. */
export function expandBfloat16(backend: Compiler & { panel(n: number): number }, from: number, n: number): number {
  const to = backend.panel(n);
  backend.compiled(`expand ${n}`, (dnn) => expansion(dnn, n)).run(from, to + UPPER);
  return to;
}

/**
 * bfloat16 is the upper half of float32, so this copies byte pairs: oneDNN moves bytes by fast code on all threads, while
 * below AVX-512 it has only reference code for the types themselves. The lower halves must be zero already.
 */
const expansion = (dnn: OneDnn, n: number): Primitive =>
  dnn.reorder({ dims: [n, 2], type: U8 }, { dims: [n, 2], strides: [4, 1], type: U8 });

/** Bytes from a float32's start to its upper half. */
const UPPER = 2;
