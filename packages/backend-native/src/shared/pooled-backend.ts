import * as tf from '@tensorflow/tfjs-core';
import { MathBackendCPU } from '@tensorflow/tfjs-backend-cpu';
import { BufferPool } from './pool';

/** Arrays of at least this many elements are copied into the pool when tensors are created from them. */
const LARGE = 1 << 14;

/** One tensor's data as tfjs' CPU backend keeps it. */
export interface Entry {
  readonly values: Float32Array;
  readonly dtype: tf.DataType;
  refCount: number;
}

/**
 * A fast version of a tfjs kernel. It returns `undefined` for calls that it does not support (another dtype, an empty tensor,
 * an option it lacks); the CPU kernel of the same name computes those.
 */
export type FastKernel<B extends PooledBackend = PooledBackend> = (
  inputs: Record<string, tf.TensorInfo>,
  attrs: Record<string, unknown>,
  backend: B,
) => tf.TensorInfo | tf.TensorInfo[] | undefined;

/**
 * What native backends share: tfjs' CPU backend for kernels without a fast version, and float32 outputs from a pool. An array
 * visible from outside (passed by the user, read out, or shared by two tensors) never enters the pool.
 */
export class PooledBackend extends MathBackendCPU {
  readonly pool = new BufferPool();

  /** @param name the name under which tfjs registers it */
  constructor(readonly name: string) {
    super();
  }

  override write(values: tf.backend_util.BackendValues, _shape: number[], dtype: tf.DataType): object {
    const dataId = {};
    this.data.set(dataId, { values: this.owned(values), dtype, refCount: 1 } as never);
    return dataId;
  }

  /** What a tensor created from these values holds. */
  private owned(values: tf.backend_util.BackendValues): tf.backend_util.BackendValues {
    if (values instanceof Float32Array && values.length >= LARGE) {
      // Large arrays are copied: pooled memory is aligned, may be written in place, and is freed with the tensor.
      const copy = this.pool.allocate(values.length);
      copy.set(values);
      return copy;
    }
    // A kernel that returns (part of) another tensor's array would give pooled memory two owners.
    return ArrayBuffer.isView(values) && this.pool.owns(values) ? (values as Float32Array).slice() : values;
  }

  /** Copies pooled arrays: their memory may be reused as soon as the tensor is disposed of. */
  override readSync(dataId: object): tf.backend_util.BackendValues {
    const values = super.readSync(dataId);
    return ArrayBuffer.isView(values) && this.pool.owns(values) ? (values as Float32Array).slice() : values;
  }

  override async read(dataId: object): Promise<tf.backend_util.BackendValues> {
    return this.readSync(dataId);
  }

  override disposeData(dataId: object, force = false): boolean {
    const entry = this.data.has(dataId) ? this.entry(dataId) : undefined;
    const freed = super.disposeData(dataId, force);
    if (freed && entry) this.free(entry, dataId);
    return freed;
  }

  /** Releases the data of a disposed tensor. */
  protected free({ values }: Entry, _dataId: object): void {
    if (ArrayBuffer.isView(values)) this.pool.release(values);
  }

  /** A float32 output from the pool; its contents are undefined. */
  output(shape: readonly number[]): tf.TensorInfo {
    return this.enter({ values: this.pool.allocate(sizeOf(shape)), dtype: 'float32', refCount: 1 }, shape);
  }

  /** A tensor with this data. */
  protected enter(entry: Entry, shape: readonly number[]): tf.TensorInfo {
    const dataId = {};
    this.data.set(dataId, entry as never);
    return { dataId, shape: shape as number[], dtype: entry.dtype };
  }

  /** A float32 output of zeros. */
  zeroOutput(shape: readonly number[]): tf.TensorInfo {
    const x = this.output(shape);
    this.values(x).fill(0);
    return x;
  }

  /** A copy of a float32 tensor. */
  copy(x: tf.TensorInfo): tf.TensorInfo {
    const out = this.output(x.shape);
    this.values(out).set(this.values(x));
    return out;
  }

  /** The same data under another shape. */
  view(x: tf.TensorInfo, shape: readonly number[]): tf.TensorInfo {
    this.incRef(x.dataId);
    return { dataId: x.dataId, shape: shape as number[], dtype: x.dtype };
  }

  /** A tensor's data, not a copy. */
  values(x: tf.TensorInfo): Float32Array {
    return this.entry(x.dataId).values;
  }

  /** Address of a tensor's data. */
  address(x: tf.TensorInfo): number {
    return this.pool.address(this.entry(x.dataId).values);
  }

  /** Runs another kernel of this backend, for fast kernels that end in another operation. */
  call(kernelName: string, inputs: Record<string, tf.TensorInfo>, attrs: object = {}): tf.TensorInfo {
    const kernel = tf.getKernel(kernelName, this.name)!;
    return kernel.kernelFunc({ inputs, attrs: attrs as tf.NamedAttrMap, backend: this }) as tf.TensorInfo;
  }

  override dispose(): void {
    this.pool.trim();
  }

  protected entry(dataId: object): Entry {
    return this.data.get(dataId) as unknown as Entry;
  }
}

/** Whether all tensors are float32 and none is empty, as the fast kernels require. */
export function plainFloats(...tensors: (tf.TensorInfo | undefined)[]): boolean {
  return tensors.every((t) => t === undefined || (t.dtype === 'float32' && sizeOf(t.shape) > 0));
}

export function sizeOf(shape: readonly number[]): number {
  let n = 1;
  for (const d of shape) n *= d;
  return n;
}

/**
 * Registers a backend with the fast kernels, which fall back to tfjs' CPU kernels. A name in `fast` that tfjs does not know is
 * a fused operation, which must support all calls.
 */
export function registerPooledBackend<B extends PooledBackend>(
  name: string,
  make: () => B,
  fast: Readonly<Record<string, FastKernel<B>>>,
  priority: number,
): void {
  if (tf.findBackendFactory(name)) return;
  const done = new Set(tf.getKernelsForBackend(name).map((kernel) => kernel.kernelName));
  for (const kernel of tf.getKernelsForBackend('cpu')) {
    if (done.has(kernel.kernelName)) continue;
    const quick = fast[kernel.kernelName];
    const kernelFunc = quick ? either(quick, kernel.kernelFunc) : kernel.kernelFunc;
    tf.registerKernel({ ...kernel, backendName: name, kernelFunc });
    done.add(kernel.kernelName);
  }
  for (const [kernelName, quick] of Object.entries(fast)) {
    if (done.has(kernelName)) continue;
    tf.registerKernel({
      kernelName,
      backendName: name,
      kernelFunc: either(quick, () => {
        throw new Error(`${kernelName} on backend ${name}: expected non-empty float32 tensors of fitting shapes.`);
      }),
    });
  }
  tf.registerBackend(name, make, priority);
}

function either<B extends PooledBackend>(quick: FastKernel<B>, otherwise: tf.KernelFunc): tf.KernelFunc {
  return (call) => {
    const { inputs, attrs, backend } = call as unknown as {
      inputs: Record<string, tf.TensorInfo>;
      attrs: Record<string, unknown>;
      backend: B;
    };
    return quick(inputs, attrs ?? {}, backend) ?? otherwise(call);
  };
}
