import * as tf from '@tensorflow/tfjs-core';
import { checkValue, rule } from './check-config';
import type { FrozenPrecision } from './frozen-matrix';

/** How a frozen convolution kernel is held. */
export type FilterPrecision = Exclude<FrozenPrecision, 'int8'>;

/** Implemented by backends that pack frozen convolution kernels; found on the tfjs backend object by its method name. */
export interface FilterPackingBackend {
  /** Packs float32 `[out, in / groups, kernelHeight, kernelWidth]`; the tensor may be disposed afterward. */
  packFilter(weight: tf.TensorInfo, precision: FilterPrecision): PackedFilter;
}

/** A kernel in a backend's own layout, passed to the backend's convolution in the attributes. */
export interface PackedFilter {
  /** Bytes in memory. */
  readonly bytes: number;
  /** The values as row-major float32. */
  unpack(): Float32Array;
  dispose(): void;
}

/**
 * A kernel of `conv2d` that never trains: gradients flow through it to its input, never to it. A backend may pack it, in
 * bfloat16 too; on other backends it is a float32 tensor.
 */
export class FrozenFilter {
  readonly shape: readonly [number, number, number, number];
  /** The backend's packed form, for kernels of that backend; undefined if it is a plain tensor. */
  packed: PackedFilter | undefined;
  private tensor: tf.Tensor4D | undefined;
  private readonly backend = tf.getBackend();

  /**
   * @param weight    float32 `[out, in / groups, kernelHeight, kernelWidth]`; may be disposed afterward
   * @param precision how a packing backend holds it
   */
  constructor(
    weight: tf.Tensor,
    readonly precision: FilterPrecision = 'float32',
  ) {
    checkValue('FrozenFilter', 'precision', precision, rule.oneOf(['float32', 'bfloat16']));
    if (weight.rank !== 4) {
      throw new Error(
        `FrozenFilter: weight must be [out, in / groups, kernelHeight, kernelWidth], got [${weight.shape.join(', ')}]. ` +
          'Freeze a matrix as a FrozenMatrix.',
      );
    }
    this.shape = weight.shape as [number, number, number, number];
    const backend = tf.backend() as unknown as Partial<FilterPackingBackend>;
    if (backend.packFilter) this.packed = backend.packFilter(weight, precision);
    else this.tensor = tf.keep(tf.clone(weight)) as tf.Tensor4D;
  }

  /** Whether the current backend packed it. */
  get packedHere(): boolean {
    return this.packed !== undefined && tf.getBackend() === this.backend;
  }

  /** Bytes in memory. */
  get bytes(): number {
    return this.packed?.bytes ?? this.shape.reduce((a, b) => a * b, 4);
  }

  /** The kernel as a tensor, for use inside `tf.tidy`: a new tensor if it is packed. */
  dense(): tf.Tensor4D {
    if (this.packed) return tf.tensor4d(this.packed.unpack(), [...this.shape]);
    if (!this.tensor) throw new Error('FrozenFilter: used after dispose(). Load the weight again before applying it.');
    return this.tensor;
  }

  /** Row-major float32 values, for checkpoints. */
  async data(): Promise<Float32Array> {
    return this.packed ? this.packed.unpack() : ((await this.dense().data()) as Float32Array);
  }

  dispose(): void {
    this.packed?.dispose();
    this.tensor?.dispose();
    this.packed = undefined;
    this.tensor = undefined;
  }
}
