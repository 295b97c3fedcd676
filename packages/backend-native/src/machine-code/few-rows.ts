import koffi from 'koffi';
import { Assembler, type Memory } from './assembler';
import { roundToBits } from '../shared/bfloat16-bits';
import { nativeThreads, openMpRuntime } from '../onednn/library';
import type { OpenMp } from '../onednn/open-mp';
import { MAP_PRIVATE, PROT, systemCalls } from '../shared/system-calls';

/**
 * Products of a few rows with a weight in bfloat16 or int8, which are bound by reading the weight: oneDNN before version 3.5
 * has no product of float32 with such a weight, and expanding the weight first takes several times as long as reading it.
 *
 * Written as machine code at the first use, since no compiler may be required: each OpenMP thread computes a share of the
 * outputs, widens eight weights at a time and multiplies them with each row.
 */
export interface FewRows {
  /**
   * z `[m, out]` = x `[m, inputs]` times the weight `[out, inputs]`, over addresses; m is at most `MOST_ROWS`.
   *
   * @param scales address of a factor for each output, for an int8 weight
   */
  multiply(weight: number, x: number, z: number, scales?: number): void;
}

/** Rows that one pass over the weight serves. */
export const MOST_ROWS = 4;
/** Weights per round of the inner loop: the number of inputs must be a multiple. */
const ROUND = 32;
/** Eight float32. */
const LANES = 8;
/** The outputs of a thread begin at multiples of it, so that no two threads write to one cache line. */
const GRAIN = 16;
/** Bytes of a thread's share: five numbers of 64 bits, see `assemble`. */
const SHARE = 64;

const compiled = new Map<string, FewRows>();

/**
 * The product for these sizes. Undefined if there is none: on another processor or system, for a number of inputs that is not
 * a multiple of 32, or with FLAMINGO_MACHINE_CODE=0.
 *
 * @param width bytes of a weight: 2 for bfloat16, 1 for int8
 * @param isa   instruction set of the processor, as oneDNN names it
 */
export function fewRows(
  isa: string,
  width: 1 | 2,
  m: number,
  [out, inputs]: readonly [number, number],
): FewRows | undefined {
  const fits = m >= 1 && m <= MOST_ROWS && out > 0 && inputs > 0 && inputs % ROUND === 0;
  // Displacements and limits are 32 bits.
  if (!fits || Math.max(out, inputs) * 4 * m >= 2 ** 31) return undefined;
  const code = /^avx(2|512)/.test(isa) ? machineCode() : undefined;
  if (!code) return undefined;
  const key = `${width} ${m} ${out} ${inputs}`;
  let product = compiled.get(key);
  if (!product) compiled.set(key, (product = compile(code, width, m, out, inputs)));
  return product;
}

function compile(code: MachineCode, width: 1 | 2, m: number, out: number, inputs: number): FewRows {
  const entry = code.place(assemble(code.threadNumber, width, m, out, inputs));
  return {
    multiply(weight, x, z, scales = 0) {
      const threads = Math.min(nativeThreads(), code.threadLimit);
      const each = Math.ceil(out / threads / GRAIN) * GRAIN;
      const shares = new BigInt64Array((threads * SHARE) / 8);
      for (let i = 0; i < threads; i++) {
        const first = Math.min(i * each, out);
        const rows = Math.min(each, out - first);
        const fields = [weight + first * inputs * width, x, z + 4 * first, scales + 4 * first, rows];
        fields.forEach((field, j) => (shares[(i * SHARE) / 8 + j] = BigInt(field)));
      }
      code.parallel(entry, shares, threads, 0);
    },
  };
}

