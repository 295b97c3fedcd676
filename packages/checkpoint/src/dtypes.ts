/** Element types of safetensors files that are read. */
export type Dtype = 'F32' | 'F16' | 'BF16' | 'I64' | 'I32' | 'I8' | 'U8' | 'BOOL';

/** Bytes of one element. */
export const dtypeBytes: Readonly<Record<Dtype, number>> = {
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I8: 1,
  U8: 1,
  BOOL: 1,
};

/** Values in memory: 16-bit floats widened to float32, booleans as 0 and 1. */
export type TensorData = Float32Array | Int32Array | BigInt64Array | Int8Array | Uint8Array;

/** Little-endian bytes of a file to values. The bytes are copied, so they may lie anywhere in a buffer. */
export function decode(bytes: Uint8Array, dtype: Dtype): TensorData {
  // A fresh copy starts at offset 0 and so is aligned for every element type. (A Node Buffer's slice() would not copy.)
  const { buffer } = new Uint8Array(bytes);
  switch (dtype) {
    case 'F32':
      return new Float32Array(buffer);
    case 'I32':
      return new Int32Array(buffer);
    case 'I64':
      return new BigInt64Array(buffer);
    case 'I8':
      return new Int8Array(buffer);
    case 'BF16':
      return fromBfloat16(new Uint16Array(buffer));
    case 'F16':
      return fromFloat16(new Uint16Array(buffer));
    default:
      return new Uint8Array(buffer);
  }
}

/** Values to the little-endian bytes of a file, as the type that `dtypeOf` names. */
export function encode(data: TensorData, floats: FloatDtype): Uint8Array {
  const stored = data instanceof Float32Array && floats === 'BF16' ? toBfloat16(data) : data;
  return new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength);
}

/** How float32 values are written; everything else keeps its type. */
export type FloatDtype = 'F32' | 'BF16';

/** The type under which values are written. */
export function dtypeOf(data: TensorData, floats: FloatDtype): Dtype {
  if (data instanceof Float32Array) return floats;
  if (data instanceof Int32Array) return 'I32';
  if (data instanceof Int8Array) return 'I8';
  return data instanceof BigInt64Array ? 'I64' : 'U8';
}

function fromBfloat16(halves: Uint16Array): Float32Array {
  const words = new Uint32Array(halves.length);
  for (let i = 0; i < halves.length; i++) words[i] = halves[i]! << 16;
  return new Float32Array(words.buffer);
}

function toBfloat16(values: Float32Array): Uint16Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const halves = new Uint16Array(values.length);
  for (let i = 0; i < halves.length; i++) {
    const w = words[i]!;
    // Round to nearest, ties to even; a NaN must not be rounded into an infinity, so its quiet bit is set instead.
    const isNaN = (w & 0x7fffffff) > 0x7f800000;
    halves[i] = isNaN ? (w >>> 16) | 0x40 : (w + 0x7fff + ((w >>> 16) & 1)) >>> 16;
  }
  return halves;
}

/** What each of the 65,536 patterns of a half means, made when first needed. */
let halfValues: Float32Array | undefined;

function fromFloat16(halves: Uint16Array): Float32Array {
  halfValues ??= Float32Array.from({ length: 65536 }, (_, h) => {
    const exponent = (h >>> 10) & 0x1f;
    const fraction = h & 0x3ff;
    const sign = h & 0x8000 ? -1 : 1;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  });
  const values = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) values[i] = halfValues[halves[i]!]!;
  return values;
}
