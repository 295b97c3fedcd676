import type { StandardizeOptions } from './standardize-weight';

/** Standardizes kernels `[out, fanIn]` row by row, with the formulas of the two implementations. */
export function standardizeWeightReference(
  weight: Float64Array,
  gain: Float64Array,
  { standardization, eps, gamma = 1 }: StandardizeOptions,
): Float64Array {
  const fanIn = weight.length / gain.length;
  const result = new Float64Array(weight.length);
  gain.forEach((g, o) => {
    const row = weight.subarray(o * fanIn, (o + 1) * fanIn);
    const mean = row.reduce((a, b) => a + b, 0) / fanIn;
    const variance = row.reduce((a, b) => a + (b - mean) ** 2, 0) / fanIn;
    const divisor =
      standardization === 'timm'
        ? Math.sqrt(variance + eps) * Math.sqrt(fanIn)
        : Math.sqrt(Math.max(variance * fanIn, eps));
    row.forEach((w, i) => (result[o * fanIn + i] = ((w - mean) / divisor) * g * gamma));
  });
  return result;
}
