import type * as tf from '@tensorflow/tfjs-core';

/**
 * Checks a tensor's shape at a public entry.
 *
 * @param what where and which argument, as the reader knows it: `'GatedXAttn.apply: latents'`
 * @param x    the tensor that came
 * @param want expected axes: a number is an exact size, a string names an axis of any size
 * @param fix  one sentence that says how to mend the call
 * @throws Error saying where, what was expected, what came and how to fix it
 */
export function expectShape(
  what: string,
  x: { readonly shape: readonly number[] },
  want: readonly (string | number)[],
  fix: string,
): void {
  const fits = x.shape.length === want.length && want.every((n, i) => typeof n === 'string' || n === x.shape[i]);
  if (!fits) throw new Error(`${what} must be [${want.join(', ')}], got [${x.shape.join(', ')}]. ${fix}`);
}

/** The last axis of a tensor: its feature width. */
export function lastAxis(x: tf.Tensor): number {
  return x.shape[x.rank - 1] ?? 1;
}

/** Flattens all axes but the last: `[..., d] -> [rows, d]`. */
export function asRows<T extends tf.Tensor>(x: T): [rows: number, width: number] {
  const width = lastAxis(x);
  return [x.size / width, width];
}
