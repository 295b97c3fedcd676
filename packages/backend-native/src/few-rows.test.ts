import { afterEach, describe, expect, it } from 'vitest';
import { fewRows, MOST_ROWS } from './few-rows';
import { loadLibrary, nativeThreads, setThreads } from './library';
import { oneDnn } from './onednn';
import { BufferPool } from './pool';

const isHere = (() => {
  try {
    loadLibrary();
    return process.platform === 'linux' && process.arch === 'x64' && /^avx(2|512)/.test(oneDnn().cpuIsa());
  } catch {
    return false;
  }
})();

describe.runIf(isHere)('fewRows', () => {
  const isa = isHere ? oneDnn().cpuIsa() : '';
  const threads = isHere ? nativeThreads() : 1;
  afterEach(() => setThreads(threads));
  const pool = new BufferPool();
  const [out, inputs] = [83, 96] as const;

  /** The product by plain loops, of whole numbers: every sum is exact, in whatever order. */
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

  it('multiplies, with any number of rows and threads', () => {
    for (const n of [1, 2, 3, 7]) {
      setThreads(n);
      for (let m = 1; m <= MOST_ROWS; m++) {
        check(1, m);
        check(2, m);
      }
    }
  });

  it('is not there for other sizes and processors', () => {
    expect(fewRows(isa, 1, MOST_ROWS + 1, [8, 32])).toBeUndefined();
    expect(fewRows(isa, 1, 1, [8, 48])).toBeUndefined();
    expect(fewRows(isa, 2, 1, [8, 0])).toBeUndefined();
    expect(fewRows('sse41', 2, 1, [8, 32])).toBeUndefined();
  });
});

/** Bits of a small whole number in bfloat16, which holds it exactly. */
function bfloat16(value: number): number {
  return new Uint32Array(Float32Array.of(value).buffer)[0]! >>> 16;
}
