/** Bytes of one element, for every element type that a file may have. */
export const dtypeBytes = {
  F32: 4,
  F64: 8,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I8: 1,
  U8: 1,
  BOOL: 1,
  // A file may have tensors of the types below, but their values cannot be read.
  I16: 2,
  U16: 2,
  U32: 4,
  U64: 8,
  F8_E4M3: 1,
  F8_E5M2: 1,
  C64: 8,
} as const;

/** Element type of a stored tensor, as safetensors names it. */
export type Dtype = keyof typeof dtypeBytes;

/** Values in memory: floats as float32, booleans as 0 and 1. */
export type TensorData = Float32Array | Int32Array | BigInt64Array | Int8Array | Uint8Array;

/**
 * Converts little-endian bytes of a file to values. The bytes are copied and need not be aligned.
 *
 * @param what the tensor, for error messages
 * @throws Error for an element type that has no values here
 */
export function decode(bytes: Uint8Array, dtype: Dtype, what: string): TensorData {
  // A new copy starts at offset 0 and is therefore aligned for every element type. (A Node Buffer's slice() would not copy.)
  const { buffer } = new Uint8Array(bytes);
  switch (dtype) {
    case 'F64':
      return Float32Array.from(new Float64Array(buffer));
    case 'F32':
      return new Float32Array(buffer);
    case 'F16':
      return fromFloat16(new Uint16Array(buffer));
    case 'BF16':
      return fromBfloat16(new Uint16Array(buffer));
    case 'I64':
      return new BigInt64Array(buffer);
    case 'I32':
      return new Int32Array(buffer);
    case 'I8':
      return new Int8Array(buffer);
    case 'U8':
    case 'BOOL':
      return new Uint8Array(buffer);
    default:
      throw new Error(
        `${what} has values of type ${dtype}, which cannot be read. Save it as F32 or BF16, or omit this tensor.`,
      );
  }
}

/** Converts values to the little-endian bytes of a file, as the type that `dtypeOf` returns. */
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

function fromBfloat16(bits: Uint16Array): Float32Array {
  const words = new Uint32Array(bits.length);
  for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16;
  return new Float32Array(words.buffer);
}

function toBfloat16(values: Float32Array): Uint16Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    const w = words[i]!;
    // Round to nearest, ties to even. Rounding could turn a NaN into an infinity, so its quiet bit is set instead.
    const isNaN = (w & 0x7fffffff) > 0x7f800000;
    bits[i] = isNaN ? (w >>> 16) | 0x40 : (w + 0x7fff + ((w >>> 16) & 1)) >>> 16;
  }
  return bits;
}

/** The value of each of the 65,536 float16 bit patterns; computed on first use. */
let float16Values: Float32Array | undefined;

function fromFloat16(bits: Uint16Array): Float32Array {
  float16Values ??= Float32Array.from({ length: 65536 }, (_, h) => {
    const exponent = (h >>> 10) & 0x1f;
    const fraction = h & 0x3ff;
    const sign = h & 0x8000 ? -1 : 1;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  });
  const values = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) values[i] = float16Values[bits[i]!]!;
  return values;
}
