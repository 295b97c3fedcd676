import type * as tf from '@tensorflow/tfjs-core';
import { fewRows, MOST_ROWS } from '../machine-code/few-rows';
import { expandBfloat16 } from '../onednn/bfloat16';
import { S8, type Layout } from '../onednn/layout';
import type { OneDnnBackend } from '../onednn/onednn-backend';
import { widenBits } from '../shared/bfloat16-bits';
import { throwDisposed, type Held, type NativePackedMatrix, type Shape } from './matrix';

/** Elements expanded at a time where the processor cannot multiply them as they are: a megabyte stays in its cache. */
const PANEL = 1 << 18;

/** A matrix in a narrow type, and what is needed to expand it to float32. */
interface Narrow {
  /** Row-major `[out, in]`. */
  readonly held: Held;
  /** Bytes of an element. */
  readonly width: 1 | 2;
  /** Factor of each row, for int8. */
  readonly scales?: Float32Array;
}

/**
 * A weight in a type that the processor has no fast products for (int8; bfloat16 below AVX-512). Each use expands it to float32
 * panel by panel, within the cache, which costs little compared with reading it.
 */
export class PanelMatrix implements NativePackedMatrix {
  constructor(
    private readonly backend: OneDnnBackend,
    private readonly shape: Shape,
    private narrow: Narrow | undefined,
  ) {}

  get bytes(): number {
    return (this.narrow?.held.data.byteLength ?? 0) + (this.narrow?.scales?.byteLength ?? 0);
  }

  multiply(rows: tf.TensorInfo, transpose: boolean): tf.TensorInfo {
    const { backend } = this;
    const { held, width, scales } = this.narrow ?? throwDisposed();
    const [out, inputs] = this.shape;
    const m = rows.shape[0]!;
    const y = backend.output([m, transpose ? inputs : out]);
    if (!(m && out && inputs)) {
      backend.values(y).fill(0);
      return y;
    }
    if (!transpose && this.multiplyFew(rows, y)) return y;
    // A row's factor belongs to a column of the result, or when transposed to a column of the input.
    const x = transpose && scales ? this.scaled(rows, scales, backend.output(rows.shape)) : rows;
    const count = Math.max(1, Math.floor(PANEL / inputs));
    const panel = width === 1 ? backend.pool.allocate(Math.min(count, out) * inputs) : undefined;
    const [a, from, z] = [backend.address(x), backend.pool.address(held.data), backend.address(y)];
    for (let first = 0; first < out; first += count) {
      const taken = Math.min(count, out - first);
      const weight = this.expand(from + first * inputs * width, taken * inputs, panel);
      // Forward, a panel computes some columns of the result; transposed, it adds to all of them.
      if (!transpose) {
        backend.dnn.sgemm(false, true, m, taken, inputs, a, inputs, weight, inputs, 0, z + first * 4, out);
      } else {
        const beta = first ? 1 : 0;
        backend.dnn.sgemm(false, false, m, inputs, taken, a + first * 4, out, weight, inputs, beta, z, inputs);
      }
    }
    if (panel) backend.pool.release(panel);
    if (x !== rows) backend.disposeData(x.dataId);
    return !transpose && scales ? this.scaled(y, scales, y) : y;
  }

  unpack(): Float32Array {
    const { held, width, scales } = this.narrow ?? throwDisposed();
    const { data } = held;
    const [out, inputs] = this.shape;
    const n = out * inputs;
    if (width === 2) return widenBits(new Uint16Array(data.buffer, data.byteOffset, n), new Float32Array(n));
    const codes = new Int8Array(data.buffer, data.byteOffset, n);
    return Float32Array.from(codes, (code, i) => code * scales![Math.floor(i / inputs)]!);
  }

  dispose(): void {
    this.narrow?.held.free();
    if (this.narrow?.scales) this.backend.pool.release(this.narrow.scales);
    this.narrow = undefined;
  }

  /** Computes the product of a few rows with machine code; returns false if there is none for it. */
  private multiplyFew(rows: tf.TensorInfo, y: tf.TensorInfo): boolean {
    const { backend, shape } = this;
    const { held, width, scales } = this.narrow!;
    const m = rows.shape[0]!;
    if (m > 2 * MOST_ROWS) return false;
    for (let from = 0; from < m; from += MOST_ROWS) {
      const product = fewRows(backend.cpuIsa, width, Math.min(MOST_ROWS, m - from), shape);
      if (!product) return false;
      const [x, z] = [backend.address(rows) + 4 * from * shape[1], backend.address(y) + 4 * from * shape[0]];
      product.multiply(backend.pool.address(held.data), x, z, scales && backend.pool.address(scales));
    }
    return true;
  }

  /** Address of n elements expanded to float32. int8 expands into the panel. */
  private expand(from: number, n: number, panel: Float32Array | undefined): number {
    const { backend } = this;
    if (!panel) return expandBfloat16(backend, from, n);
    const to = backend.pool.address(panel);
    backend.compiled(`widen bytes ${n}`, (dnn) => dnn.reorder({ dims: [n], type: S8 }, { dims: [n] })).run(from, to);
    return to;
  }

  /** Each column of `[m, out]` times its factor. */
  private scaled(x: tf.TensorInfo, scales: Float32Array, to: tf.TensorInfo): tf.TensorInfo {
    const [m, out] = x.shape as [number, number];
    const { backend } = this;
    const factors: Layout = { dims: [1, out] };
    const key = `columns ${m},${out}`;
    const compiled = backend.compiled(key, (dnn) => dnn.binary('mul', { dims: [m, out] }, factors, { dims: [m, out] }));
    compiled.run(backend.address(x), backend.pool.address(scales), backend.address(to));
    return to;
  }
}
