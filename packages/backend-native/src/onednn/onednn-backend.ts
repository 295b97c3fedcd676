import type * as tf from '@tensorflow/tfjs-core';
import { PooledBackend, sizeOf, type Entry, type FastKernel } from '../shared/pooled-backend';
import { PrimitiveCache, type Compiled } from '../shared/primitive-cache';
import { Bfloat16Cache, Bfloat16Entry } from './bfloat16';
import { oneDnn, type OneDnn } from './onednn';

/** A tfjs backend whose fast kernels run on oneDNN. */
export class OneDnnBackend extends PooledBackend {
  readonly dnn = oneDnn();
  /** Read once, because each product of a few rows needs it. */
  readonly cpuIsa = this.dnn.cpuIsa();
  private readonly cache = new PrimitiveCache();

  /** What products of float32 tensors are computed in: float32, or with their factors rounded to bfloat16. */
  precision: 'float32' | 'bfloat16' = 'float32';

  private zero: Float32Array = new Float32Array(0);
  private one: Float32Array = new Float32Array(0);
  private readonly negative = Float32Array.of(-1);

  /** Address of at least n zeros, for operations that need an operand of them. Do not write to them. */
  zeros(n: number): number {
    if (this.zero.length < n) {
      this.pool.release(this.zero);
      this.zero = this.pool.allocate(n).fill(0);
    }
    return this.pool.address(this.zero);
  }

  /** Address of at least n ones. Do not write to them. */
  ones(n: number): number {
    if (this.one.length < n) {
      this.pool.release(this.one);
      this.one = this.pool.allocate(n).fill(1);
    }
    return this.pool.address(this.one);
  }

  /** Address of -1. Do not write to it. */
  minusOne(): number {
    return this.pool.address(this.negative);
  }

  private expanded = new Float32Array(0);

  /** Address of at least n float32 that began as zeros: only the upper 16 bits of each are ever written. */
  panel(n: number): number {
    if (this.expanded.length < n) this.expanded = new Float32Array(n);
    return this.pool.address(this.expanded);
  }

  private readonly converted = new Bfloat16Cache(this);

  /** An output held in bfloat16; its contents are undefined. Readers of float32 get a copy. */
  bfloat16Output(shape: readonly number[]): tf.TensorInfo {
    return this.enter(new Bfloat16Entry(this, sizeOf(shape)), shape);
  }

  /** Whether a tensor is held in bfloat16. */
  isBfloat16(x: tf.TensorInfo): boolean {
    return this.entry(x.dataId) instanceof Bfloat16Entry;
  }

  /** Address of a tensor's data in bfloat16, converted if necessary; a later conversion may free it. */
  bfloat16Address(x: tf.TensorInfo): number {
    const entry = this.entry(x.dataId);
    return entry instanceof Bfloat16Entry ? this.pool.address(entry.bits) : this.converted.of(x.dataId, entry.values);
  }

  /** Whether a tensor's data may be written: it belongs to the pool, not to the user, and no other tensor shares it. */
  isWritable(x: tf.TensorInfo): boolean {
    return !this.isBfloat16(x) && this.refCount(x.dataId) === 1 && this.pool.owns(this.values(x));
  }

  /** Call it after writing a tensor's data. */
  changed(x: tf.TensorInfo): void {
    this.converted.forget(x.dataId);
  }

  protected override free(entry: Entry, dataId: object): void {
    this.converted.forget(dataId);
    if (entry instanceof Bfloat16Entry) entry.release();
    else super.free(entry, dataId);
  }

  /** The compiled operation of this key, created on first use. The key must name everything that `make` depends on. */
  compiled<T extends Compiled>(key: string, make: (dnn: OneDnn) => T): T {
    return this.cache.get(key, () => make(this.dnn));
  }

  /** Drops every compiled operation: each was compiled for the number of threads at that time. */
  recompile(): void {
    this.cache.clear();
  }
}

export type NativeKernel = FastKernel<OneDnnBackend>;
