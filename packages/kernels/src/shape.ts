import type * as tf from '@tensorflow/tfjs-core';

/**
 * Checks a tensor's shape at a public entry.
 *
 * @param what the function and its argument: `'GatedXAttn.apply: latents'`
 * @param x    the tensor to check
 * @param want expected axes: a number is an exact size, a string the name of an axis of any size
 * @param fix  one sentence on how to fix the call
 * @throws Error naming `what`, the expected shape, the actual shape and the fix
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
