/** A small seeded stream of random numbers. The package owns one because it must not import a tensor library. */
export interface RandomStream {
  /** Uniform in [0, 1). */
  uniform(): number;
  /** Uniform integer in [0, n). */
  int(n: number): number;
}

/**
 * A stream that depends on nothing but its keys. Every sample draws from a stream of its own, keyed by seed, data set
 * and position, so the numbers are the same whoever makes the sample, in whatever order, before or after a restart.
 */
export function seededStream(...keys: readonly (number | string)[]): RandomStream {
  let state = hashOf(keys);
  const next = () => mix((state = (state + 0x9e3779b9) >>> 0));
  // 53 bits, so that int() is even for data sets of more than 2^32 entries too.
  const uniform = () => ((next() >>> 5) * 67108864 + (next() >>> 6)) / 9007199254740992;
  return { uniform, int: (n) => Math.floor(uniform() * n) };
}

/**
 * Entry `i` of a shuffle of 0..n-1 that is never stored: a Feistel network over the next power of four, walked until it
 * lands below n. Any entry costs a few multiplications, so an order of a billion documents needs no memory and no replay.
 */
export function shuffledIndex(i: number, n: number, ...keys: readonly (number | string)[]): number {
  const half = Math.max(1, Math.ceil(Math.ceil(Math.log2(n)) / 2));
  const side = 2 ** half;
  const key = hashOf(keys);
  let x = i;
  do {
    let left = Math.floor(x / side);
    let right = x % side;
    for (let round = 0; round < 6; round++) {
      const f = mix((right ^ mix((key + Math.imul(round + 1, 0x85ebca6b)) >>> 0)) >>> 0) % side;
      [left, right] = [right, (left ^ f) >>> 0];
    }
    x = left * side + right;
  } while (x >= n);
  return x;
}

/** 32 bits out of any keys; the separator keeps ('a', 'b') and ('ab') apart. */
function hashOf(keys: readonly (number | string)[]): number {
  let h = 2166136261;
  for (const c of keys.join('\u0000')) h = Math.imul(h ^ c.codePointAt(0)!, 16777619);
  return mix(h >>> 0);
}

/** Scrambles 32 bits one-to-one. */
function mix(x: number): number {
  let h = x;
  h = Math.imul(h ^ (h >>> 16), 0x21f0aaad);
  h = Math.imul(h ^ (h >>> 15), 0x735a2d97);
  return (h ^ (h >>> 15)) >>> 0;
}
