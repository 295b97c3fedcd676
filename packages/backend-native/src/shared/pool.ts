import koffi from 'koffi';

/** Below this many elements a plain array is cheaper than a pooled one. */
const SMALLEST = 64;
/** Blocks begin and end at multiples of so many elements, a cache line: vector loads that straddle two lines are slower. */
const GRAIN = 16;
/** Elements of memory taken at a time: 256 MiB, of which the system gives only the pages that are used. */
const REGION = 1 << 26;

/** A large stretch of memory that blocks are cut from. */
interface Region {
  readonly buffer: ArrayBuffer;
  readonly address: number;
  /** Elements from the buffer's start to the first aligned one. */
  readonly start: number;
  /** What is free, by place: no two of them touch. Where each begins and how long it is, in elements from `start`. */
  readonly free: { at: number; size: number }[];
  readonly size: number;
}

/**
 * Float32 buffers that are used again, so that a training step touches hardly a fresh page and the collector has little to
 * do. They are cut from large regions at the first place where they fit and grow together again when they are released:
 * what one step used for large tensors serves the next for small ones, and memory stays close to what is in use at once.
 * Whoever releases a buffer must not use it any more.
 */
export class BufferPool {
  private readonly regions: Region[] = [];
  private readonly regionOf = new WeakMap<ArrayBufferLike, Region>();
  private live = 0;
  private peak = 0;

  /** A buffer of n elements; its contents are whatever was there before. */
  allocate(n: number): Float32Array {
    if (n < SMALLEST) return new Float32Array(n);
    const size = blockSize(n);
    this.live += size;
    this.peak = Math.max(this.peak, this.live);
    let best: { region: Region; i: number; size: number } | undefined;
    for (const region of this.regions) {
      const { free } = region;
      for (let i = 0; i < free.length; i++) {
        const room = free[i]!.size;
        if (room >= size && (!best || room < best.size)) best = { region, i, size: room };
        if (room === size) break;
      }
      if (best?.size === size) break;
    }
    if (!best) return cut(this.grow(size), 0, size, n);
    return cut(best.region, best.i, size, n);
  }

  /** Takes back a buffer that `allocate` gave; arrays of others are left to the collector. */
  release(values: ArrayBufferView): void {
    const region = this.regionOf.get(values.buffer);
    if (!region) return;
    const size = blockSize(values.byteLength / 4);
    const at = values.byteOffset / 4 - region.start;
    this.live -= size;
    const { free } = region;
    const next = firstFrom(free, at);
    const [before, after] = [free[next - 1], free[next]];
    const touchesBefore = before !== undefined && before.at + before.size === at;
    const touchesAfter = after !== undefined && at + size === after.at;
    if (touchesBefore) {
      before.size += size;
      if (touchesAfter) {
        before.size += after.size;
        free.splice(next, 1);
      }
    } else if (touchesAfter) {
      after.at = at;
      after.size += size;
    } else free.splice(next, 0, { at, size });
  }

  /** Whether the array's memory belongs to the pool. */
  owns(values: ArrayBufferView): boolean {
    return this.regionOf.has(values.buffer);
  }

  /** Where the array's data lies. It stays there: only memory outside V8's moving heap is handed out here. */
  address(values: ArrayBufferView): number {
    const region = this.regionOf.get(values.buffer);
    return region ? region.address + values.byteOffset : Number(koffi.address(values));
  }

  /** Bytes in use, most ever in use at once, and bytes of the regions, used or not. */
  stats(): { readonly live: number; readonly peak: number; readonly held: number } {
    return { live: this.live * 4, peak: this.peak * 4, held: this.regions.reduce((sum, r) => sum + r.size * 4, 0) };
  }

  /** Leaves regions in which nothing is used to the collector. */
  trim(): void {
    const used = this.regions.filter(({ free, size }) => free[0]?.size !== size);
    this.regions.splice(0, this.regions.length, ...used);
    this.peak = this.live;
  }

  private grow(least: number): Region {
    const size = Math.max(REGION, least);
    const buffer = new ArrayBuffer((size + GRAIN) * 4);
    const address = Number(koffi.address(buffer));
    adviseHugePages(address, buffer.byteLength);
    const bytes = GRAIN * 4;
    const start = ((bytes - (address % bytes)) % bytes) / 4;
    const region: Region = { buffer, address, start, free: [{ at: 0, size }], size };
    this.regions.push(region);
    this.regionOf.set(buffer, region);
    return region;
  }
}

/** Value of Linux' MADV_HUGEPAGE. */
const HUGEPAGE = 14;
type Advise = (address: number, bytes: number, advice: number) => number;
let advise: Advise | undefined;

/** Asks Linux for large pages, within which the processor reads ahead; reading weights, decoding gains a few percent. */
function adviseHugePages(address: number, bytes: number): void {
  if (process.platform !== 'linux') return;
  try {
    advise ??= koffi.load('libc.so.6').func('madvise', 'int', ['uintptr_t', 'size_t', 'int']) as unknown as Advise;
  } catch {
    // Another C library: pages stay small.
    return;
  }
  // Whole pages only; that the system refuses does no harm.
  const [page, end] = [4096, address + bytes];
  const start = Math.ceil(address / page) * page;
  advise(start, end - start, HUGEPAGE);
}

const blockSize = (n: number): number => Math.ceil(n / GRAIN) * GRAIN;

/** The first n elements of a block cut from a free place. */
function cut({ buffer, start, free }: Region, i: number, size: number, n: number): Float32Array {
  const place = free[i]!;
  const { at } = place;
  if (place.size === size) free.splice(i, 1);
  else {
    place.at += size;
    place.size -= size;
  }
  return new Float32Array(buffer, (start + at) * 4, n);
}

/** Position of the first free place that lies at `at` or behind it. */
function firstFrom(free: Region['free'], at: number): number {
  let [low, high] = [0, free.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (free[middle]!.at < at) low = middle + 1;
    else high = middle;
  }
  return low;
}
