/**
 * Retrieval-based in-context example selection (section 3.1): finds the support examples whose frozen visual features have
 * the highest cosine similarity with those of the query.
 */
export class Rices {
  private readonly bank: readonly Float64Array[];

  /** @param features one vector per support example, of any norm */
  constructor(features: readonly ArrayLike<number>[]) {
    this.bank = features.map((vector) => normalized(vector));
    const width = this.bank[0]?.length ?? 0;
    const odd = this.bank.findIndex((vector) => vector.length !== width);
    if (odd >= 0)
      throw new Error(
        `Rices: vectors must have ${width} numbers like vector 0, got ${this.bank[odd]!.length} in vector ${odd}.`,
      );
  }

  /** Indices of the `count` nearest examples, most similar last: next to the query, where an example has most influence. */
  nearest(query: ArrayLike<number>, count: number): number[] {
    const q = normalized(query);
    if (this.bank.length > 0 && q.length !== this.bank[0]!.length) {
      throw new Error(
        `Rices.nearest: query must have ${this.bank[0]!.length} numbers like the support vectors, got ${q.length}.`,
      );
    }
    const similarity = this.bank.map((vector) => vector.reduce((sum, x, i) => sum + x * q[i]!, 0));
    const order = similarity.map((_, i) => i).sort((a, b) => similarity[b]! - similarity[a]! || a - b);
    return order.slice(0, count).reverse();
  }
}

function normalized(vector: ArrayLike<number>): Float64Array {
  const v = Float64Array.from(vector);
  const length = Math.sqrt(v.reduce((sum, x) => sum + x * x, 0));
  return length === 0 ? v : v.map((x) => x / length);
}
