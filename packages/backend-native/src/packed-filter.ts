import type * as tf from '@tensorflow/tfjs-core';
import type { NativeBackend } from './native-backend';
import { ARG, BF16, F32, type Layout, type OneDnn, type Primitive } from './onednn';
import { sizeOf } from './pooled-backend';

/**
 * The kernel of a frozen convolution. The layout that oneDNN wants depends on the images too, so the kernel lies as it
 * came until its first use, and after that as its latest use wanted it.
 */
export class PackedFilter {
  private memory: Float32Array | undefined;
  private layout: Layout;
  /** Made the layout, and holds the description of it. */
  private arranging: Primitive | undefined;

  /** @param weight `[out, in / groups, kernelHeight, kernelWidth]`; float32 where the processor has no fast bfloat16 */
  constructor(
    private readonly backend: NativeBackend,
    weight: tf.TensorInfo,
    precision: 'float32' | 'bfloat16',
  ) {
    const { pool } = backend;
    const type = precision === 'bfloat16' && convolvesHalves(backend.dnn) ? BF16 : F32;
    const n = sizeOf(weight.shape);
    this.layout = { dims: weight.shape, type };
    this.memory = pool.allocate(floatsFor(type, n));
    if (type === F32) this.memory.set(backend.values(weight));
    else this.convert({ dims: [n] }, backend.address(weight), { dims: [n], type }, pool.address(this.memory));
  }

  get bytes(): number {
    return this.memory?.byteLength ?? 0;
  }

  /** What it is held in. */
  get type(): number {
    return this.layout.type!;
  }

  /** Where the kernel lies in this layout, into which it is brought if it lies otherwise. */
  arranged(wanted: Layout): number {
    const { backend, layout } = this;
    const { dnn, pool } = backend;
    const held = this.held();
    if (dnn.sameLayout({ ...layout, dims: wanted.dims }, wanted)) return pool.address(held);
    const source = layout.chosen ? this.unpacked() : held;
    const arranging = dnn.reorder({ dims: wanted.dims, type: layout.chosen ? F32 : layout.type! }, wanted);
    const memory = pool.allocate(Math.ceil(dnn.bytes(wanted) / 4));
    arranging.run(pool.address(source), pool.address(memory));
    if (source !== held) pool.release(source);
    if (memory.length === held.length) {
      // Kernels that stay where they are leave no holes between them.
      held.set(memory);
      pool.release(memory);
    } else {
      pool.release(held);
      this.memory = memory;
    }
    this.arranging?.destroy();
    this.arranging = arranging;
    this.layout = { dims: wanted.dims, type: wanted.type!, chosen: arranging.layout(ARG.dst) };
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

  /** The values row-major in float32, in a buffer that is to be released. */
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

/** Float32 elements that n numbers take. */
export const floatsFor = (type: number, n: number): number => (type === BF16 ? Math.ceil(n / 2) : n);

let fast: boolean | undefined;

/** Whether oneDNN has fast code for convolutions in bfloat16 on this processor. */
function convolvesHalves(dnn: OneDnn): boolean {
  return (fast ??= tryHalves(dnn));
}

function tryHalves(dnn: OneDnn): boolean {
  const images: Layout = { dims: [1, 64, 8, 8], strides: [4096, 1, 512, 64], type: BF16 };
  const kernel: Layout = { dims: [64, 64, 3, 3], strides: 'any', type: BF16 };
  const geometry = { strides: [1, 1], dilations: [0, 0], padStart: [1, 1], padEnd: [1, 1] } as const;
  let probe: Primitive;
  try {
    probe = dnn.convForward(images, kernel, undefined, { ...images, type: F32 }, geometry);
  } catch {
    // Not implemented for this processor.
    return false;
  }
  const able = usesHalves(probe);
  probe.destroy();
  return able;
}

/** Whether an implementation uses bfloat16 instructions: imitated, as on plain AVX-512, they take four times as long as float32. */
export function usesHalves({ implementation }: Primitive): boolean {
  return !implementation.startsWith('ref') && /bf16|fp16|amx|avx10/.test(implementation.split(':').at(-1)!);
}
