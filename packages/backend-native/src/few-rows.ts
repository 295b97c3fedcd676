import koffi from 'koffi';
import { Assembler, type Memory } from './assembler';
import { openMpThreads } from './library';
import { MAP_PRIVATE, PROT, systemCalls } from './system-calls';

/**
 * Products of a few rows with a weight in bfloat16 or int8, which are bound by reading the weight: oneDNN below version 3.5
 * has none that take float32 beside such a weight, and expanding it first takes several times as long as reading it.
 *
 * Written as machine code when first wanted, since no compiler may be asked for: each of OpenMP's threads takes some outputs,
 * widens eight weights at a time and multiplies them with each row.
 */
export interface FewRows {
  /**
   * z `[m, out]` = x `[m, inputs]` times the weight `[out, inputs]`, over addresses; m at most `MOST_ROWS`.
   *
   * @param scales address of a factor for each output, of an int8 weight
   */
  multiply(weight: number, x: number, z: number, scales?: number): void;
}

/** Rows that one pass over the weight serves. */
export const MOST_ROWS = 4;
/** Weights that a round of the inner loop takes: the number of inputs must be a multiple. */
const ROUND = 32;
/** Eight float32. */
const LANES = 8;
/** Outputs of a thread begin at multiples of it, so that no two write to one cache line. */
const GRAIN = 16;
/** Bytes of what a thread is told: five numbers of 64 bits, see `assemble`. */
const TOLD = 64;

const made = new Map<string, FewRows>();

/**
 * The product for such sizes; nothing where it cannot be: on another processor or system, for an odd number of inputs.
 *
 * @param width bytes of a weight: 2 bfloat16, 1 int8
 * @param isa   what oneDNN says of the processor
 */
export function fewRows(
  isa: string,
  width: 1 | 2,
  m: number,
  [out, inputs]: readonly [number, number],
): FewRows | undefined {
  const system = systemFor(isa);
  const fits = m >= 1 && m <= MOST_ROWS && out > 0 && inputs > 0 && inputs % ROUND === 0;
  // Displacements and limits are 32 bits.
  if (!system || !fits || Math.max(out, inputs) * 4 * m >= 2 ** 31) return undefined;
  const key = `${width} ${m} ${out} ${inputs}`;
  let product = made.get(key);
  if (!product) made.set(key, (product = make(system, width, m, out, inputs)));
  return product;
}

function make(system: System, width: 1 | 2, m: number, out: number, inputs: number): FewRows {
  const entry = system.place(assemble(system.threadNumber, width, m, out, inputs));
  return {
    multiply(weight, x, z, scales = 0) {
      const threads = Math.min(openMpThreads()!, system.threadLimit);
      const each = Math.ceil(out / threads / GRAIN) * GRAIN;
      const told = new BigInt64Array((threads * TOLD) / 8);
      for (let i = 0; i < threads; i++) {
        const first = Math.min(i * each, out);
        const rows = Math.min(each, out - first);
        const fields = [weight + first * inputs * width, x, z + 4 * first, scales + 4 * first, rows];
        fields.forEach((field, j) => (told[(i * TOLD) / 8 + j] = BigInt(field)));
      }
      system.parallel(entry, told, threads, 0);
    },
  };
}

