import * as tf from '@tensorflow/tfjs-core';
import { toBfloat16, widened } from './bfloat16';
import type { FrozenValues } from './frozen-matrix';

/** A table `[rows, d]` for lookups by `embedding` that never trains; held in bfloat16 on every backend. */
export class FrozenTable {
  readonly shape: readonly [rows: number, d: number];
  private bits: Uint16Array;

  /**
   * @param values  row-major `[rows, d]`; rounded to bfloat16 if they are float32
   * @param shape   `[rows, d]`
   * @param release if given, bfloat16 values are not copied and must not change until this is called, once
   */
  constructor(
    values: FrozenValues,
    shape: readonly [number, number],
    private release?: () => void,
  ) {
    if (values.length !== shape[0] * shape[1]) {
      throw new Error(
        `FrozenTable: values must hold ${shape[0]} x ${shape[1]} = ${shape[0] * shape[1]} numbers, got ${values.length}. ` +
          'Pass the table row-major as [rows, d].',
      );
    }
    this.shape = shape;
    if (release && values instanceof Uint16Array) this.bits = values;
    else {
      this.bits = values instanceof Float32Array ? toBfloat16(values) : values.slice();
      this.releaseOnce();
    }
  }

  /** Bytes in memory. */
  get bytes(): number {
    return this.bits.byteLength;
  }

  /** float32 `[ids, d]` */
  rows(ids: ArrayLike<number>): tf.Tensor2D {
    const [count, d] = this.shape;
    if (this.bits.length !== count * d) {
      throw new Error('FrozenTable: used after dispose(). Load the table again before using it.');
    }
    const picked = new Uint16Array(ids.length * d);
    for (let i = 0; i < ids.length; i++) picked.set(this.bits.subarray(ids[i]! * d, (ids[i]! + 1) * d), i * d);
    return tf.tensor2d(widened(picked), [ids.length, d]);
  }

  /** Row-major float32 values `[rows, d]`, for checkpoints. */
  async data(): Promise<Float32Array> {
    return widened(this.bits);
  }

  dispose(): void {
    this.bits = new Uint16Array(0);
    this.releaseOnce();
  }

  private releaseOnce(): void {
    this.release?.();
    this.release = undefined;
  }
}
