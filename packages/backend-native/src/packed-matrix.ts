import type * as tf from '@tensorflow/tfjs-core';
import { roundToBits, widenBits } from './bfloat16-bits';
import { fewRows, MOST_ROWS } from './few-rows';
import { factor, inHalves, product, type Operand, type ProductOptions } from './kernels/product';
import type { NativeBackend } from './native-backend';
import { ARG, BF16, F32, S8, U8, type Layout, type OneDnn, type Primitive } from './onednn';

/** Rows of the product that oneDNN chooses a layout for; the layout serves any number of rows. */
const TYPICAL_ROWS = 256;
/** Rows of the smallest product that oneDNN computes as a product of matrices and not row by row: fewer are filled up. */
export const SMALL_PRODUCT = 4;
/** Elements expanded at a time where the processor cannot multiply them as they are: a megabyte stays in its cache. */
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

/** How a frozen matrix is held. */
export type MatrixPrecision = 'float32' | 'bfloat16' | 'int8';

/** Values to be packed: float32, or the bits of bfloat16. */
type Given = Float32Array | Uint16Array;

/** Memory that holds a matrix, from the pool or from elsewhere. */
interface Held {
  readonly data: Given;
  free(): void;
}

/**
 * Packs a frozen matrix `[out, in]`, row-major.
 *
 * @param release where given, the values may be kept until it is called, once; else they are copied
 */
export function packMatrix(
  backend: NativeBackend,
  values: Given,
  shape: readonly [out: number, inputs: number],
  precision: MatrixPrecision,
  release?: () => void,
): NativePackedMatrix {
  const type = precision === 'float32' ? F32 : BF16;
  const packing = precision === 'int8' ? undefined : packingOf(backend.dnn, shape, type);
  // What has the right type already stays where it is.
  const kept = release && typeOf(values) === type && precision !== 'int8' ? { data: values, free: release } : undefined;
  if (packing) {
    const matrix = new BlockedMatrix(backend, kept ?? values, shape, packing);
    if (!kept) release?.();
    return matrix;
  }
  if (kept) return new PanelMatrix(backend, shape, { held: kept, width: 2 });
  const narrow = precision === 'int8' ? quantized(backend, values, shape) : halved(backend, values);
  release?.();
  return new PanelMatrix(backend, shape, narrow);
}

