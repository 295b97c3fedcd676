import type { NativeBackend } from './native-backend';
import { BF16 } from './onednn';
import type { Entry } from './pooled-backend';

/** Writes n float32 as bfloat16, over addresses. */
export function halve(backend: NativeBackend, from: number, to: number, n: number): void {
  backend.compiled(`halves ${n}`, (dnn) => dnn.reorder({ dims: [n] }, { dims: [n], type: BF16 })).run(from, to);
}

/** Room for n numbers in bfloat16. */
export function roomForHalves(backend: NativeBackend, n: number): Float32Array {
  return backend.pool.allocate(Math.ceil(n / 2));
}

/** Data of a tensor that is held in bfloat16, and in float32 too once somebody asks for it. */
export class HalvedEntry implements Entry {
  readonly dtype = 'float32';
  refCount = 1;
  readonly halves: Float32Array;
  private floats: Float32Array | undefined;

  constructor(
    private readonly backend: NativeBackend,
    private readonly size: number,
  ) {
    this.halves = roomForHalves(backend, size);
  }

  get values(): Float32Array {
    if (this.floats) return this.floats;
    const { backend, size, halves } = this;
    const floats = backend.pool.allocate(size);
    const widening = backend.compiled(`widen ${size}`, (dnn) =>
      dnn.reorder({ dims: [size], type: BF16 }, { dims: [size] }),
    );
    widening.run(backend.pool.address(halves), backend.pool.address(floats));
    return (this.floats = floats);
  }

  release(): void {
    this.backend.pool.release(this.halves);
    if (this.floats) this.backend.pool.release(this.floats);
  }
}

/** Bytes of conversions that are kept in all. */
const HELD = 1 << 24;
/** An operation takes no more factors than this: so many are kept whatever their size. */
const FACTORS = 4;

/**
 * Tensors' data in bfloat16, kept as long as the tensor lives and memory allows: a training step multiplies by most of its
 * activations and weights two or three times. What was not used for longest goes first.
 */
export class Halves {
  private readonly held = new Map<object, Float32Array>();
  private bytes = 0;

  constructor(private readonly backend: NativeBackend) {}

  /** Where these values of a tensor lie in bfloat16; valid until four others have been asked for. */
  of(dataId: object, values: Float32Array): number {
    const { backend, held } = this;
    let halves = held.get(dataId);
    if (halves) held.delete(dataId);
    else {
      halves = roomForHalves(backend, values.length);
      halve(backend, backend.pool.address(values), backend.pool.address(halves), values.length);
      this.bytes += halves.byteLength;
    }
    held.set(dataId, halves);
    for (const oldest of held.keys()) {
      if (this.bytes <= HELD || held.size <= FACTORS) break;
      this.forget(oldest);
    }
    return backend.pool.address(halves);
  }

  forget(dataId: object): void {
    const halves = this.held.get(dataId);
    if (!halves) return;
    this.held.delete(dataId);
    this.bytes -= halves.byteLength;
    this.backend.pool.release(halves);
  }
}
