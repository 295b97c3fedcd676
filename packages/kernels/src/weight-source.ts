import type { FrozenValues } from './frozen-matrix';

/** A checkpoint whose tensors are read one by one, such as `openCheckpoint` of `@flamingo-ts/checkpoint` returns. */
export interface WeightSource {
  readonly names: readonly string[];
  info(name: string): { readonly shape: readonly number[]; readonly dtype?: string };
  read(name: string): Promise<{ readonly shape: readonly number[]; readonly data: ArrayLike<number | bigint> }>;
  /** The little-endian bytes of a tensor without a copy, valid until closed; optional. */
  borrow?(name: string): Promise<{ readonly bytes: Uint8Array; close(): void }>;
}

/** Values used without a copy, valid until closed. */
export interface LentValues {
  readonly values: FrozenValues;
  close(): void;
}

/** The stored values of a tensor without a copy, or undefined if the source cannot lend them as F32 or BF16. */
export async function lentValues(source: WeightSource, name: string): Promise<LentValues | undefined> {
  const Values = { F32: Float32Array, BF16: Uint16Array }[source.info(name).dtype ?? ''];
  const lent = Values && (await source.borrow?.(name));
  if (!lent) return undefined;
  const { buffer, byteOffset, byteLength } = lent.bytes;
  const { BYTES_PER_ELEMENT: each } = Values;
  const close = () => lent.close();
  if (byteOffset % each === 0)
    return { values: new Values(buffer as ArrayBuffer, byteOffset, byteLength / each), close };
  close();
  return undefined;
}