/** The function that every thread runs, in the System V calling convention; its argument is the table of shares. */
function assemble(threadNumber: bigint, width: 1 | 2, m: number, out: number, inputs: number): Uint8Array {
  const a = new Assembler();
  // Independent sums hide the latency of additions: four for one row, two for two rows, else one for each row.
  const sums = Math.max(1, Math.floor(MOST_ROWS / m));
  const sum = (row: number, i: number) => row * sums + (i % sums);
  const field = (i: number): Memory => ({ base: 'rbx', displacement: 8 * i });
  a.raw(0x53); //                                     push rbx
  a.raw(0x48, 0x89, 0xfb); //                         mov rbx, rdi
  a.call(threadNumber);
  a.raw(0x48, 0x63, 0xc0); //                         movsxd rax, eax
  a.raw(0x48, 0xc1, 0xe0, Math.log2(SHARE)); //        shl rax, 6
  a.raw(0x48, 0x01, 0xc3); //                         add rbx, rax
  a.load('rsi', field(0)); //                         weight
  a.load('rdx', field(1)); //                         x
  a.load('rcx', field(2)); //                         z
  a.load('rdi', field(3)); //                         scales
  a.load('rbx', field(4)); //                         outputs left
  a.compare('rbx', 0);
  a.jump('je', 'end');
  a.label('output');
  for (let i = 0; i < m * sums; i++) a.vector('vxorps', true, i, i, i);
  a.raw(0x31, 0xc0); //                               xor eax, eax: the next input
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

// --- Running machine code ---

/** What is required to run machine code on all threads. */
export interface MachineCode {
  /** Address of `omp_get_thread_num`. */
  readonly threadNumber: bigint;
  /** The most threads that OpenMP starts. */
  readonly threadLimit: number;
  /** `GOMP_parallel(function, argument, threads, flags)` */
  readonly parallel: (entry: bigint, shares: BigInt64Array, threads: number, flags: number) => void;
  /** Copies code into executable memory and returns its address. */
  place(code: Uint8Array): bigint;
}

/** The value on Linux. */
const MAP_ANONYMOUS = 0x20;
const PAGE = 4096;

let checked: MachineCode | undefined;
let isChecked = false;

/** Machine code on the OpenMP of this process, checked once; undefined where it cannot run or is turned off. */
function machineCode(): MachineCode | undefined {
  if (isChecked) return checked;
  isChecked = true;
  const openMp = openMpRuntime();
  if (process.env['FLAMINGO_MACHINE_CODE'] === '0' || !openMp) return undefined;
  const code = machineCodeOn(openMp);
  if (!code) return undefined;
  if (multipliesRight(code)) checked = code;
  else {
    process.emitWarning(
      `native backend: machine code computes wrong products with the OpenMP at ${openMp.path}. ` +
        'Falling back to oneDNN, which decodes int8 and bfloat16 weights more slowly. Is another OpenMP preloaded?',
    );
  }
  return checked;
}

/** Machine code on this OpenMP; undefined on another system, or where the system or OpenMP does not allow it. */
export function machineCodeOn(openMp: OpenMp): MachineCode | undefined {
  const calls = systemCalls();
  const threadNumber = openMp.addressOf('omp_get_thread_num');
  if (process.platform !== 'linux' || process.arch !== 'x64' || !calls || threadNumber === 0n) return undefined;
  const names = ['GOMP_parallel', 'omp_get_thread_limit', 'omp_get_dynamic'];
  if (names.some((name) => openMp.addressOf(name) === 0n)) return undefined;
  // Each thread has its own share, so every requested thread must start. OpenMP promises it within these two limits only.
  const threadLimit = openMp.library.func('omp_get_thread_limit', 'int', [])() as number;
  if (openMp.library.func('omp_get_dynamic', 'int', [])() !== 0) return undefined;
  const place = (code: Uint8Array): bigint => {
    const bytes = Math.ceil(code.length / PAGE) * PAGE;
    const at = BigInt(calls.mmap(0, bytes, PROT.read | PROT.write, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (BigInt.asIntN(64, at) === -1n)
      throw new Error(`native backend: could not allocate ${bytes} bytes for machine code.`);
    new Uint8Array(koffi.view(at, bytes)).set(code);
    // Never writable and executable at once.
    return calls.mprotect(at, bytes, PROT.read | PROT.exec) === 0 ? at : 0n;
  };
  // Hardened systems forbid it: find out now, not at the first product.
  if (place(Uint8Array.of(0xc3)) === 0n) return undefined;
  const parallel = openMp.library.func('GOMP_parallel', 'void', ['uintptr_t', 'void *', 'uint', 'uint']) as never;
  return { threadNumber, threadLimit, parallel, place };
}

/** Compares small products, in which every thread has a share, with exact sums of whole numbers. */
export function multipliesRight(code: MachineCode): boolean {
  const [m, out, inputs] = [2, GRAIN * nativeThreads() + 1, ROUND];
  const codes = Int8Array.from({ length: out * inputs }, (_, i) => ((i * 37) % 255) - 127);
  const x = Float32Array.from({ length: m * inputs }, (_, i) => ((i * 11) % 19) - 9);
  const scales = new Float32Array(out).fill(1);
  return ([1, 2] as const).every((width) => {
    const weight = width === 1 ? codes : roundToBits(Float32Array.from(codes), new Uint16Array(codes.length));
    const z = new Float32Array(m * out).fill(NaN);
    const [atWeight, atX, atZ, atScales] = [weight, x, z, scales].map((values) => Number(koffi.address(values)));
    compile(code, width, m, out, inputs).multiply(atWeight!, atX!, atZ!, atScales);
    return z.every((value, i) => {
      const [row, o] = [Math.floor(i / out), i % out];
      let sum = 0;
      for (let j = 0; j < inputs; j++) sum += x[row * inputs + j]! * codes[o * inputs + j]!;
      return value === sum;
    });
  });
}
