/** Layer norm of each row of `width` numbers: mean 0 and biased variance 1, then weight and bias. */
export function layerNormReference(
  x: Float64Array,
  weight: Float64Array,
  bias: Float64Array | undefined,
  eps: number,
): Float64Array {
  const width = weight.length;
  const y = new Float64Array(x.length);
  for (let start = 0; start < x.length; start += width) {
    const row = x.subarray(start, start + width);
    const mean = row.reduce((a, b) => a + b, 0) / width;
    const variance = row.reduce((a, b) => a + (b - mean) ** 2, 0) / width;
    row.forEach((value, i) => {
      y[start + i] = ((value - mean) / Math.sqrt(variance + eps)) * weight[i]! + (bias ? bias[i]! : 0);
    });
  }
  return y;
}
