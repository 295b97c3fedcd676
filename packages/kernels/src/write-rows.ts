import * as tf from '@tensorflow/tfjs-core';
import { fusedOp } from './fused-op';
import { expectShape } from './shape';

/** `{into [b, capacity, w], rows [b, n, w]}` -> `[changed]`; a backend may write in place and return nothing. */
const writeRowsOp = fusedOp<{ readonly at: number }>({
  name: 'FlamingoWriteRows',
  forward: ({ into, rows }, { at }) => {
    const [b, capacity, w] = into!.shape as [number, number, number];
    const end = at + rows!.shape[1]!;
    const before = tf.slice(into!, [0, 0, 0], [b, at, w]);
    const after = tf.slice(into!, [0, end, 0], [b, capacity - end, w]);
    return [tf.concat([before, rows!, after], 1)];
  },
});

/**
 * Writes rows into a larger tensor, in place if the backend supports it. For caches: it has no gradient.
 *
 * @param into float32 `[b, capacity, w]`; do not use it afterward, the result replaces it
 * @param rows float32 `[b, n, w]`
 * @param at   position of the first row
 * @returns    `into` itself or a new tensor
 */
export function writeRows(into: tf.Tensor3D, rows: tf.Tensor3D, at: number): tf.Tensor3D {
  const [b, capacity, w] = into.shape;
  expectShape(
    'writeRows: rows',
    rows,
    [b, 'n', w],
    'Their batch and width must be those of the tensor they are written into.',
  );
  if (!Number.isInteger(at) || at < 0 || at + rows.shape[1] > capacity) {
    throw new Error(`writeRows: ${rows.shape[1]} rows at ${at} must fit into ${capacity}. Make room first.`);
  }
  return (writeRowsOp({ into, rows }, { at })[0] as tf.Tensor3D | undefined) ?? into;
}
