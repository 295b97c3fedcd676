import type { Primitive } from './onednn';

/** Compiled operations by a key that says everything about them; the least recently used go when it is full. */
export class PrimitiveCache {
  private readonly entries = new Map<string, Primitive>();

  constructor(private readonly capacity = 2048) {}

  get(key: string, make: () => Primitive): Primitive {
    const found = this.entries.get(key);
    if (found) {
      // A Map remembers insertion order: moving an entry to the end marks it as used.
      this.entries.delete(key);
      this.entries.set(key, found);
      return found;
    }
    if (this.entries.size >= this.capacity) {
      const [oldest, primitive] = this.entries.entries().next().value!;
      this.entries.delete(oldest);
      primitive.destroy();
    }
    const primitive = make();
    this.entries.set(key, primitive);
    return primitive;
  }

  get size(): number {
    return this.entries.size;
  }
}
