import type * as tf from '@tensorflow/tfjs-core';
import { oneDnn, type OneDnn } from './onednn';
import { PackedFilter } from './packed-filter';
import { packMatrix, type NativePackedMatrix } from './packed-matrix';
import { PooledBackend, type FastKernel } from './pooled-backend';
import { PrimitiveCache, type Compiled } from './primitive-cache';

/** tfjs backend `native`: oneDNN for what is hot, tfjs' CPU kernels for the rest. */
export class NativeBackend extends PooledBackend {
  readonly dnn = oneDnn();
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

  private halves = new Float32Array(0);

  /** Address of at least n float32 that began as zeros: only the upper halves of their bits are ever written. */
  panel(n: number): number {
    if (this.halves.length < n) this.halves = new Float32Array(n);
    return this.pool.address(this.halves);
  }

  /** Packs a frozen `[out, in]` matrix; what `FrozenMatrix` of the kernels package looks for. */
  packMatrix(
    values: Float32Array,
    shape: readonly [number, number],
    precision: 'float32' | 'bfloat16',
  ): NativePackedMatrix {
    return packMatrix(this, values, shape, precision);
  }

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
