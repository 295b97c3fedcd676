import * as tf from '@tensorflow/tfjs-core';

/** A seeded stream of random numbers (xoshiro128**); equal seeds give equal streams on every machine. */
export class Random {
  private readonly s = new Uint32Array(4);
  private spare: number | undefined;

  constructor(seed: number) {
    // splitmix32 spreads any seed over the state.
    let z = seed >>> 0;
    for (let i = 0; i < 4; i++) {
      z = (z + 0x9e3779b9) >>> 0;
      let t = z ^ (z >>> 16);
      t = Math.imul(t, 0x21f0aaad);
      t ^= t >>> 15;
      t = Math.imul(t, 0x735a2d97);
      this.s[i] = t ^ (t >>> 15);
    }
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

  /** Standard normal (Box-Muller, the second of each pair kept). */
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

  /** A stream of its own for a named purpose, so that adding one consumer does not shift the others. */
  fork(name: string): Random {
    let h = 2166136261 ^ this.s[0]!;
    for (let i = 0; i < name.length; i++) h = Math.imul(h ^ name.charCodeAt(i), 16777619);
    return new Random(h >>> 0);
  }
}

/**
 * Checks an argument that must be a `Random`; `freshParams` and `normalVariable` call it.
 *
 * @throws Error that names `new Random(seed)`
 */
export function expectRandom(what: string, random: Random): void {
  // Not instanceof: a program may load this package twice, as an ES module and as CommonJS.
  if (typeof random?.fork === 'function' && typeof random.normal === 'function') return;
  const seed = typeof random === 'number' ? random : 'seed';
  throw new Error(`${what}: random must be a Random, got ${String(random)}. Pass new Random(${seed}).`);
}

/** A trainable variable with normal entries of the given standard deviation. */
export function normalVariable(random: Random, shape: readonly number[], std: number): tf.Variable {
  expectRandom('normalVariable', random);
  const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
  for (let i = 0; i < values.length; i++) values[i] = random.normal() * std;
  return tf.tidy(() => tf.variable(tf.tensor(values, [...shape])));
}

/** A trainable variable with one value everywhere. */
export function constantVariable(shape: readonly number[], value: number): tf.Variable {
  return tf.tidy(() => tf.variable(tf.fill([...shape], value)));
}
