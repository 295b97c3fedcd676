import * as tf from '@tensorflow/tfjs-core';
import { widened } from './bfloat16';
import { checkValue, rule } from './check-config';
import { matMul } from './mat-mul';

/**
 * How a frozen matrix is held. `bfloat16` halves memory. `int8` quarters it: each output's row of weights is rounded to 127
 * steps on either side of 0, scaled by the largest weight of the row. Arithmetic accumulates in float32.
 */
export const FROZEN_PRECISIONS = ['float32', 'bfloat16', 'int8'] as const;

/** One of `FROZEN_PRECISIONS`. */
export type FrozenPrecision = (typeof FROZEN_PRECISIONS)[number];

/** Values of a weight: float32, or the bits of bfloat16. */
export type FrozenValues = Float32Array | Uint16Array;

/** Implemented by backends that pack frozen matrices; found on the tfjs backend object by its method names. */
export interface PackingBackend {
  /**
   * Packs a row-major `[out, in]` matrix.
   *
   * @param release if given, the backend may keep the values without a copy and calls this when it no longer needs them
   */
  packMatrix(
    values: FrozenValues,
    shape: readonly [number, number],
    precision: FrozenPrecision,
    release?: () => void,
  ): PackedMatrix;
}

/** A matrix in a backend's own layout. */
export interface PackedMatrix {
  /** Bytes in memory. */
  readonly bytes: number;
  /** `rows [m, in] -> [m, out]`, or with `transpose` `[m, out] -> [m, in]` (the gradient to the input). */
  multiply(rows: tf.TensorInfo, transpose: boolean): tf.TensorInfo;
  /** The values as row-major float32 `[out, in]`. */
  unpack(): Float32Array;
  dispose(): void;
}

/**
 * A weight `[out, in]` that never trains: gradients flow through it to its input, never to it. A backend may pack it, in
 * bfloat16 or int8 too; on other backends it is a float32 tensor.
 */
export class FrozenMatrix {
  readonly shape: readonly [number, number];
  readonly precision: FrozenPrecision;
  /** The backend's packed form, for kernels of that backend; undefined if it is a plain tensor. */
  packed: PackedMatrix | undefined;
  private tensor: tf.Tensor2D | undefined;

  /**
   * @param values    row-major `[out, in]`
   * @param shape     `[out, in]`
   * @param precision how a packing backend holds it
   * @param release   if given, the values are not copied and must not change until this is called, once
   */
  constructor(
    values: FrozenValues,
    shape: readonly [number, number],
    precision: FrozenPrecision = 'float32',
    release?: () => void,
  ) {
    checkValue('FrozenMatrix', 'precision', precision, rule.oneOf(FROZEN_PRECISIONS));
    if (values.length !== shape[0] * shape[1]) {
      throw new Error(
        `FrozenMatrix: values must hold ${shape[0]} x ${shape[1]} = ${shape[0] * shape[1]} numbers, got ${values.length}. ` +
          'Pass the matrix row-major as [out, in].',
      );
    }
    this.shape = shape;
    this.precision = precision;
    const backend = tf.backend() as unknown as Partial<PackingBackend>;
    if (backend.packMatrix) this.packed = backend.packMatrix(values, shape, precision, release);
    else {
      // A tensor may keep the array that it is created from.
      const copy = release && values instanceof Float32Array ? values.slice() : widened(values);
      this.tensor = tf.keep(tf.tensor2d(copy, [shape[0], shape[1]]));
      release?.();
    }
  }

  /** Bytes in memory. */
  get bytes(): number {
    return this.packed?.bytes ?? this.shape[0] * this.shape[1] * 4;
  }

  /** `[m, in] -> [m, out]`; with `transpose` `[m, out] -> [m, in]`. No gradient is recorded: `linear` does that. */
  multiply(rows: tf.Tensor2D, transpose = false): tf.Tensor2D {
    if (this.packed) return tf.engine().makeTensorFromTensorInfo(this.packed.multiply(rows, transpose)) as tf.Tensor2D;
    return matMul(rows, this.dense(), false, !transpose);
  }

  /** Row-major float32 values `[out, in]`, for checkpoints. */
  async data(): Promise<Float32Array> {
    return this.packed ? this.packed.unpack() : ((await this.dense().data()) as Float32Array);
  }

  dispose(): void {
    this.packed?.dispose();
    this.tensor?.dispose();
    this.packed = undefined;
    this.tensor = undefined;
  }

  private dense(): tf.Tensor2D {
    if (!this.tensor) throw new Error('FrozenMatrix: used after dispose(). Load the weight again before applying it.');
    return this.tensor;
  }
}
