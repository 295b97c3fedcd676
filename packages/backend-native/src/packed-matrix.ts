import type * as tf from '@tensorflow/tfjs-core';
import type { NativeBackend } from './native-backend';
import { BF16, type Layout, type OneDnn, type Primitive } from './onednn';
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
    const own = values.slice();
    if (precision === 'float32') {
      this.data = own;
      return;
    }
    const half = new Uint16Array(values.length);
    this.convert('pack', own, half, values.length);
    this.data = half;
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
    this.convert('unpack', data, values, data.length);
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
    backend.compiled(`pack ${n}`, (dnn) => reorderHalves(dnn, 'pack', n)).run(x, address);
    primitive.run(address, backend.pool.address(data), backend.address(y));
    backend.pool.release(half);
    return true;
  }

  private multiplyPanels(rows: tf.TensorInfo, data: Uint16Array, transpose: boolean, y: tf.TensorInfo): void {
    const { backend } = this;
    const [out, inputs] = this.shape;
    const m = rows.shape[0]!;
    const count = Math.max(1, Math.floor(PANEL / inputs));
    const panel = backend.pool.allocate(Math.min(count, out) * inputs);
    const [x, weight, from, z] = [
      backend.address(rows),
      backend.pool.address(panel),
      backend.pool.address(data),
      backend.address(y),
    ];
    for (let first = 0; first < out; first += count) {
      const taken = Math.min(count, out - first);
      const n = taken * inputs;
      backend.compiled(`unpack ${n}`, (dnn) => reorderHalves(dnn, 'unpack', n)).run(from + first * inputs * 2, weight);
      // Forward, a panel makes some columns of the result; transposed, it adds to all of them.
      if (!transpose) {
        backend.dnn.sgemm(false, true, m, taken, inputs, x, inputs, weight, inputs, 0, z + first * 4, out);
      } else {
        const beta = first ? 1 : 0;
        backend.dnn.sgemm(false, false, m, inputs, taken, x + first * 4, out, weight, inputs, beta, z, inputs);
      }
    }
    backend.pool.release(panel);
  }

  private convert(direction: 'pack' | 'unpack', from: ArrayBufferView, to: ArrayBufferView, n: number): void {
    const { pool } = this.backend;
    const reorder = reorderHalves(this.backend.dnn, direction, n);
    reorder.run(pool.address(from), pool.address(to));
    reorder.destroy();
  }

  private held(): Float32Array | Uint16Array {
    if (!this.data) throw new Error('FrozenMatrix: used after dispose(). Load the weight again before applying it.');
    return this.data;
  }
}

/** float32 to bfloat16 or back. */
function reorderHalves(dnn: OneDnn, direction: 'pack' | 'unpack', n: number): Primitive {
  const [full, half]: Layout[] = [{ dims: [n] }, { dims: [n], type: BF16 }];
  return direction === 'pack' ? dnn.reorder(full!, half!) : dnn.reorder(half!, full!);
}

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
