/** Rows of a matrix `[n, width]` by number. */
export function gatherRowsReference(x: Float64Array, rows: readonly number[], width: number): Float64Array {
  return Float64Array.from(rows.flatMap((row) => [...x.subarray(row * width, (row + 1) * width)]));
}
