import type * as tf from '@tensorflow/tfjs-core';
import type { OneDnnBackend } from '../onednn/onednn-backend';
import { BF16, F32, type Layout } from '../onednn/layout';
import type { OneDnn } from '../onednn/onednn';
import { ARG } from '../onednn/operations';
import { ifImplemented, type Primitive } from '../onednn/primitive';
import { sizeOf } from '../shared/pooled-backend';

/**
 * The kernel of a frozen convolution. oneDNN's best layout depends on the images too, so the kernel stays row-major until its
 * first use, and afterward has the layout that its latest use needed.
 */
export class PackedFilter {
  private memory: Float32Array | undefined;
  private layout: Layout;
  /** Produced the layout and owns its descriptor. */
  private arranging: Primitive | undefined;

  /** @param weight `[out, in / groups, kernelHeight, kernelWidth]`; float32 where the processor has no fast bfloat16 */
  constructor(
    private readonly backend: OneDnnBackend,
    weight: tf.TensorInfo,
    precision: 'float32' | 'bfloat16',
  ) {
    const { pool } = backend;
    const type = precision === 'bfloat16' && convolvesBfloat16(backend.dnn) ? BF16 : F32;
    const n = sizeOf(weight.shape);
    this.layout = { dims: weight.shape, type };
    this.memory = pool.allocate(floatsFor(type, n));
    if (type === F32) this.memory.set(backend.values(weight));
    else this.convert({ dims: [n] }, backend.address(weight), { dims: [n], type }, pool.address(this.memory));
  }

  get bytes(): number {
    return this.memory?.byteLength ?? 0;
  }

  /** The data type in which it is held. */
  get type(): number {
    return this.layout.type!;
  }

  /** Address of the kernel in this layout, rearranged if necessary. */
  arranged(target: Layout): number {
    const { backend, layout } = this;
    const { dnn, pool } = backend;
    const held = this.held();
    if (dnn.sameLayout({ ...layout, dims: target.dims }, target)) return pool.address(held);
    const source = layout.chosen ? this.unpacked() : held;
    const arranging = dnn.reorder({ dims: target.dims, type: layout.chosen ? F32 : layout.type! }, target);
    const memory = pool.allocate(Math.ceil(dnn.bytes(target) / 4));
    arranging.run(pool.address(source), pool.address(memory));
    if (source !== held) pool.release(source);
    if (memory.length === held.length) {
      // Keeping a kernel in place does not fragment the pool.
      held.set(memory);
      pool.release(memory);
    } else {
      pool.release(held);
      this.memory = memory;
    }
    this.arranging?.destroy();
    this.arranging = arranging;
    this.layout = { dims: target.dims, type: target.type!, chosen: arranging.layout(ARG.dst) };
    return pool.address(this.held());
  }

  unpack(): Float32Array {
    const pooled = this.unpacked();
    const values = pooled.slice();
    this.backend.pool.release(pooled);
    return values;
  }

  dispose(): void {
    if (this.memory) this.backend.pool.release(this.memory);
    this.arranging?.destroy();
    this.memory = this.arranging = undefined;
  }

  /** The values as row-major float32, in a buffer that the caller releases. */
  private unpacked(): Float32Array {
    const { pool } = this.backend;
    const { dims } = this.layout;
    const held = this.held();
    const values = pool.allocate(sizeOf(dims));
    this.convert(this.layout, pool.address(held), { dims }, pool.address(values));
    return values;
  }

  private convert(from: Layout, source: number, to: Layout, target: number): void {
    const reorder = this.backend.dnn.reorder(from, to);
    reorder.run(source, target);
    reorder.destroy();
  }

  private held(): Float32Array {
    if (this.memory) return this.memory;
    throw new Error('FrozenFilter: used after dispose(). Load the weight again before applying it.');
  }
}

/** Number of float32 elements that n numbers of this type occupy. */
export const floatsFor = (type: number, n: number): number => (type === BF16 ? Math.ceil(n / 2) : n);

let fast: boolean | undefined;

/** Whether oneDNN has fast code for convolutions in bfloat16 on this processor. */
function convolvesBfloat16(dnn: OneDnn): boolean {
  return (fast ??= hasFastBfloat16(dnn));
}

function hasFastBfloat16(dnn: OneDnn): boolean {
  const images: Layout = { dims: [1, 64, 8, 8], strides: [4096, 1, 512, 64], type: BF16 };
  const kernel: Layout = { dims: [64, 64, 3, 3], strides: 'any', type: BF16 };
  const geometry = { strides: [1, 1], dilations: [0, 0], padStart: [1, 1], padEnd: [1, 1] } as const;
  const probe = ifImplemented(() => dnn.convForward(images, kernel, undefined, { ...images, type: F32 }, geometry));
  const isFast = probe !== undefined && usesBfloat16(probe);
  probe?.destroy();
  return isFast;
}

/** Whether an implementation uses bfloat16 instructions. Emulated, as on plain AVX-512, they take four times as long as float32. */
export function usesBfloat16({ implementation, isReference }: Primitive): boolean {
  return !isReference && /bf16|fp16|amx|avx10/.test(implementation.split(':').at(-1)!);
}
