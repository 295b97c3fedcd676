import type * as tf from '@tensorflow/tfjs-core';
import { allocateBfloat16, convertToBfloat16 } from './bfloat16';
import type { OneDnnBackend } from './onednn-backend';
import { BF16, F32, rowMajor, type Layout } from './layout';
import type { PostOp } from './operations';
import { sizeOf } from '../shared/pooled-backend';

/** Address and layout of a factor or a result; `whole` is the tensor if it is all of its data, whose conversions are shared. */
export type Operand = readonly [address: number, layout: Layout, whole?: tf.TensorInfo];

/** All of a tensor's data as a factor, in the type in which it is held. */
export function factor(backend: OneDnnBackend, x: tf.TensorInfo, layout: Layout): Operand {
  return backend.isBfloat16(x)
    ? [backend.bfloat16Address(x), { ...layout, type: BF16 }, x]
    : [backend.address(x), { ...layout, type: F32 }, x];
}

/** Operations on a product before it is stored. */
export interface ProductOptions {
  /** Address of one number for each column. */
  readonly bias?: number;
  /** Factor on the product. */
  readonly scale?: number;
  readonly post?: readonly PostOp[];
  /** Addresses of the operands of the binary post-operations. */
  readonly operands?: readonly number[];
}

/** Converting a number takes about as long as this many multiplications. */
const WORTH_CONVERTING = 64;

/**
 * Whether x y is computed in bfloat16 arithmetic: if one factor is held so, or if the backend's precision is bfloat16 and the
 * product is large enough. Sums are always float32. A factor in blocks is multiplied as it is.
 */
export function inBfloat16(backend: OneDnnBackend, a: Layout, b: Layout): boolean {
  const types = [a.type, b.type];
  if ([a, b].some((layout) => layout.type !== BF16 && !isGapless(layout))) return false;
  return types.includes(BF16) || (backend.precision === 'bfloat16' && worthConverting(a, b));
}

/** z = x y over all leading axes; z may be in bfloat16 where the factors are. */
export function product(
  backend: OneDnnBackend,
  x: Operand,
  y: Operand,
  z: Operand,
  options: ProductOptions = {},
): void {
  const { bias, scale = 1, post: rest = [], operands = [] } = options;
  const post = scale === 1 ? rest : [{ kind: 'eltwise', alg: 'linear', alpha: scale } as const, ...rest];
  const isBf16 = inBfloat16(backend, x[1], y[1]);
  const buffers: Float32Array[] = [];
  const [[from, a], [by, b]] = [x, y].map(([address, layout, whole]): Operand => {
    if ((layout.type === BF16) === isBf16) return [address, layout];
    if (!isBf16) return [backend.address(whole!), { ...layout, type: F32 }];
    const converted = { ...layout, type: BF16 };
    if (whole) return [backend.bfloat16Address(whole), converted];
    const rounded = toBfloat16(backend, [address, layout]);
    buffers.push(rounded.buffer);
    return rounded.operand;
  }) as [Operand, Operand];
  const [to, out] = z;
  const biasLayout =
    bias === undefined ? undefined : { dims: [...out.dims.slice(0, -1).map(() => 1), out.dims.at(-1)!] };
  const key = `product ${nameOf(a)} ${nameOf(b)} ${nameOf(out)} ${bias !== undefined} ${post.length ? JSON.stringify(post) : ''}`;
  const compiled = backend.compiled(key, (dnn) => dnn.matmul(a, b, biasLayout, out, post));
  if (bias === undefined) compiled.run(from, by, to, ...operands);
  else compiled.run(from, by, bias, to, ...operands);
  for (const buffer of buffers) backend.pool.release(buffer);
}

const nameOf = ({ dims, strides, type, chosen }: Layout): string =>
  `${dims.join()} ${chosen ? 'chosen' : String(strides)} ${type}`;

/** Whether it pays to convert factors that are not in bfloat16. */
function worthConverting(a: Layout, b: Layout): boolean {
  const [m, k] = a.dims.slice(-2) as [number, number];
  const n = b.dims.at(-1)!;
  return m * n >= WORTH_CONVERTING * (m + n) && k >= WORTH_CONVERTING;
}

/** Whether a factor has no gaps, so that it can be converted in memory order. */
function isGapless({ dims, strides = rowMajor(dims), chosen }: Layout): boolean {
  if (chosen) return false;
  const last = dims.reduce((sum, n, i) => sum + (n - 1) * (strides as readonly number[])[i]!, 0);
  return last + 1 === sizeOf(dims);
}

/** The same factor in bfloat16, in a buffer that the caller releases. */
export function toBfloat16(
  backend: OneDnnBackend,
  [address, layout]: Operand,
): { operand: Operand; buffer: Float32Array } {
  const n = sizeOf(layout.dims);
  const buffer = allocateBfloat16(backend, n);
  const to = backend.pool.address(buffer);
  convertToBfloat16(backend, address, to, n);
  return { operand: [to, { ...layout, type: BF16 }], buffer };
}
