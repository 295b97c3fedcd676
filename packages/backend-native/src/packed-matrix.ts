import type * as tf from '@tensorflow/tfjs-core';
import { factor, inHalves, product, type Operand, type ProductOptions } from './kernels/product';
import type { NativeBackend } from './native-backend';
import { ARG, BF16, F32, U8, type Layout, type OneDnn, type Primitive } from './onednn';

/** Rows of the product that oneDNN chooses a layout for; the layout serves any number of rows. */
const TYPICAL_ROWS = 256;
/** Rows of the smallest product that oneDNN computes as a product of matrices and not row by row: fewer are filled up. */
export const SMALL_PRODUCT = 4;
/** Elements expanded at a time where the processor cannot multiply bfloat16: a megabyte stays in its cache. */
const PANEL = 1 << 18;

/** A frozen weight in a layout of this backend. */
export interface NativePackedMatrix {
  /** Bytes held. */
  readonly bytes: number;
  /** `rows [m, in] -> [m, out]`, or with `transpose` `[m, out] -> [m, in]`. */
  multiply(rows: tf.TensorInfo, transpose: boolean): tf.TensorInfo;
  /** The values again, row-major float32 `[out, in]`. */
  unpack(): Float32Array;
  dispose(): void;
}

/** What is done to a product with a packed matrix before it is stored. */
type MatrixOptions = Omit<ProductOptions, 'scale'>;

/** Packs a frozen matrix `[out, in]`, row-major, in float32 or bfloat16. */
export function packMatrix(
  backend: NativeBackend,
  values: Float32Array,
  shape: readonly [out: number, inputs: number],
  precision: 'float32' | 'bfloat16',
): NativePackedMatrix {
  const packing = packingOf(backend.dnn, shape, precision === 'float32' ? F32 : BF16);
  return packing ? new BlockedMatrix(backend, values, shape, packing) : new HalvedMatrix(backend, values, shape);
}

/** Layouts by shape and type. Weights lie in them, so what owns them is never given up. */
const packings = new Map<string, Layout | undefined>();

/** The layout in which oneDNN multiplies such a weight; nothing if it has only reference code for that here. */
function packingOf(dnn: OneDnn, [out, inputs]: readonly [number, number], type: number): Layout | undefined {
  const key = `${out},${inputs},${type}`;
  if (!packings.has(key)) packings.set(key, choosePacking(dnn, out, inputs, type));
  return packings.get(key);
}

/** Whether oneDNN has fast code for products in bfloat16 on this processor. */
export function multipliesHalves(dnn: OneDnn): boolean {
  return packingOf(dnn, [64, 64], BF16) !== undefined;
}

function choosePacking(dnn: OneDnn, out: number, inputs: number, type: number): Layout | undefined {
  const dims = [inputs, out];
  if (!(out && inputs)) return { dims, type };
  const [rows, result] = [{ dims: [TYPICAL_ROWS, inputs], type }, { dims: [TYPICAL_ROWS, out] }];
  let chooser: Primitive;
  try {
    chooser = dnn.matmul(rows, { dims, strides: 'any', type }, undefined, result);
  } catch {
    // Not implemented for this processor.
    return undefined;
  }
  if (type === F32 || !chooser.implementation.startsWith('ref')) {
    return { dims, type, chosen: chooser.layout(ARG.weights) };
  }
  chooser.destroy();
  return undefined;
}

/** From so many rows on a product takes a plainly laid weight as fast as one in blocks. */
const MANY_ROWS = 128;

/**
 * A frozen weight, laid out as it is used: for answering in blocks as oneDNN wants them, since rearranging it at each use would
 * take longer than the product of a few rows; for training plainly, which serves the product and its gradient alike.
 */
export class BlockedMatrix implements NativePackedMatrix {
  private memory: Float32Array | undefined;
  /** How it lies now: in blocks or plainly. */
  private layout: Layout;

  constructor(
    private readonly backend: NativeBackend,
    values: Float32Array,
    private readonly shape: readonly [out: number, inputs: number],
    private readonly blocks: Layout,
  ) {
    const { pool } = backend;
    this.layout = blocks;
    this.memory = this.room(blocks);
    if (!values.length) return;
    const given: Operand = [pool.address(values), { ...this.plain, type: F32 }];
    const { operand, buffer } = blocks.type === BF16 ? inHalves(backend, given) : { operand: given, buffer: undefined };
    this.reorder(operand, [pool.address(this.memory), blocks]);
    if (buffer) pool.release(buffer);
  }

  get bytes(): number {
    return this.memory?.byteLength ?? 0;
  }

  /** With `narrow` the result is held in bfloat16 if this is, and there are many rows of it. */
  multiply(rows: tf.TensorInfo, transpose: boolean, options: MatrixOptions = {}, narrow = false): tf.TensorInfo {
    const { backend } = this;
    const { pool } = backend;
    const [out, inputs] = this.shape;
    this.held();
    const [m, n, k] = [rows.shape[0]!, transpose ? inputs : out, transpose ? out : inputs];
    if (!(m && n && k)) return backend.zeroOutput([m, n]);
    const halved = narrow && this.blocks.type === BF16 && m >= MANY_ROWS;
    const y = halved ? backend.halvedOutput([m, n]) : backend.output([m, n]);
    const [x, z] = [factor(backend, rows, { dims: [m, k] }), factor(backend, y, { dims: [m, n] })];
    if (transpose) {
      this.lay(this.plain);
      product(backend, x, [pool.address(this.held()), { dims: [k, n], type: this.blocks.type }], z, options);
    } else {
      if (m < MANY_ROWS) this.lay(this.blocks);
      if (m < SMALL_PRODUCT) this.multiplyFew(rows, y, options);
      else product(backend, x, [pool.address(this.held()), this.layout], z, options);
    }
    return y;
  }

