/** Entry (i, j): query i, which is at key position s - t + i, times the row of r for its distance to key j. */
export function relativeScoresReference(
  q: Float64Array,
  r: Float64Array,
  batch: number,
  numHeads: number,
  headDim: number,
): Float64Array {
  const width = numHeads * headDim;
  const t = q.length / batch / width;
  const s = r.length / width;
  const scores = new Float64Array(batch * numHeads * t * s);
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < numHeads; h++) {
      for (let i = 0; i < t; i++) {
        const position = s - t + i;
        for (let j = 0; j <= position; j++) {
          const row = s - 1 - (position - j);
          for (let d = 0; d < headDim; d++) {
            scores[((b * numHeads + h) * t + i) * s + j]! +=
              q[(b * t + i) * width + h * headDim + d]! * r[row * width + h * headDim + d]!;
          }
        }
      }
    }
  }
  return scores;
}
