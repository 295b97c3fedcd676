import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { fewRows, machineCodeOn, MOST_ROWS, multipliesRight } from './few-rows';
import { loadLibrary, nativeThreads, openMpRuntime, setThreads } from '../onednn/library';
import { oneDnn } from '../onednn/onednn';
import { BufferPool } from '../shared/pool';

loadLibrary();
const isa = oneDnn().cpuIsa();
const isSupported = process.platform === 'linux' && process.arch === 'x64' && /^avx(2|512)/.test(isa);

describe.runIf(isSupported)('fewRows', () => {
  const threads = nativeThreads();
  afterEach(() => setThreads(threads));
  const pool = new BufferPool();
  const [out, inputs] = [83, 96] as const;

  /** Compares with plain loops over whole numbers, whose sums are exact in any order. */
  function check(width: 1 | 2, m: number): void {
    const codes = Array.from({ length: out * inputs }, (_, i) => ((i * 37) % 255) - 127);
    const weight = width === 1 ? Int8Array.from(codes) : Uint16Array.from(codes, bfloat16);
    const x = pool.allocate(m * inputs);
    x.forEach((_, i) => (x[i] = ((i * 11) % 19) - 9));
    const scales = pool.allocate(out);
    scales.forEach((_, i) => (scales[i] = 2 ** -(i % 5)));
    const z = pool.allocate(m * out + 16).fill(7);
    const product = fewRows(isa, width, m, [out, inputs])!;
    product.multiply(pool.address(weight), pool.address(x), pool.address(z), pool.address(scales));
    for (let row = 0; row < m; row++) {
      for (let o = 0; o < out; o++) {
        let sum = 0;
        for (let i = 0; i < inputs; i++) sum += x[row * inputs + i]! * codes[o * inputs + i]!;
        expect(z[row * out + o]).toBe(width === 1 ? sum * scales[o]! : sum);
      }
    }
    expect([...z.subarray(m * out)]).toEqual(new Array(16).fill(7));
    for (const values of [x, scales, z]) pool.release(values);
  }

  it('multiplies any number of rows on any number of threads', () => {
    for (const n of [1, 2, 3, 7]) {
      setThreads(n);
      for (let m = 1; m <= MOST_ROWS; m++) {
        check(1, m);
        check(2, m);
      }
    }
  });

  it('is undefined for other sizes and processors', () => {
    expect(fewRows(isa, 1, MOST_ROWS + 1, [8, 32])).toBeUndefined();
    expect(fewRows(isa, 1, 1, [8, 48])).toBeUndefined();
    expect(fewRows(isa, 2, 1, [8, 0])).toBeUndefined();
    expect(fewRows('sse41', 2, 1, [8, 32])).toBeUndefined();
  });

  it('is checked before its first use: the check fails if every thread gets number 0', () => {
    setThreads(2);
    const openMp = openMpRuntime()!;
    const code = machineCodeOn(openMp)!;
    expect(multipliesRight(code)).toBe(true);
    // What omp_get_thread_num of another runtime returns to threads that it did not start.
    const zero = openMp.addressOf('omp_in_final');
    expect(zero).not.toBe(0n);
    expect(multipliesRight({ ...code, threadNumber: zero })).toBe(false);
  });

  /** Values of frozen products of a few rows in a separate process, and whether machine code computes them. */
  function decode(env: Record<string, string>): { sums: number[]; machineCode: boolean } {
    const script = `
      import * as tf from '@tensorflow/tfjs-core';
      import { registerNativeBackend } from '@flamingo-ts/backend-native';
      import { fewRows } from './few-rows';
      registerNativeBackend();
      await tf.setBackend('native');
      const backend = tf.backend();
      const weight = Float32Array.from({ length: 83 * 96 }, (_, i) => ((i * 37) % 255) - 127);
      // The largest magnitude of each row is 127, so that int8 holds every weight exactly.
      for (let o = 0; o < 83; o++) weight[o * 96] = 127;
      const sums = ['int8', 'bfloat16'].map((precision) => {
        const packed = backend.packMatrix(weight, [83, 96], precision);
        const y = packed.multiply(tf.reshape(tf.range(-96, 96), [2, 96]), false);
        return Array.from(backend.readSync(y.dataId)).reduce((sum, value, i) => sum + (i + 1) * value, 0);
      });
      console.log(JSON.stringify({ sums, machineCode: fewRows(backend.cpuIsa, 1, 1, [83, 96]) !== undefined }));`;
    const args = ['--conditions=@flamingo-ts/source', '--import', 'tsx', '--input-type=module', '-e', script];
    const options = { env: { ...process.env, ...env }, encoding: 'utf8', cwd: import.meta.dirname } as const;
    return JSON.parse(execFileSync(process.execPath, args, options)) as { sums: number[]; machineCode: boolean };
  }

  it('FLAMINGO_MACHINE_CODE=0 turns it off; products stay the same', () => {
    const usual = decode({ OMP_NUM_THREADS: '2' });
    expect(usual.machineCode).toBe(true);
    expect(decode({ OMP_NUM_THREADS: '2', FLAMINGO_MACHINE_CODE: '0' })).toEqual({
      sums: usual.sums,
      machineCode: false,
    });
  });

  const folders = ['/usr/lib/x86_64-linux-gnu', '/usr/lib/llvm-14/lib', '/usr/local/lib'];
  for (const name of ['libomp.so.5', 'libiomp5.so']) {
    const file = folders.map((folder) => `${folder}/${name}`).find((path) => existsSync(path));
    it.runIf(file)(`computes the same with ${name} preloaded`, () => {
      const threads = { OMP_NUM_THREADS: '2' };
      expect(decode({ ...threads, LD_PRELOAD: file! })).toEqual(decode(threads));
    });
  }
});

/** Bits of a small whole number in bfloat16, which holds it exactly. */
function bfloat16(value: number): number {
  return new Uint32Array(Float32Array.of(value).buffer)[0]! >>> 16;
}
