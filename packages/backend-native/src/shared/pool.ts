import koffi from 'koffi';

/** Below this many elements a plain array is cheaper than a pooled one. */
const SMALLEST = 64;
/** Blocks start and end at multiples of this many elements, a cache line: vector loads across two lines are slower. */
const GRAIN = 16;
/** Elements of a region: 256 MiB, of which the system provides only the pages that are used. */
const REGION = 1 << 26;

/** A large range of memory that blocks are cut from. */
interface Region {
  readonly buffer: ArrayBuffer;
  readonly address: number;
  /** Elements from the buffer's start to the first aligned one. */
  readonly start: number;
  /** Free blocks, sorted, no two adjacent: offset from `start` and size, in elements. */
  readonly free: { at: number; size: number }[];
  readonly size: number;
}

/**
 * Reuses float32 buffers, so that a training step touches hardly any fresh page and the collector has little to do. Buffers
 * are cut from large regions where they fit best, and free neighbors merge: the memory of one step's large tensors serves
 * the next step's small ones, and the total stays close to what is in use at once. Do not use a buffer after releasing it.
 */
export class BufferPool {
  private readonly regions: Region[] = [];
  private readonly regionOf = new WeakMap<ArrayBufferLike, Region>();
  private live = 0;
  private peak = 0;

  /** A buffer of n elements with undefined contents. */
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

  /** Releases a buffer that `allocate` returned; other arrays are ignored. */
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

  /** Address of the array's data, which never moves: the memory is outside V8's heap. */
  address(values: ArrayBufferView): number {
    const region = this.regionOf.get(values.buffer);
    return region ? region.address + values.byteOffset : Number(koffi.address(values));
  }

  /** Bytes in use, their peak, and bytes of all regions. */
  stats(): { readonly live: number; readonly peak: number; readonly held: number } {
    return { live: this.live * 4, peak: this.peak * 4, held: this.regions.reduce((sum, r) => sum + r.size * 4, 0) };
  }

  /** Frees unused regions. */
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

/** The value of MADV_HUGEPAGE on Linux. */
const HUGEPAGE = 14;
type Advise = (address: number, bytes: number, advice: number) => number;
let advise: Advise | undefined;

/** Asks Linux for large pages, within which the processor prefetches: decoding, which reads weights, gains a few percent. */
function adviseHugePages(address: number, bytes: number): void {
  if (process.platform !== 'linux') return;
  try {
    advise ??= koffi.load('libc.so.6').func('madvise', 'int', ['uintptr_t', 'size_t', 'int']) as unknown as Advise;
  } catch {
    // Another C library, musl for example: pages stay small.
    return;
  }
  // Whole pages only. The system may refuse.
  const [page, end] = [4096, address + bytes];
  const start = Math.ceil(address / page) * page;
  advise(start, end - start, HUGEPAGE);
}

const blockSize = (n: number): number => Math.ceil(n / GRAIN) * GRAIN;

/** The first n elements of a block cut from a free one. */
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

/** Index of the first free block at or after `at`. */
function firstFrom(free: Region['free'], at: number): number {
  let [low, high] = [0, free.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (free[middle]!.at < at) low = middle + 1;
    else high = middle;
  }
  return low;
}
