import type { Random } from '@flamingo-ts/random';
import * as tf from '@tensorflow/tfjs-core';

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
