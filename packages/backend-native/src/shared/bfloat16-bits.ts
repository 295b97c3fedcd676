/** Widens bfloat16, given as bits, to float32. */
export function widenBits(bits: Uint16Array, values: Float32Array): Float32Array {
  const wide = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < wide.length; i++) wide[i] = bits[i]! << 16;
  return values;
}

/** Rounds float32 to the bits of bfloat16, to nearest with ties to even. */
export function roundToBits(values: Float32Array, bits: Uint16Array): Uint16Array {
  const wide = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < wide.length; i++) {
    const x = wide[i]!;
    // Rounding would carry a NaN over to infinity or to 0.
    bits[i] = Number.isNaN(values[i]) ? (x >>> 16) | 0x40 : (x + 0x7fff + ((x >>> 16) & 1)) >>> 16;
  }
  return bits;
}
