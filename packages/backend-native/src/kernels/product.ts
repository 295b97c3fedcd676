import type { NativeBackend } from '../native-backend';
import { BF16, rowMajor, type Layout, type PostOp } from '../onednn';
import { sizeOf } from '../pooled-backend';

/** Where a factor or a result lies, and how. */
export type Operand = readonly [address: number, layout: Layout];

/** What is done to a product before it is stored. */
export interface ProductOptions {
  /** Address of one number for each column. */
  readonly bias?: number;
  /** Factor on the product. */
  readonly scale?: number;
  readonly post?: readonly PostOp[];
  /** Addresses of what the binary ones among them take. */
  readonly operands?: readonly number[];
}

/** Converting factors takes about as long as so many multiplications for each of their numbers. */
const WORTH_CONVERTING = 64;

/**
 * z = x y over all leading axes. In bfloat16 arithmetic where y is held so, or where the backend was told so and the product
 * is large enough; sums are float32 always.
 */
export function product(
  backend: NativeBackend,
  x: Operand,
  y: Operand,
  z: Operand,
  options: ProductOptions = {},
): void {
  const { bias, scale = 1, operands = [] } = options;
  const scaling: PostOp[] = scale === 1 ? [] : [{ kind: 'eltwise', alg: 'linear', alpha: scale }];
  const post = [...scaling, ...(options.post ?? [])];
  const halved = y[1].type === BF16 || (backend.precision === 'bfloat16' && worthConverting(x[1], y[1]));
  const buffers: Float32Array[] = [];
  const [[from, a], [by, b]] = [x, y].map((operand): Operand => {
    if (!halved || operand[1].type === BF16) return operand;
    const half = inHalves(backend, operand);
    buffers.push(half.buffer);
    return half.operand;
  }) as [Operand, Operand];
  const [to, out] = z;
  const biasLayout =
    bias === undefined ? undefined : { dims: [...out.dims.slice(0, -1).map(() => 1), out.dims.at(-1)!] };
  const parts = [a, b, out].map(
    ({ dims, strides, type, chosen }) => `${dims.join()} ${chosen ? 'chosen' : String(strides)} ${type}`,
  );
  const key = `product ${parts.join(' ')} ${bias !== undefined} ${post.length ? JSON.stringify(post) : ''}`;
  const compiled = backend.compiled(key, (dnn) => dnn.matmul(a, b, biasLayout, out, post));
  if (bias === undefined) compiled.run(from, by, to, ...operands);
  else compiled.run(from, by, bias, to, ...operands);
  for (const buffer of buffers) backend.pool.release(buffer);
}

/** Whether both factors lie without gaps, so that they can be converted as they lie, and it pays. */
function worthConverting(a: Layout, b: Layout): boolean {
  const [m, k] = a.dims.slice(-2) as [number, number];
  const n = b.dims.at(-1)!;
  if (m * n < WORTH_CONVERTING * (m + n) || k < WORTH_CONVERTING) return false;
  return isGapless(a) && isGapless(b);
}

function isGapless({ dims, strides = rowMajor(dims), chosen }: Layout): boolean {
  if (chosen) return false;
  const last = dims.reduce((sum, n, i) => sum + (n - 1) * (strides as readonly number[])[i]!, 0);
  return last + 1 === sizeOf(dims);
}

/** The same factor in bfloat16, in a buffer that is to be released. */
export function inHalves(
  backend: NativeBackend,
  [address, layout]: Operand,
): { operand: Operand; buffer: Float32Array } {
  const n = sizeOf(layout.dims);
  const buffer = backend.pool.allocate(Math.ceil(n / 2));
  const to = backend.pool.address(buffer);
  backend.compiled(`halves ${n}`, (dnn) => dnn.reorder({ dims: [n] }, { dims: [n], type: BF16 })).run(address, to);
  return { operand: [to, { ...layout, type: BF16 }], buffer };
}
