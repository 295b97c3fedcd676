import * as tf from '@tensorflow/tfjs-core';

/** Numbers to compare: a tensor, a tensor of a reference file, or a plain list. */
export type Values =
  | tf.Tensor
  | { readonly shape: readonly number[]; readonly data: ArrayLike<number | bigint> }
  | ArrayLike<number>
  | number;

/** The allowed difference. There is no default, so that each comparison states its tolerance. */
export type Tolerance =
  | {
      /** Largest allowed difference of an element. */
      readonly atol: number;
      readonly rtol?: number;
    }
  | {
      /** The same, as a fraction of the largest expected magnitude of the tensor. */
      readonly rtol: number;
      readonly atol?: number;
    };

/** `||a - b|| / ||b||` over all elements; Infinity if b is zero and a is not. */
export function relativeError(a: Values, b: Values): number {
  const [x, y] = numbers(a, b);
  let difference = 0;
  let size = 0;
  for (let i = 0; i < y.length; i++) {
    difference += (x[i]! - y[i]!) ** 2;
    size += y[i]! ** 2;
  }
  return ratio(Math.sqrt(difference), Math.sqrt(size));
}

/** `max|a - b| / max|b|`; Infinity if b is zero and a is not, NaN if either holds NaN. */
export function maxError(a: Values, b: Values): number {
  const [x, y] = numbers(a, b);
  const { difference, size } = worst(x, y);
  return ratio(difference, size);
}

/**
 * Fails unless every element of `actual` is within `atol + rtol * max|expected|` of `expected`; the message names the
 * worst element.
 */
export function expectClose(actual: Values, expected: Values, tolerance: Tolerance): void {
  const [x, y] = numbers(actual, expected);
  const { difference, size, index } = worst(x, y);
  const allowed = (tolerance.atol ?? 0) + (tolerance.rtol ?? 0) * size;
  if (difference <= allowed) return;
  throw new Error(
    `expectClose: element ${position(index, shapeOf(expected) ?? [y.length])} is ${x[index]}, expected ${y[index]}: ` +
      `they differ by ${difference.toExponential(2)}, ${allowed.toExponential(2)} is allowed ` +
      `(relative error of the whole ${ratio(difference, size).toExponential(2)}).`,
  );
}

/** The largest difference and its index; NaN counts as the largest. */
function worst(x: Float64Array, y: Float64Array): { difference: number; size: number; index: number } {
  let difference = 0;
  let size = 0;
  let index = 0;
  for (let i = 0; i < y.length; i++) {
    const d = x[i] === y[i] ? 0 : Math.abs(x[i]! - y[i]!);
    size = Math.max(size, Math.abs(y[i]!));
    if (d > difference || Number.isNaN(d)) [difference, index] = [d, i];
    if (Number.isNaN(d)) break;
  }
  return { difference, size, index };
}

function ratio(difference: number, size: number): number {
  return difference === 0 ? 0 : difference / size;
}

function numbers(a: Values, b: Values): [Float64Array, Float64Array] {
  const [shapeA, shapeB] = [shapeOf(a), shapeOf(b)];
  if (shapeA && shapeB && (shapeA.length !== shapeB.length || shapeA.some((n, i) => n !== shapeB[i]))) {
    throw new Error(`cannot compare shapes: expected [${shapeB.join(', ')}], got [${shapeA.join(', ')}].`);
  }
  const [x, y] = [toNumbers(a), toNumbers(b)];
  if (x.length !== y.length) throw new Error(`cannot compare: expected ${y.length} values, got ${x.length}.`);
  return [x, y];
}

function shapeOf(v: Values): readonly number[] | undefined {
  return typeof v === 'object' && 'shape' in v ? v.shape : undefined;
}

function toNumbers(v: Values): Float64Array {
  if (typeof v === 'number') return Float64Array.of(v);
  if (v instanceof tf.Tensor) return Float64Array.from(v.dataSync() as Float32Array);
  return Float64Array.from('data' in v ? v.data : v, Number);
}

function position(index: number, shape: readonly number[]): string {
  const place: number[] = [];
  for (const n of [...shape].reverse()) {
    place.unshift(index % n);
    index = Math.floor(index / n);
  }
  return `[${place.join(', ')}]`;
}
