import koffi from 'koffi';

/** Below this many elements a plain array is cheaper than a pooled one. */
const SMALLEST = 64;
/** The pool holds, in elements, the most that was ever in use at once and a quarter more, but no more than this more. */
const MOST_SPARE = 64 << 20;
/** It may hold so many elements in any case. */
const HELD_AT_LEAST = 16 << 20;
/** Cache-line alignment: vector loads that straddle two lines are slower. */
const ALIGNMENT = 64;

/** A block may have so many times the capacity asked for: batches of changing shape then live on each other's memory. */
const LOOSEST = 2;

/** A stretch of memory of one size class, with its address. */
interface Block {
  readonly buffer: ArrayBuffer;
  readonly offset: number;
  readonly address: number;
  readonly capacity: number;
}

/**
 * Float32 buffers that are used again by size class, so that a training step touches hardly a fresh page and the collector
 * has little to do. A buffer is recycled only through `release`, and only if nobody took it out with `forget`.
 */
export class BufferPool {
  private readonly free = new Map<number, Block[]>();
  private readonly blocks = new WeakMap<ArrayBufferLike, Block>();
  private live = 0;
  private peak = 0;
  private kept = 0;

  /** A buffer of n elements; its contents are whatever was there before. */
  allocate(n: number): Float32Array {
    if (n < SMALLEST) return new Float32Array(n);
    const block = this.recycled(n) ?? this.fresh(sizeClass(n));
    this.live += block.capacity;
    this.peak = Math.max(this.peak, this.live);
    this.shrink();
    return new Float32Array(block.buffer, block.offset, n);
  }

  /** Takes a buffer back. Arrays that did not come from here, or were forgotten, are left to the collector. */
  release(values: ArrayBufferView): void {
    const block = this.blocks.get(values.buffer);
    if (!block) return;
    this.live -= block.capacity;
    this.kept += block.capacity;
    const list = this.free.get(block.capacity) ?? [];
    list.push(block);
    this.markUsed(block.capacity, list);
    this.shrink();
  }

  /** Gives a buffer away for good: it will never be used again from here. */
  forget(values: ArrayBufferView): void {
    const block = this.blocks.get(values.buffer);
    if (!block) return;
    this.live -= block.capacity;
    this.blocks.delete(values.buffer);
  }

  /** Whether the array's memory belongs to the pool. */
  owns(values: ArrayBufferView): boolean {
    return this.blocks.has(values.buffer);
  }

  /** Where the array's data lies. It stays there: only memory outside V8's moving heap is handed out here. */
  address(values: ArrayBufferView): number {
    const block = this.blocks.get(values.buffer);
    // A view into the middle of a buffer lies as far behind the block's address.
    return block ? block.address + (values.byteOffset - block.offset) : Number(koffi.address(values));
  }

  /** Bytes in use, most ever in use, and free but kept. */
  stats(): { readonly live: number; readonly peak: number; readonly kept: number } {
    return { live: this.live * 4, peak: this.peak * 4, kept: this.kept * 4 };
  }

  /** Lets go of everything kept for later. */
  trim(): void {
    this.free.clear();
    this.kept = 0;
    this.peak = this.live;
  }

  /** A free block for n elements: of their class, else of one at most twice as large, which shapes of other steps left. */
  private recycled(n: number): Block | undefined {
    const least = sizeClass(n);
    for (let capacity = least; capacity <= LOOSEST * least; capacity = sizeClass(capacity + 1)) {
      const list = this.free.get(capacity);
      const block = list?.pop();
      if (!block) continue;
      this.kept -= capacity;
      this.markUsed(capacity, list!);
      return block;
    }
    return undefined;
  }

  /** A Map remembers insertion order: the class used longest ago comes first. */
  private markUsed(capacity: number, list: Block[]): void {
    this.free.delete(capacity);
    this.free.set(capacity, list);
  }

  /** Leaves free blocks to the collector while there are too many, those of the class used longest ago first. */
  private shrink(): void {
    const most = Math.max(this.peak + Math.min(this.peak / 4, MOST_SPARE), HELD_AT_LEAST);
    while (this.kept > 0 && this.live + this.kept > most) {
      const [capacity, list] = this.free.entries().next().value!;
      const block = list.pop();
      if (block) {
        this.blocks.delete(block.buffer);
        this.kept -= capacity;
      } else this.free.delete(capacity);
    }
  }

  private fresh(capacity: number): Block {
    const buffer = new ArrayBuffer(capacity * 4 + ALIGNMENT);
    const start = Number(koffi.address(buffer));
    const offset = (ALIGNMENT - (start % ALIGNMENT)) % ALIGNMENT;
    const block = { buffer, offset, address: start + offset, capacity };
    this.blocks.set(buffer, block);
    return block;
  }
}

/** The next capacity up: quarters of powers of two, so that at most a fifth is wasted. */
export function sizeClass(n: number): number {
  const quarter = 2 ** Math.max(4, 31 - Math.clz32(n - 1) - 2);
  return Math.ceil(n / quarter) * quarter;
}
