import * as tf from '@tensorflow/tfjs-core';
import { expect } from 'vitest';
import { registerNativeBackend } from '../src/index';

/** Numbers in [-1, 1), the same on every run. */
export function numbers(shape: readonly number[], seed = 1): Float32Array {
  const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
  let state = seed * 2654435761;
  for (let i = 0; i < values.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    values[i] = state / 2147483648 - 1;
  }
  return values;
}

/** A float32 tensor of numbers in [-1, 1), the same on every run. */
export function uniform(shape: readonly number[], seed = 1): tf.Tensor {
  return tf.tensor(numbers(shape, seed), [...shape]);
}

/** ||a - b|| / ||b|| */
export function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [difference, size] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    size += b[i]! ** 2;
  }
  return size ? Math.sqrt(difference / size) : Math.sqrt(difference);
}

/** Chooses the native backend. Without oneDNN it throws the loader's error, which says how to install it. */
export async function useNative(): Promise<void> {
  registerNativeBackend();
  await tf.setBackend('native');
}

/** Computes on both backends, in a scope, and compares shapes, types and values. */
export async function expectAsOnCpu(
  compute: () => tf.Tensor | tf.Tensor[],
  tolerance: { readonly relative: number },
): Promise<void> {
  const results: { shape: number[]; dtype: string; values: ArrayLike<number> }[][] = [];
  for (const backend of ['cpu', 'native']) {
    if (backend === 'cpu') await tf.setBackend('cpu');
    else await useNative();
    tf.tidy(() => {
      const outputs = [compute()].flat();
      results.push(outputs.map((y) => ({ shape: y.shape, dtype: y.dtype, values: y.dataSync() })));
    });
  }
  const [wanted, got] = results as [(typeof results)[0], (typeof results)[0]];
  expect(got.map(({ shape, dtype }) => ({ shape, dtype }))).toEqual(
    wanted.map(({ shape, dtype }) => ({ shape, dtype })),
  );
  got.forEach(({ values }, i) => {
    const error = relativeError(values, wanted[i]!.values);
    expect(error, `output ${i}: relative error`).toBeLessThanOrEqual(tolerance.relative);
  });
}
