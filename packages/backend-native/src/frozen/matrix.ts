import type * as tf from '@tensorflow/tfjs-core';
import type { OneDnnBackend } from '../onednn/onednn-backend';
import { BF16, F32 } from '../onednn/layout';

/** A frozen weight in a layout of this backend. */
export interface NativePackedMatrix {
  /** Bytes held. */
  readonly bytes: number;
  /** `rows [m, in] -> [m, out]`, or with `transpose` `[m, out] -> [m, in]`. */
  multiply(rows: tf.TensorInfo, transpose: boolean): tf.TensorInfo;
  /** The values as row-major float32 `[out, in]`. */
  unpack(): Float32Array;
  dispose(): void;
}

/** How a frozen matrix is held. */
export type MatrixPrecision = 'float32' | 'bfloat16' | 'int8';

/** Rows and columns of a matrix. */
export type Shape = readonly [out: number, inputs: number];

/** Values to pack: float32, or the bits of bfloat16. */
export type Given = Float32Array | Uint16Array;

export const typeOf = (values: Given): number => (values instanceof Float32Array ? F32 : BF16);

/** Memory that holds a matrix, from the pool or from elsewhere. */
export interface Held {
  readonly data: Given;
  free(): void;
}

/** Memory of the pool for this many bytes. */
export function fromPool({ pool }: OneDnnBackend, bytes: number): Held {
  const data = pool.allocate(Math.ceil(bytes / 4));
  return { data, free: () => pool.release(data) };
}

/** @throws Error always: the matrix was disposed of */
export function throwDisposed(): never {
  throw new Error('FrozenMatrix: used after dispose(). Load the weight again before applying it.');
}
