import type * as tf from '@tensorflow/tfjs-core';
import { BF16, F32, type Layout } from '../onednn/layout';
import type { OneDnnBackend } from '../onednn/onednn-backend';
import { factor, product, toBfloat16, type Operand, type ProductOptions } from '../onednn/product';
import { roundToBits, widenBits } from '../shared/bfloat16-bits';
import { fromPool, throwDisposed, typeOf, type Given, type Held, type NativePackedMatrix, type Shape } from './matrix';

/** Rows of the smallest product that oneDNN computes as a matrix product and not row by row: fewer are padded to it. */
export const SMALL_PRODUCT = 4;

/** Operations on a product with a packed matrix before it is stored. */
type MatrixOptions = Omit<ProductOptions, 'scale'>;

/** From this many rows on, a product with a row-major weight is as fast as with one in blocks. */
const MANY_ROWS = 128;

/**
 * A frozen weight in the layout that its latest use needs. Inference uses oneDNN's blocks, because rearranging the weight at
 * each use takes longer than a product of a few rows. Training uses row-major, which serves the product and its gradient.
 */
export class BlockedMatrix implements NativePackedMatrix {
  private memory: Held | undefined;
  /** The current layout: blocks or row-major. */
  private layout: Layout;

  /** @param given values to copy, or memory to keep, which holds them row-major in the type of the blocks */
  constructor(
    private readonly backend: OneDnnBackend,
    given: Given | Held,
    private readonly shape: Shape,
    private readonly blocks: Layout,
  ) {
    if ('free' in given) {
      this.memory = given;
      this.layout = this.plain;
      return;
    }
    const { pool } = backend;
    this.layout = blocks;
    this.memory = this.allocate(blocks);
    if (!given.length) return;
    const operand: Operand = [pool.address(given), { ...this.plain, type: typeOf(given) }];
    const rounded = typeOf(given) === F32 && blocks.type === BF16 ? toBfloat16(backend, operand) : undefined;
    this.reorder(rounded?.operand ?? operand, [pool.address(this.memory.data), blocks]);
    if (rounded) pool.release(rounded.buffer);
  }

  get bytes(): number {
    return this.memory?.data.byteLength ?? 0;
  }

  /** With `narrow` the result is held in bfloat16 if the weight is and it has many rows. */
  multiply(rows: tf.TensorInfo, transpose: boolean, options: MatrixOptions = {}, narrow = false): tf.TensorInfo {
    const { backend } = this;
    const { pool } = backend;
    const [out, inputs] = this.shape;
    this.held();
    const [m, n, k] = [rows.shape[0]!, transpose ? inputs : out, transpose ? out : inputs];
    if (!(m && n && k)) return backend.zeroOutput([m, n]);
    const isBf16 = narrow && this.blocks.type === BF16 && m >= MANY_ROWS;
    const y = isBf16 ? backend.bfloat16Output([m, n]) : backend.output([m, n]);
    const [x, z] = [factor(backend, rows, { dims: [m, k] }), factor(backend, y, { dims: [m, n] })];
    if (transpose) {
      this.changeLayout(this.plain);
      product(backend, x, [pool.address(this.held().data), { dims: [k, n], type: this.blocks.type }], z, options);
    } else {
      if (m < MANY_ROWS) this.changeLayout(this.blocks);
      if (m < SMALL_PRODUCT) this.multiplyFew(rows, y, options);
      else product(backend, x, [pool.address(this.held().data), this.layout], z, options);
    }
    return y;
  }

  /** Pads a few rows to a product that oneDNN computes as a matrix product: it then reads the weight at the speed of memory. */
  private multiplyFew(rows: tf.TensorInfo, y: tf.TensorInfo, options: MatrixOptions): void {
    const { backend } = this;
    const { pool } = backend;
    const [out, inputs] = this.shape;
    const { type } = this.blocks;
    const [x, z] = [pool.allocate(SMALL_PRODUCT * inputs), pool.allocate(SMALL_PRODUCT * out)];
    const [from, to] = [backend.values(rows), backend.values(y)];
    // The other rows may hold anything, but denormals would be slow.
    x.fill(0);
    // For so few numbers a loop is faster than a call.
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
      const bits = pool.allocate(Math.ceil(values.length / 2));
      this.reorder([pool.address(data), layout], [pool.address(bits), this.plain]);
      widenBits(new Uint16Array(bits.buffer, bits.byteOffset, values.length), values);
      pool.release(bits);
    }
    return values;
  }

  dispose(): void {
    this.memory?.free();
    this.memory = undefined;
  }

  /** Row-major `[out, in]`, transposed to the product's view. */
  private get plain(): Layout {
    const [out, inputs] = this.shape;
    return { dims: [inputs, out], strides: [1, inputs], type: this.blocks.type };
  }

  /** Rearranges the weight if it is not in this layout. */
  private changeLayout(layout: Layout): void {
    if ((layout.chosen !== undefined) === (this.layout.chosen !== undefined)) return;
    const { pool } = this.backend;
    const [from, to] = [this.held(), this.allocate(layout)];
    if (from.data.length) this.reorder([pool.address(from.data), this.layout], [pool.address(to.data), layout]);
    from.free();
    this.memory = to;
    this.layout = layout;
  }

  private allocate(layout: Layout): Held {
    return fromPool(this.backend, this.backend.dnn.bytes(layout));
  }

  private reorder([from, a]: Operand, [to, b]: Operand): void {
    const key = `reorder ${this.shape.join()} ${a.type} ${a.chosen !== undefined} ${b.type} ${b.chosen !== undefined}`;
    this.backend.compiled(key, (dnn) => dnn.reorder(a, b)).run(from, to);
  }

  private held(): Held {
    return this.memory ?? throwDisposed();
  }
}
