import type * as tf from '@tensorflow/tfjs-core';
import type { NativeBackend } from './native-backend';
import { BF16, U8, type Layout, type OneDnn, type Primitive } from './onednn';
import type { Compiled } from './primitive-cache';

/** Elements expanded at a time where the processor cannot multiply bfloat16: a megabyte stays in its cache. */
const PANEL = 1 << 18;

/**
 * A frozen matrix `[out, in]`, row-major, in float32 or bfloat16. On a processor with bfloat16 instructions oneDNN multiplies
 * it as it is; elsewhere it is expanded to float32 panel by panel at each use, which costs little beside the product.
 */
export class NativePackedMatrix {
  private data: Float32Array | Uint16Array | undefined;

  constructor(
    private readonly backend: NativeBackend,
    values: Float32Array,
    private readonly shape: readonly [out: number, inputs: number],
    precision: 'float32' | 'bfloat16',
  ) {
    this.data = precision === 'float32' ? values.slice() : toHalves(values);
  }

  /** Bytes held. */
  get bytes(): number {
    return this.data?.byteLength ?? 0;
  }

  /** `rows [m, in] -> [m, out]`, or with `transpose` `[m, out] -> [m, in]`. */
  multiply(rows: tf.TensorInfo, transpose: boolean): tf.TensorInfo {
    const data = this.held();
    const [out, inputs] = this.shape;
    const m = rows.shape[0]!;
    const y = this.backend.output([m, transpose ? inputs : out]);
    if (!(m && out && inputs)) this.backend.values(y).fill(0);
    else if (data instanceof Float32Array) this.product(rows, this.backend.pool.address(data), transpose, y);
    else if (!this.multiplyHalves(rows, data, transpose, y)) this.multiplyPanels(rows, data, transpose, y);
    return y;
  }

  /** The values again, row-major float32 `[out, in]`. */
  unpack(): Float32Array {
    const data = this.held();
    if (data instanceof Float32Array) return data.slice();
    const values = new Float32Array(data.length);
    const bits = new Uint32Array(values.buffer);
    for (let i = 0; i < bits.length; i++) bits[i] = data[i]! << 16;
    return values;
  }

  dispose(): void {
    this.data = undefined;
  }

  private product(rows: tf.TensorInfo, weight: number, transpose: boolean, y: tf.TensorInfo): void {
    const [out, inputs] = this.shape;
    const [n, k] = transpose ? [inputs, out] : [out, inputs];
    const [x, z] = [this.backend.address(rows), this.backend.address(y)];
    this.backend.dnn.sgemm(false, !transpose, rows.shape[0]!, n, k, x, k, weight, inputs, 0, z, n);
  }

  /** By bfloat16 instructions, if oneDNN has more than its slow reference code for them here. */
  private multiplyHalves(rows: tf.TensorInfo, data: Uint16Array, transpose: boolean, y: tf.TensorInfo): boolean {
    const { backend, shape } = this;
    const m = rows.shape[0]!;
    const key = `bf16 ${m} ${shape.join()} ${transpose}`;
    const { primitive } = backend.compiled(key, (dnn) => new HalvesPlan(dnn, m, shape, transpose));
    if (!primitive) return false;
    const n = m * rows.shape[1]!;
    const half = backend.pool.allocate(Math.ceil(n / 2));
    const [x, address] = [backend.address(rows), backend.pool.address(half)];
    backend.compiled(`halves ${n}`, (dnn) => dnn.reorder({ dims: [n] }, { dims: [n], type: BF16 })).run(x, address);
    primitive.run(address, backend.pool.address(data), backend.address(y));
    backend.pool.release(half);
    return true;
  }

  private multiplyPanels(rows: tf.TensorInfo, data: Uint16Array, transpose: boolean, y: tf.TensorInfo): void {
    const { backend } = this;
    const [out, inputs] = this.shape;
    const m = rows.shape[0]!;
    const count = Math.max(1, Math.floor(PANEL / inputs));
    const weight = backend.panel(Math.min(count, out) * inputs);
    const [x, from, z] = [backend.address(rows), backend.pool.address(data), backend.address(y)];
    for (let first = 0; first < out; first += count) {
      const taken = Math.min(count, out - first);
      const n = taken * inputs;
      backend.compiled(`expand ${n}`, (dnn) => expansion(dnn, n)).run(from + first * inputs * 2, weight + UPPER);
      // Forward, a panel makes some columns of the result; transposed, it adds to all of them.
      if (!transpose) {
        backend.dnn.sgemm(false, true, m, taken, inputs, x, inputs, weight, inputs, 0, z + first * 4, out);
      } else {
        const beta = first ? 1 : 0;
        backend.dnn.sgemm(false, false, m, inputs, taken, x + first * 4, out, weight, inputs, beta, z, inputs);
      }
    }
  }

  private held(): Float32Array | Uint16Array {
    if (!this.data) throw new Error('FrozenMatrix: used after dispose(). Load the weight again before applying it.');
    return this.data;
  }
}

/** float32 to bfloat16, to nearest and ties to even. */
function toHalves(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const halves = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    const x = bits[i]!;
    // Rounding would carry a NaN over to infinity or to 0.
    halves[i] = Number.isNaN(values[i]) ? (x >>> 16) | 0x40 : (x + 0x7fff + ((x >>> 16) & 1)) >>> 16;
  }
  return halves;
}

/**
 * bfloat16 to float32, whose upper half it is, as a copy of byte pairs: oneDNN moves those by fast code on all threads, while
 * below AVX-512 it has only reference code for the types themselves. The lower halves must be zero already.
 */
const expansion = (dnn: OneDnn, n: number): Primitive =>
  dnn.reorder({ dims: [n, 2], type: U8 }, { dims: [n, 2], strides: [4, 1], type: U8 });

/** Where the upper half of a number lies within it, in bytes. */
const UPPER = 2;

/** A product in bfloat16, or the knowledge that this processor has no fast one. */
class HalvesPlan implements Compiled {
  readonly primitive: Primitive | undefined;

  constructor(dnn: OneDnn, m: number, [out, inputs]: readonly [number, number], transpose: boolean) {
    const [n, k] = transpose ? [inputs, out] : [out, inputs];
    const weight: Layout = { dims: [k, n], strides: transpose ? [inputs, 1] : [1, inputs], type: BF16 };
    let made: Primitive;
    try {
      made = dnn.matmul({ dims: [m, k], type: BF16 }, weight, undefined, { dims: [m, n] });
    } catch {
      // Not implemented for this processor.
      return;
    }
    if (made.implementation.startsWith('ref')) made.destroy();
    else this.primitive = made;
  }

  destroy(): void {
    this.primitive?.destroy();
  }
}