const typeOf = (values: Given): number => (values instanceof Float32Array ? F32 : BF16);

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
  private memory: Held | undefined;
  /** How it lies now: in blocks or plainly. */
  private layout: Layout;

  /** @param given values to be copied, or memory in which they lie plainly, in the type of the blocks, to be kept */
  constructor(
    private readonly backend: NativeBackend,
    given: Given | Held,
    private readonly shape: readonly [out: number, inputs: number],
    private readonly blocks: Layout,
  ) {
    if ('free' in given) {
      this.memory = given;
      this.layout = this.plain;
      return;
    }
    const { pool } = backend;
    this.layout = blocks;
    this.memory = this.room(blocks);
    if (!given.length) return;
    const operand: Operand = [pool.address(given), { ...this.plain, type: typeOf(given) }];
    const rounded = typeOf(given) === F32 && blocks.type === BF16 ? inHalves(backend, operand) : undefined;
    this.reorder(rounded?.operand ?? operand, [pool.address(this.memory.data), blocks]);
    if (rounded) pool.release(rounded.buffer);
  }

  get bytes(): number {
    return this.memory?.data.byteLength ?? 0;
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
      product(backend, x, [pool.address(this.held().data), { dims: [k, n], type: this.blocks.type }], z, options);
    } else {
      if (m < MANY_ROWS) this.lay(this.blocks);
      if (m < SMALL_PRODUCT) this.multiplyFew(rows, y, options);
      else product(backend, x, [pool.address(this.held().data), this.layout], z, options);
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
    if (type === BF16) roundToBits(from, new Uint16Array(x.buffer, x.byteOffset, from.length));
    else x.set(from);
    const { bias, post = [], operands = [] } = options;
    const key = `few ${inputs},${out} ${type} ${bias !== undefined} ${post.length ? JSON.stringify(post) : ''}`;
    const compiled = backend.compiled(key, (dnn) => {
      const [a, c]: Layout[] = [{ dims: [SMALL_PRODUCT, inputs], type }, { dims: [SMALL_PRODUCT, out] }];
      return dnn.matmul(a!, this.layout, bias === undefined ? undefined : { dims: [1, out] }, c!, post);
    });
    const [from4, weight, to4] = [pool.address(x), pool.address(this.held().data), pool.address(z)];
    if (bias === undefined) compiled.run(from4, weight, to4, ...operands);
    else compiled.run(from4, weight, bias, to4, ...operands);
    to.set(z.subarray(0, to.length));
    pool.release(x);
    pool.release(z);
  }

  unpack(): Float32Array {
    const { backend, layout, shape } = this;
    const { data } = this.held();
    const [out, inputs] = shape;
    const values = new Float32Array(out * inputs);
    if (!values.length) return values;
    const { pool } = backend;
    if (layout.type === F32) this.reorder([pool.address(data), layout], [pool.address(values), this.plain]);
    else {
      const halves = pool.allocate(Math.ceil(values.length / 2));
      this.reorder([pool.address(data), layout], [pool.address(halves), this.plain]);
      widenBits(new Uint16Array(halves.buffer, halves.byteOffset, values.length), values);
      pool.release(halves);
    }
    return values;
  }

  dispose(): void {
    this.memory?.free();
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
    if (from.data.length) this.reorder([pool.address(from.data), this.layout], [pool.address(to.data), layout]);
    from.free();
    this.memory = to;
    this.layout = layout;
  }

  private room(layout: Layout): Held {
    return fromPool(this.backend, this.backend.dnn.bytes(layout));
  }

  private reorder([from, a]: Operand, [to, b]: Operand): void {
    const key = `reorder ${this.shape.join()} ${a.type} ${a.chosen !== undefined} ${b.type} ${b.chosen !== undefined}`;
    this.backend.compiled(key, (dnn) => dnn.reorder(a, b)).run(from, to);
  }

  private held(): Held {
    return this.memory ?? gone();
  }
}

/** A matrix in a narrow type, and how it becomes float32. */
interface Narrow {
  /** Row-major `[out, in]`. */
  readonly held: Held;
  /** Bytes of an element. */
  readonly width: 1 | 2;
  /** What each row is to be multiplied by, if anything. */
  readonly scales?: Float32Array;
}

/**
 * A weight in a type that the processor has no fast products for (int8; bfloat16 below AVX-512): expanded to float32 panel by
 * panel at each use, in its cache, which costs little beside reading it.
 */
class PanelMatrix implements NativePackedMatrix {
  constructor(
    private readonly backend: NativeBackend,
    private readonly shape: readonly [out: number, inputs: number],
    private narrow: Narrow | undefined,
  ) {}

  get bytes(): number {
    return (this.narrow?.held.data.byteLength ?? 0) + (this.narrow?.scales?.byteLength ?? 0);
  }

