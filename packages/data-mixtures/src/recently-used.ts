/** Keeps the values used last; what falls out is made again when it is asked for. */
export class RecentlyUsed<K, V> {
  private readonly kept = new Map<K, V>();

  constructor(private readonly capacity: number) {}

  get(key: K, make: () => V): V {
    const value = this.kept.has(key) ? this.kept.get(key)! : make();
    // A Map remembers the order of insertion: taken out and put in again, a key is the newest.
    this.kept.delete(key);
    this.kept.set(key, value);
    if (this.kept.size > this.capacity) this.kept.delete(this.kept.keys().next().value as K);
    return value;
  }
}
