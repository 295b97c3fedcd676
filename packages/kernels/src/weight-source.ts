import type { FrozenValues } from './frozen-matrix';

/** A checkpoint whose tensors are read one by one, such as `openCheckpoint` from `@flamingo-ts/checkpoint` returns. */
export interface WeightSource {
  readonly names: readonly string[];
  info(name: string): { readonly shape: readonly number[]; readonly dtype?: string };
  read(name: string): Promise<{ readonly shape: readonly number[]; readonly data: ArrayLike<number | bigint> }>;
  /** Optional: the little-endian bytes of a tensor without a copy, valid until `close` is called. */
  borrow?(name: string): Promise<{ readonly bytes: Uint8Array; close(): void }>;
}

/** Values borrowed from a source without a copy; call `close` after the last use. */
export interface BorrowedValues {
  readonly values: FrozenValues;
  close(): void;
}

/** Borrows the stored values of a tensor; undefined unless the source can expose them without a copy, as F32 or BF16. */
export async function borrowValues(source: WeightSource, name: string): Promise<BorrowedValues | undefined> {
  const Values = { F32: Float32Array, BF16: Uint16Array }[source.info(name).dtype ?? ''];
  const borrowed = Values && (await source.borrow?.(name));
  if (!borrowed) return undefined;
  const { buffer, byteOffset, byteLength } = borrowed.bytes;
  const { BYTES_PER_ELEMENT: each } = Values;
  const close = () => borrowed.close();
  if (byteOffset % each === 0)
    return { values: new Values(buffer as ArrayBuffer, byteOffset, byteLength / each), close };
  close();
  return undefined;
}