  multiply(rows: tf.TensorInfo, transpose: boolean): tf.TensorInfo {
    const { backend } = this;
    const { held, width, scales } = this.narrow ?? gone();
    const [out, inputs] = this.shape;
    const m = rows.shape[0]!;
    const y = backend.output([m, transpose ? inputs : out]);
    if (!(m && out && inputs)) {
      backend.values(y).fill(0);
      return y;
    }
    if (!transpose && this.multiplyFew(rows, y)) return y;
    // A row's factor is that of a column of the result, or transposed of a column of what is multiplied.
    const x = transpose && scales ? this.scaled(rows, scales, backend.output(rows.shape)) : rows;
    const count = Math.max(1, Math.floor(PANEL / inputs));
    const panel = width === 1 ? backend.pool.allocate(Math.min(count, out) * inputs) : undefined;
    const [a, from, z] = [backend.address(x), backend.pool.address(held.data), backend.address(y)];
    for (let first = 0; first < out; first += count) {
      const taken = Math.min(count, out - first);
      const weight = this.expand(from + first * inputs * width, taken * inputs, panel);
      // Forward, a panel makes some columns of the result; transposed, it adds to all of them.
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
    const { held, width, scales } = this.narrow ?? gone();
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

  /** The product of a few rows, where there is code for it. */
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

  /** Where n elements lie as float32: in the panel, if they are bytes. */
  private expand(from: number, n: number, panel: Float32Array | undefined): number {
    const { backend } = this;
    if (!panel) return expandHalves(backend, from, n);
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

/** A matrix in bfloat16. */
function halved(backend: NativeBackend, values: Given): Narrow {
  const held = fromPool(backend, 2 * values.length);
  const halves = new Uint16Array(held.data.buffer, held.data.byteOffset, values.length);
  if (values instanceof Float32Array) roundToBits(values, halves);
  else halves.set(values);
  return { held, width: 2 };
}

/** Memory for so many bytes. */
function fromPool({ pool }: NativeBackend, bytes: number): Held {
  const data = pool.allocate(Math.ceil(bytes / 4));
  return { data, free: () => pool.release(data) };
}

/** Steps from 0 to the largest magnitude of a row. */
const STEPS = 127;

/** A matrix in int8, each row with a factor of its own: symmetric, to the nearest step. */
function quantized(backend: NativeBackend, values: Given, [out, inputs]: readonly [number, number]): Narrow {
  const { pool } = backend;
  const held = fromPool(backend, values.length);
  const scales = pool.allocate(out);
  const steps = pool.allocate(out);
  for (let o = 0; o < out; o++) {
    const top = largest(values.subarray(o * inputs, (o + 1) * inputs));
    scales[o] = top / STEPS;
    steps[o] = top > 0 ? STEPS / top : 0;
  }
  const count = Math.max(1, Math.floor(PANEL / inputs));
  const scaled = pool.allocate(Math.min(count, out) * inputs);
  for (let first = 0; first < out && inputs > 0; first += count) {
    const rows = Math.min(count, out - first);
    const n = rows * inputs;
    const place = first * inputs;
    const from = pool.address(values) + place * values.BYTES_PER_ELEMENT;
    const wide = values instanceof Float32Array ? from : expandHalves(backend, from, n);
    const [all, column]: Layout[] = [{ dims: [rows, inputs] }, { dims: [rows, 1] }];
    const key = `rows ${rows},${inputs}`;
    const scale = backend.compiled(key, (dnn) => dnn.binary('mul', all!, column!, all!));
    scale.run(wide, pool.address(steps) + 4 * first, pool.address(scaled));
    const round = backend.compiled(`round ${n}`, (dnn) => dnn.reorder({ dims: [n] }, { dims: [n], type: S8 }));
    round.run(pool.address(scaled), pool.address(held.data) + place);
  }
  pool.release(steps);
  pool.release(scaled);
  return { held, width: 1, scales };
}

/** Largest magnitude: without their signs, numbers are in the order of their bits. */
function largest(values: Given): number {
  const halves = values instanceof Uint16Array;
  const bits = halves ? values : new Int32Array(values.buffer, values.byteOffset, values.length);
  const mask = halves ? 0x7fff : 0x7fffffff;
  let top = 0;
  for (let i = 0; i < bits.length; i++) {
    const magnitude = bits[i]! & mask;
    if (magnitude > top) top = magnitude;
  }
  return new Float32Array(Int32Array.of(halves ? top << 16 : top).buffer)[0]!;
}

/** Where n numbers in bfloat16 lie as float32, until it is called again. */
function expandHalves(backend: NativeBackend, from: number, n: number): number {
  const to = backend.panel(n);
  backend.compiled(`expand ${n}`, (dnn) => expansion(dnn, n)).run(from, to + UPPER);
  return to;
}

function gone(): never {
  throw new Error('FrozenMatrix: used after dispose(). Load the weight again before applying it.');
}

/**
 * bfloat16 to float32, whose upper half it is, as a copy of byte pairs: oneDNN moves those by fast code on all threads, while
 * below AVX-512 it has only reference code for the types themselves. The lower halves must be zero already.
 */
const expansion = (dnn: OneDnn, n: number): Primitive =>
  dnn.reorder({ dims: [n, 2], type: U8 }, { dims: [n, 2], strides: [4, 1], type: U8 });

/** Where the upper half of a number lies within it, in bytes. */
const UPPER = 2;