  /** Product of a few rows as one of some more: oneDNN then reads the weight faster, as fast as memory gives it. */
  private multiplyFew(rows: tf.TensorInfo, y: tf.TensorInfo, options: MatrixOptions): void {
    const { backend } = this;
    const { pool } = backend;
    const [out, inputs] = this.shape;
    const { type } = this.blocks;
    const [x, z] = [pool.allocate(SMALL_PRODUCT * inputs), pool.allocate(SMALL_PRODUCT * out)];
    const [from, to] = [backend.values(rows), backend.values(y)];
    // What the other rows hold does not matter, save that odd numbers are slow.
    x.fill(0);
    // So few numbers are rounded here before oneDNN has been called for it.
    if (type === BF16) toHalves(from, new Uint16Array(x.buffer, x.byteOffset, from.length));
    else x.set(from);
    const { bias, post = [], operands = [] } = options;
    const key = `few ${inputs},${out} ${type} ${bias !== undefined} ${post.length ? JSON.stringify(post) : ''}`;
    const compiled = backend.compiled(key, (dnn) => {
      const [a, c]: Layout[] = [{ dims: [SMALL_PRODUCT, inputs], type }, { dims: [SMALL_PRODUCT, out] }];
      return dnn.matmul(a!, this.layout, bias === undefined ? undefined : { dims: [1, out] }, c!, post);
    });
    const [from4, weight, to4] = [pool.address(x), pool.address(this.held()), pool.address(z)];
    if (bias === undefined) compiled.run(from4, weight, to4, ...operands);
    else compiled.run(from4, weight, bias, to4, ...operands);
    to.set(z.subarray(0, to.length));
    pool.release(x);
    pool.release(z);
  }

  unpack(): Float32Array {
    const { backend, layout, shape } = this;
    const memory = this.held();
    const [out, inputs] = shape;
    const values = new Float32Array(out * inputs);
    if (!values.length) return values;
    const { pool } = backend;
    if (layout.type === F32) this.reorder([pool.address(memory), layout], [pool.address(values), this.plain]);
    else {
      const halves = pool.allocate(Math.ceil(values.length / 2));
      this.reorder([pool.address(memory), layout], [pool.address(halves), this.plain]);
      widen(new Uint16Array(halves.buffer, halves.byteOffset, values.length), values);
      pool.release(halves);
    }
    return values;
  }

  dispose(): void {
    if (this.memory) this.backend.pool.release(this.memory);
    this.memory = undefined;
  }

  /** Row-major `[out, in]`, seen as the product sees it. */
  private get plain(): Layout {
    const [out, inputs] = this.shape;
    return { dims: [inputs, out], strides: [1, inputs], type: this.blocks.type };
  }

  /** Lays the weight out anew, if it does not lie so. */
  private lay(layout: Layout): void {
    if ((layout.chosen !== undefined) === (this.layout.chosen !== undefined)) return;
    const { pool } = this.backend;
    const [from, to] = [this.held(), this.room(layout)];
    this.reorder([pool.address(from), this.layout], [pool.address(to), layout]);
    pool.release(from);
    this.memory = to;
    this.layout = layout;
  }

  private room(layout: Layout): Float32Array {
    return this.backend.pool.allocate(Math.ceil(this.backend.dnn.bytes(layout) / 4));
  }

  private reorder([from, a]: Operand, [to, b]: Operand): void {
    const key = `reorder ${this.shape.join()} ${a.type} ${a.chosen !== undefined} ${b.type} ${b.chosen !== undefined}`;
    this.backend.compiled(key, (dnn) => dnn.reorder(a, b)).run(from, to);
  }

  private held(): Float32Array {
    return this.memory ?? gone();
  }
}

/**
 * A weight in bfloat16 on a processor without instructions for it: expanded to float32 panel by panel at each use, which
 * costs little beside the product.
 */
class HalvedMatrix implements NativePackedMatrix {
  private data: Uint16Array | undefined;

  constructor(
    private readonly backend: NativeBackend,
    values: Float32Array,
    private readonly shape: readonly [out: number, inputs: number],
  ) {
    this.data = toHalves(values, new Uint16Array(values.length));
  }

  get bytes(): number {
    return this.data?.byteLength ?? 0;
  }

  multiply(rows: tf.TensorInfo, transpose: boolean): tf.TensorInfo {
    const { backend } = this;
    const data = this.data ?? gone();
    const [out, inputs] = this.shape;
    const m = rows.shape[0]!;
    const y = backend.output([m, transpose ? inputs : out]);
    if (!(m && out && inputs)) {
      backend.values(y).fill(0);
      return y;
    }
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
    return y;
  }

  unpack(): Float32Array {
    const data = this.data ?? gone();
    return widen(data, new Float32Array(data.length));
  }

  dispose(): void {
    this.data = undefined;
  }
}

function gone(): never {
  throw new Error('FrozenMatrix: used after dispose(). Load the weight again before applying it.');
}

/** bfloat16 to float32. */
function widen(halves: Uint16Array, values: Float32Array): Float32Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) bits[i] = halves[i]! << 16;
  return values;
}

/** float32 to bfloat16, to nearest and ties to even. */
function toHalves(values: Float32Array, halves: Uint16Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
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
