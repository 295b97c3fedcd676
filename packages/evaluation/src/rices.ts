/**
 * Retrieval-based in-context example selection (section 3.1): the support examples whose frozen visual features are
 * nearest to the query's by cosine.
 */
export class Rices {
  private readonly bank: readonly Float64Array[];

  /** @param features one vector per support example, of any length */
  constructor(features: readonly ArrayLike<number>[]) {
    this.bank = features.map((vector) => normalised(vector));
    const width = this.bank[0]?.length ?? 0;
    const odd = this.bank.findIndex((vector) => vector.length !== width);
    if (odd >= 0) throw new Error(`Rices: vector ${odd} has ${this.bank[odd]!.length} numbers, vector 0 has ${width}.`);
  }

  /** Indices of the `count` nearest, the MOST similar LAST, next to the query where it weighs most. */
  nearest(query: ArrayLike<number>, count: number): number[] {
    const q = normalised(query);
    if (this.bank.length > 0 && q.length !== this.bank[0]!.length) {
      throw new Error(
        `Rices.nearest: the query has ${q.length} numbers, the bank's vectors have ${this.bank[0]!.length}.`,
      );
    }
    const similarity = this.bank.map((vector) => vector.reduce((sum, x, i) => sum + x * q[i]!, 0));
    const order = similarity.map((_, i) => i).sort((a, b) => similarity[b]! - similarity[a]! || a - b);
    return order.slice(0, count).reverse();
  }
}

function normalised(vector: ArrayLike<number>): Float64Array {
  const v = Float64Array.from(vector);
  const length = Math.hypot(...v);
  return length === 0 ? v : v.map((x) => x / length);
}
