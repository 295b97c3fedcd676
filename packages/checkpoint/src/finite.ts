import type { FloatDtype, TensorData } from './dtypes';

/** Largest magnitude that each type stores as a finite number; bfloat16 rounds larger float32 values to infinity. */
const LARGEST: Readonly<Record<FloatDtype, number>> = {
  F32: 2 ** 128 - 2 ** 104,
  BF16: 2 ** 128 - 2 ** 119 - 2 ** 104,
};

/**
 * Makes sure that every float of a tensor is stored as a finite number: one pass over memory, far below the cost of writing.
 *
 * @param what the tensor, for the error message
 * @param kept what happened to the file, for the error message
 */
export function expectFinite(what: string, data: TensorData, floats: FloatDtype, kept: string): void {
  if (!(data instanceof Float32Array)) return;
  const largest = LARGEST[floats];
  for (let i = 0; i < data.length; i++) {
    if (Math.abs(data[i]!) <= largest) continue;
    throw new Error(
      `${what} must hold finite ${floats} values, got ${data[i]} at index ${i} of ${data.length}. ${kept} ` +
        'Go back to weights from before the values became non-finite.',
    );
  }
}
