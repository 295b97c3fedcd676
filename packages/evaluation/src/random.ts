/** A small seeded stream of random numbers. The package owns one because it must not import a tensor library. */
export interface RandomStream {
  /** Uniform in [0, 1). */
  uniform(): number;
  /** Uniform integer in [0, n). */
  int(n: number): number;
}

/** A stream that depends on nothing but its keys, so that no query's draws shift another's. */
export function seededStream(...keys: readonly number[]): RandomStream {
  let state = keys.reduce((h, key) => mix(Math.imul(h, 16777619) ^ key), 2166136261);
  const uniform = () => mix((state = (state + 0x9e3779b9) >>> 0)) / 4294967296;
  return { uniform, int: (n) => Math.floor(uniform() * n) };
}

/** Scrambles 32 bits one-to-one. */
function mix(x: number): number {
  let h = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  h = Math.imul(h ^ (h >>> 15), 0x735a2d97);
  return (h ^ (h >>> 15)) >>> 0;
}
