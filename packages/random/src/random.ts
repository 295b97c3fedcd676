import { mix } from './mix';

/** A seeded stream of random numbers (xoshiro128**). Equal seeds give equal streams on every machine. */
export class Random {
  private readonly s = new Uint32Array(4);
  private spare: number | undefined;

  /** @param seed an integer */
  constructor(seed: number) {
    if (!Number.isInteger(seed)) {
      throw new Error(`Random: seed must be an integer, got ${String(seed)}. Pass one, such as new Random(0).`);
    }
    // splitmix32 spreads any seed over the state.
    for (let i = 0; i < 4; i++) this.s[i] = mix(((seed >>> 0) + (i + 1) * 0x9e3779b9) >>> 0);
  }

  /** A uint32. */
  next(): number {
    const s = this.s;
    const r = Math.imul(s[1]!, 5);
    const result = Math.imul((r << 7) | (r >>> 25), 9) >>> 0;
    const t = s[1]! << 9;
    s[2]! ^= s[0]!;
    s[3]! ^= s[1]!;
    s[1]! ^= s[2]!;
    s[0]! ^= s[3]!;
    s[2]! ^= t;
    s[3] = (s[3]! << 11) | (s[3]! >>> 21);
    return result;
  }

  /** Uniform in [0, 1). */
  uniform(): number {
    return this.next() / 4294967296;
  }

  /** Uniform integer in [0, n). */
  int(n: number): number {
    return Math.floor(this.uniform() * n);
  }

  /** Standard normal (Box-Muller; keeps the second number of each pair). */
  normal(): number {
    if (this.spare !== undefined) {
      const v = this.spare;
      this.spare = undefined;
      return v;
    }
    const r = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    const a = 2 * Math.PI * this.uniform();
    this.spare = r * Math.sin(a);
    return r * Math.cos(a);
  }

  /** A separate stream for a named purpose, so that adding one consumer does not shift the others. */
  fork(name: string): Random {
    let h = 2166136261 ^ this.s[0]!;
    for (let i = 0; i < name.length; i++) h = Math.imul(h ^ name.charCodeAt(i), 16777619);
    return new Random(h >>> 0);
  }
}
