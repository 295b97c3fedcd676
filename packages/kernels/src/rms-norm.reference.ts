/** Divides each row of `width` numbers by the root of its mean square, then multiplies by the weight. */
export function rmsNormReference(x: Float64Array, weight: Float64Array, eps: number): Float64Array {
  const width = weight.length;
  const y = new Float64Array(x.length);
  for (let start = 0; start < x.length; start += width) {
    const row = x.subarray(start, start + width);
    const meanSquare = row.reduce((a, b) => a + b * b, 0) / width;
    row.forEach((value, i) => (y[start + i] = (value / Math.sqrt(meanSquare + eps)) * weight[i]!));
  }
  return y;
}
