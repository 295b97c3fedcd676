/** An entry of the cache, which owns native memory. */
export interface Compiled {
  destroy(): void;
}

/** Compiled operations by a key that describes them fully; a full cache drops the least recently used. */
export class PrimitiveCache {
  private readonly entries = new Map<string, Compiled>();

  constructor(private readonly capacity = 2048) {}

  get<T extends Compiled>(key: string, make: () => T): T {
    const cached = this.entries.get(key);
    if (cached) {
      // A Map remembers insertion order: moving an entry to the end marks it as used.
      this.entries.delete(key);
      this.entries.set(key, cached);
      return cached as T;
    }
    if (this.entries.size >= this.capacity) {
      const [oldest, compiled] = this.entries.entries().next().value!;
      this.entries.delete(oldest);
      compiled.destroy();
    }
    const compiled = make();
    this.entries.set(key, compiled);
    return compiled;
  }

  clear(): void {
    for (const compiled of this.entries.values()) compiled.destroy();
    this.entries.clear();
  }

  get size(): number {
    return this.entries.size;
  }
}
