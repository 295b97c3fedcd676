/** All sizes and options of an attention. */
export interface AttentionCase {
  readonly batch: number;
  readonly queries: number;
  readonly keys: number;
  readonly numHeads: number;
  readonly headDim: number;
  readonly scale: number;
  readonly causal?: boolean;
  /** `[batch, keys]`, 1 = visible */
  readonly keyMask?: readonly number[];
  /** Shape of the bias, 1 along the axes over which it is repeated. */
  readonly biasShape?: readonly [number, number, number, number];
  readonly uniformEmptyRows?: boolean;
}

/** Attention over `[batch, queries, heads*headDim]`, one query and head at a time. */
export function attentionReference(
  q: Float64Array,
  k: Float64Array,
  v: Float64Array,
  bias: Float64Array | undefined,
  c: AttentionCase,
): Float64Array {
  const { batch, queries, keys, numHeads, headDim } = c;
  const y = new Float64Array(q.length);
  const at = (b: number, row: number, rows: number, head: number): number =>
    ((b * rows + row) * numHeads + head) * headDim;

  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < numHeads; h++) {
      for (let i = 0; i < queries; i++) {
        const visible: number[] = [];
        for (let j = 0; j < keys; j++) {
          const late = c.causal && j > keys - queries + i;
          if (!late && (!c.keyMask || c.keyMask[b * keys + j] === 1)) visible.push(j);
        }
        const scores = visible.map((j) => {
          let dot = 0;
          for (let d = 0; d < headDim; d++) dot += q[at(b, i, queries, h) + d]! * k[at(b, j, keys, h) + d]!;
          return dot * c.scale + (bias ? bias[biasPosition(c.biasShape!, [b, h, i, j])]! : 0);
        });
        const weights = softmaxReference(scores);
        if (visible.length === 0 && c.uniformEmptyRows) {
          for (let j = 0; j < keys; j++) {
            visible.push(j);
            weights.push(1 / keys);
          }
        }
        visible.forEach((j, n) => {
          for (let d = 0; d < headDim; d++) y[at(b, i, queries, h) + d]! += weights[n]! * v[at(b, j, keys, h) + d]!;
        });
      }
    }
  }
  return y;
}

/** Softmax of one row. */
export function softmaxReference(scores: readonly number[]): number[] {
  const top = Math.max(...scores);
  const exps = scores.map((score) => Math.exp(score - top));
  const total = exps.reduce((a, b) => a + b, 0);
  return exps.map((e) => e / total);
}

function biasPosition(shape: readonly number[], place: readonly number[]): number {
  return shape.reduce((flat, n, axis) => flat * n + (n === 1 ? 0 : place[axis]!), 0);
}
