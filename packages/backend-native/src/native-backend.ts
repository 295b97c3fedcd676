import type * as tf from '@tensorflow/tfjs-core';
import { Halves, HalvedEntry } from './halves';
import { mapFile } from './map-file';
import { oneDnn, type OneDnn } from './onednn';
import { PackedFilter } from './packed-filter';
import { packMatrix, type MatrixPrecision, type NativePackedMatrix } from './packed-matrix';
import { PooledBackend, sizeOf, type Entry, type FastKernel } from './pooled-backend';
import { PrimitiveCache, type Compiled } from './primitive-cache';

/** tfjs backend `native`: oneDNN for what is hot, tfjs' CPU kernels for the rest. */
export class NativeBackend extends PooledBackend {
  readonly dnn = oneDnn();
  /** Asked for once: products of a few rows want to know it each time. */
  readonly cpuIsa = this.dnn.cpuIsa();
  private readonly cache = new PrimitiveCache();

  /** What products of float32 tensors are computed in: as they are, or of their factors rounded to bfloat16. */
  precision: 'float32' | 'bfloat16' = 'float32';

  constructor() {
    super('native');
  }

  private zero: Float32Array = new Float32Array(0);
  private one: Float32Array = new Float32Array(0);

  /** Address of at least n zeros, for operations that want an operand of them. Not to be written. */
  zeros(n: number): number {
    if (this.zero.length < n) {
      this.pool.release(this.zero);
      this.zero = this.pool.allocate(n).fill(0);
    }
    return this.pool.address(this.zero);
  }

  /** Address of at least n ones. Not to be written. */
  ones(n: number): number {
    if (this.one.length < n) {
      this.pool.release(this.one);
      this.one = this.pool.allocate(n).fill(1);
    }
    return this.pool.address(this.one);
  }

  /** Address of -1. Not to be written. */
  minusOne(): number {
    return this.pool.address(this.negative);
  }

  private readonly negative = Float32Array.of(-1);
  private expanded = new Float32Array(0);

  /** Address of at least n float32 that began as zeros: only the upper halves of their bits are ever written. */
  panel(n: number): number {
    if (this.expanded.length < n) this.expanded = new Float32Array(n);
    return this.pool.address(this.expanded);
  }

  private readonly converted = new Halves(this);

  /** An output held in bfloat16; its contents are undefined. Whoever wants float32 gets a copy of it. */
  halvedOutput(shape: readonly number[]): tf.TensorInfo {
    return this.enter(new HalvedEntry(this, sizeOf(shape)), shape);
  }

  /** Whether a tensor is held in bfloat16. */
  isHalved(x: tf.TensorInfo): boolean {
    return this.entry(x.dataId) instanceof HalvedEntry;
  }

  /** Where a tensor's data lies in bfloat16, converted if need be; a later conversion may end it. */
  halves(x: tf.TensorInfo): number {
    const entry = this.entry(x.dataId);
    return entry instanceof HalvedEntry ? this.pool.address(entry.halves) : this.converted.of(x.dataId, entry.values);
  }

  /** Whether a tensor's data may be written: it is ours, not an array that the user gave, and nobody shares it. */
  isWritable(x: tf.TensorInfo): boolean {
    return !this.isHalved(x) && this.refCount(x.dataId) === 1 && this.pool.owns(this.values(x));
  }

  /** To be called when a tensor's data is written anew. */
  changed(x: tf.TensorInfo): void {
    this.converted.forget(x.dataId);
  }

  protected override free(entry: Entry, dataId: object): void {
    this.converted.forget(dataId);
    if (entry instanceof HalvedEntry) entry.release();
    else super.free(entry, dataId);
  }

  /** Packs a frozen `[out, in]` matrix; what `FrozenMatrix` of the kernels package looks for. */
  packMatrix(
    values: Float32Array | Uint16Array,
    shape: readonly [number, number],
    precision: MatrixPrecision,
    release?: () => void,
  ): NativePackedMatrix {
    return packMatrix(this, values, shape, precision, release);
  }

  /** Bytes of a file as memory, where the system can: what readers of checkpoints look for. */
  readonly mapFile = mapFile;

  /** Packs the kernel of a frozen convolution; what `FrozenFilter` of the kernels package looks for. */
  packFilter(weight: tf.TensorInfo, precision: 'float32' | 'bfloat16'): PackedFilter {
    return new PackedFilter(this, weight, precision);
  }

  /** The compiled operation of this key, made on first use. The key must name everything that `make` depends on. */
  compiled<T extends Compiled>(key: string, make: (dnn: OneDnn) => T): T {
    return this.cache.get(key, () => make(this.dnn));
  }

  /** Forgets every compiled operation: each was made for the number of threads of its time. */
  recompile(): void {
    this.cache.clear();
  }
}

export type NativeKernel = FastKernel<NativeBackend>;
