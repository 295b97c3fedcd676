/** Values as float32: float32 as it is, a Uint16Array as the bits of bfloat16, any other numbers converted. */
export function widened(values: ArrayLike<number | bigint>): Float32Array {
  if (values instanceof Float32Array) return values;
  if (!(values instanceof Uint16Array)) return Float32Array.from(values, Number);
  const bits = new Uint32Array(values.length);
  for (let i = 0; i < bits.length; i++) bits[i] = values[i]! << 16;
  return new Float32Array(bits.buffer);
}

/** Rounds to the bits of bfloat16, to nearest with ties to even. */
export function toBfloat16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const rounded = new Uint16Array(bits.length);
  for (let i = 0; i < bits.length; i++) {
    const x = bits[i]!;
    // Rounding would carry a NaN over to infinity or to 0.
    rounded[i] = Number.isNaN(values[i]) ? (x >>> 16) | 0x40 : (x + 0x7fff + ((x >>> 16) & 1)) >>> 16;
  }
  return rounded;
}
