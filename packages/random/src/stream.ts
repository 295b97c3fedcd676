import { mix } from './mix';

/** A seeded stream of random numbers. */
export interface RandomStream {
  /** Uniform in [0, 1). */
  uniform(): number;
  /** Uniform integer in [0, n). */
  int(n: number): number;
}

/**
 * A stream that depends only on its keys. Each sample has its own stream, keyed by seed, dataset and position, so it gets the
 * same numbers on any worker, in any order, before or after a restart.
 */
export function seededStream(...keys: readonly (number | string)[]): RandomStream {
  const next = counter(hashOf(keys));
  // 53 bits, so that int() stays uniform for datasets of more than 2^32 entries.
  return streamOf(() => ((next() >>> 5) * 67108864 + (next() >>> 6)) / 9007199254740992);
}

/**
 * Like `seededStream`, but with 32 bits and integer keys. Evaluations select their shots with it: changing it would change the
 * shots of a seed.
 */
export function shotStream(...keys: readonly number[]): RandomStream {
  const next = counter(keys.reduce((h, key) => mix(Math.imul(h, 16777619) ^ key), 2166136261));
  return streamOf(() => next() / 4294967296);
}

/**
 * Entry `i` of a shuffle of 0..n-1 that is never stored: a Feistel network over the next power of four, applied until the
 * result is below n. Any entry costs a few multiplications, so a shuffle of a billion documents needs no memory and no
 * replay.
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

/** The numbers of splitmix32 from a state. */
function counter(state: number): () => number {
  return () => mix((state = (state + 0x9e3779b9) >>> 0));
}

function streamOf(uniform: () => number): RandomStream {
  return { uniform, int: (n) => Math.floor(uniform() * n) };
}

/** Hashes any keys to 32 bits; the separator distinguishes ('a', 'b') from ('ab'). */
function hashOf(keys: readonly (number | string)[]): number {
  let h = 2166136261;
  for (const c of keys.join('\u0000')) h = Math.imul(h ^ c.codePointAt(0)!, 16777619);
  return mix(h >>> 0);
}