/** The function that every thread runs, in the calling convention of x64 but Windows; its argument is what all are told. */
function assemble(threadNumber: bigint, width: 1 | 2, m: number, out: number, inputs: number): Uint8Array {
  const a = new Assembler();
  // Independent sums hide the latency of additions: four with one row, two with two, and each row its own beyond.
  const sums = Math.max(1, Math.floor(MOST_ROWS / m));
  const sum = (row: number, i: number) => row * sums + (i % sums);
  const field = (i: number): Memory => ({ base: 'rbx', displacement: 8 * i });
  a.raw(0x53); //                                     push rbx
  a.raw(0x48, 0x89, 0xfb); //                         mov rbx, rdi
  a.call(threadNumber);
  a.raw(0x48, 0x63, 0xc0); //                         movsxd rax, eax
  a.raw(0x48, 0xc1, 0xe0, Math.log2(TOLD)); //        shl rax, 6
  a.raw(0x48, 0x01, 0xc3); //                         add rbx, rax
  a.load('rsi', field(0)); //                         weight
  a.load('rdx', field(1)); //                         x
  a.load('rcx', field(2)); //                         z
  a.load('rdi', field(3)); //                         scales
  a.load('rbx', field(4)); //                         outputs to go
  a.compare('rbx', 0);
  a.jump('je', 'end');
  a.label('output');
  for (let i = 0; i < m * sums; i++) a.vector('vxorps', true, i, i, i);
  a.raw(0x31, 0xc0); //                               xor eax, eax: the input that comes next
  a.label('inputs');
  for (let i = 0; i < ROUND / LANES; i++) {
    const wide = MOST_ROWS + (i % MOST_ROWS);
    const weights: Memory = { base: 'rsi', index: 'rax', scale: width, displacement: i * LANES * width };
    if (width === 2) {
      a.vector('vpmovzxwd', true, wide, 0, weights);
      a.vector('vpslld', true, 6, wide, wide, 16);
    } else {
      a.vector('vpmovsxbd', true, wide, 0, weights);
      a.vector('vcvtdq2ps', true, wide, 0, wide);
    }
    for (let row = 0; row < m; row++) {
      const values: Memory = { base: 'rdx', index: 'rax', scale: 4, displacement: 4 * (row * inputs + i * LANES) };
      a.vector('vfmadd231ps', true, sum(row, i), wide, values);
    }
  }
  a.add('rax', ROUND);
  a.compare('rax', inputs);
  a.jump('jl', 'inputs');
  for (let row = 0; row < m; row++) {
    const first = sum(row, 0);
    for (let i = 1; i < sums; i++) a.vector('vaddps', true, first, first, sum(row, i));
    a.vector('vextractf128', true, first, 0, MOST_ROWS, 1);
    a.vector('vaddps', false, first, first, MOST_ROWS);
    a.vector('vhaddps', false, first, first, first);
    a.vector('vhaddps', false, first, first, first);
    if (width === 1) a.vector('vmulss', false, first, first, { base: 'rdi', displacement: 0 });
    a.vector('vmovss', false, first, 0, { base: 'rcx', displacement: 4 * row * out });
  }
  a.add('rsi', inputs * width);
  a.add('rcx', 4);
  a.add('rdi', 4);
  a.add('rbx', -1);
  a.jump('jne', 'output');
  a.label('end');
  a.raw(0xc5, 0xf8, 0x77); //                         vzeroupper
  a.raw(0x5b, 0xc3); //                               pop rbx; ret
  return a.code();
}

// --- The system ---

/** What running such code takes. */
interface System {
  /** Address of `omp_get_thread_num`. */
  readonly threadNumber: bigint;
  /** Most threads that OpenMP gives. */
  readonly threadLimit: number;
  /** `GOMP_parallel(function, argument, threads, flags)` */
  readonly parallel: (entry: bigint, told: BigInt64Array, threads: number, flags: number) => void;
  /** Puts code into memory that may be run and gives its address. */
  place(code: Uint8Array): bigint;
}

/** Of Linux. */
const MAP_ANONYMOUS = 0x20;
const PAGE = 4096;

let system: System | undefined | null;

function systemFor(isa: string): System | undefined {
  if (system === undefined) system = findSystem();
  return /^avx(2|512)/.test(isa) ? (system ?? undefined) : undefined;
}

function findSystem(): System | null {
  const calls = systemCalls();
  if (process.platform !== 'linux' || process.arch !== 'x64' || openMpThreads() === undefined || !calls) return null;
  try {
    const gomp = koffi.load('libgomp.so.1');
    const symbol = koffi.load(null).func('dlsym', 'uintptr_t', ['uintptr_t', 'str']);
    const place = (code: Uint8Array): bigint => {
      const bytes = Math.ceil(code.length / PAGE) * PAGE;
      const at = BigInt(calls.mmap(0, bytes, PROT.read | PROT.write, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
      new Uint8Array(koffi.view(at, bytes)).set(code);
      // Never writable and runnable at once.
      if (calls.mprotect(at, bytes, PROT.read | PROT.exec) !== 0)
        throw new Error('few-rows: the system runs no code of ours.');
      return at;
    };
    const threadNumber = BigInt(symbol(0, 'omp_get_thread_num') as number);
    // Every thread that is asked for must come, because each has a share of its own: OpenMP promises it but here.
    const threadLimit = gomp.func('omp_get_thread_limit', 'int', [])() as number;
    if (threadNumber === 0n || gomp.func('omp_get_dynamic', 'int', [])() !== 0) return null;
    // Some systems forbid it; better known now than at the first product.
    place(Uint8Array.of(0xc3));
    const parallel = gomp.func('GOMP_parallel', 'void', ['uintptr_t', 'void *', 'uint', 'uint']) as never;
    return { threadNumber, threadLimit, parallel, place };
  } catch {
    return null;
  }
}
