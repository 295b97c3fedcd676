import * as tf from '@tensorflow/tfjs-core';
import { Random } from '@flamingo-ts/kernels';
import { expectClose } from '@flamingo-ts/testing';
import { expect } from 'vitest';

/** An input of float32 numbers, which float64 references use without rounding. */
export interface Input {
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

/** Normal numbers, the same for the same seed. */
export function normal(seed: number, shape: readonly number[], scale = 1): Input {
  const random = new Random(seed);
  const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
  return { shape, values: values.map(() => random.normal() * scale) };
}

/** An input with these numbers. */
export function given(values: readonly number[], shape: readonly number[] = [values.length]): Input {
  return { shape, values: Float32Array.from(values) };
}

export function toTensor({ shape, values }: Input): tf.Tensor {
  return tf.tensor(values, [...shape]);
}

/** Largest allowed error as a fraction of the largest number expected. */
export interface OpTolerance {
  readonly forward: number;
  readonly gradient: number;
}

/**
 * Compares an operation with its float64 reference, and its gradients with central differences of that reference. Also checks
 * that a call creates no tensors besides its results.
 */
export function checkOp(
  op: (...inputs: tf.Tensor[]) => tf.Tensor,
  reference: (...inputs: Float64Array[]) => Float64Array,
  inputs: readonly Input[],
  tolerance: OpTolerance,
): void {
  const tensors = inputs.map(toTensor);
  const exact = inputs.map(({ values }) => Float64Array.from(values));
  const cotangent = normal(99, [reference(...exact).length]).values;

  const before = tf.memory().numTensors;
  const y = op(...tensors);
  expect(tf.memory().numTensors - before, 'tensors after the forward pass').toBe(1);
  expectNear('result', y, reference(...exact), tolerance.forward);

  const c = tf.tensor(cotangent, y.shape);
  const loss = (...xs: tf.Tensor[]): tf.Tensor => tf.sum(tf.mul(op(...xs), c));
  const gradients = tf.grads(loss)(tensors);
  expect(tf.memory().numTensors - before, 'tensors after the backward pass').toBe(2 + inputs.length);

  gradients.forEach((gradient, n) => {
    expect(gradient.shape, `shape of gradient ${n}`).toEqual(inputs[n]!.shape);
    const expected = differences(exact, n, (...xs) =>
      reference(...xs).reduce((sum, value, i) => sum + value * cotangent[i]!, 0),
    );
    expectNear(`gradient ${n}`, gradient, expected, tolerance.gradient);
  });
  tf.dispose([tensors, y, c, gradients]);
}

/** `rtol` is a fraction of the largest expected number, but at least of 0.1: smaller results are differences of larger numbers. */
function expectNear(what: string, actual: tf.Tensor, expected: Float64Array, rtol: number): void {
  expect(() => expectClose(actual.dataSync(), expected, { rtol, atol: 0.1 * rtol }), what).not.toThrow();
}

/** Derivatives of f with respect to the n-th input, by central differences. */
function differences(inputs: Float64Array[], n: number, f: (...inputs: Float64Array[]) => number): Float64Array {
  const step = 1e-5;
  return inputs[n]!.map((_, i) => {
    const moved = (by: number): number =>
      f(...inputs.map((x, m) => (m === n ? x.map((value, j) => (j === i ? value + by : value)) : x)));
    return (moved(step) - moved(-step)) / (2 * step);
  });
}
