import type { FrozenValues } from './frozen-matrix';

/** A checkpoint whose tensors are read one by one: what `openCheckpoint` of `@flamingo-ts/checkpoint` gives, and what is like it. */
export interface WeightSource {
  readonly names: readonly string[];
  info(name: string): { readonly shape: readonly number[]; readonly dtype?: string };
  read(name: string): Promise<{ readonly shape: readonly number[]; readonly data: ArrayLike<number | bigint> }>;
  /** The little-endian bytes of a tensor, to be used until they are closed; absent where there are only values. */
  borrow?(name: string): Promise<{ readonly bytes: Uint8Array; close(): void }>;
}

/** Values that are used where they lie, until they are closed. */
export interface LentValues {
  readonly values: FrozenValues;
  close(): void;
}

/** A tensor's values as they are stored, where the source lends them in a type that frozen weights take: F32 or BF16. */
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
