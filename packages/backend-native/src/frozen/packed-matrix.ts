import type { OneDnnBackend } from '../onednn/onednn-backend';
import { BF16, F32 } from '../onednn/layout';
import { roundToBits } from '../shared/bfloat16-bits';
import { BlockedMatrix } from './blocked-matrix';
import { blocksFor } from './blocks';
import { fromPool, typeOf, type Given, type MatrixPrecision, type NativePackedMatrix, type Shape } from './matrix';
import { PanelMatrix } from './panel-matrix';
import { quantize } from './quantize';

/**
 * Packs a frozen matrix `[out, in]`, row-major.
 *
 * @param release called once when the values are no longer used; without it the values are copied
 */
export function packMatrix(
  backend: OneDnnBackend,
  values: Given,
  shape: Shape,
  precision: MatrixPrecision,
  release?: () => void,
): NativePackedMatrix {
  const type = precision === 'float32' ? F32 : BF16;
  const blocks = precision === 'int8' ? undefined : blocksFor(backend.dnn, shape, type);
  // Values that have the right type already stay where they are.
  const kept = release && typeOf(values) === type && precision !== 'int8' ? { data: values, free: release } : undefined;
  if (blocks) {
    const matrix = new BlockedMatrix(backend, kept ?? values, shape, blocks);
    if (!kept) release?.();
    return matrix;
  }
  if (kept) return new PanelMatrix(backend, shape, { held: kept, width: 2 });
  const narrow =
    precision === 'int8'
      ? { ...quantize(backend, values, shape), width: 1 as const }
      : { held: rounded(backend, values), width: 2 as const };
  release?.();
  return new PanelMatrix(backend, shape, narrow);
}

/** A copy of the values in bfloat16. */
function rounded(backend: OneDnnBackend, values: Given) {
  const held = fromPool(backend, 2 * values.length);
  const bits = new Uint16Array(held.data.buffer, held.data.byteOffset, values.length);
  if (values instanceof Float32Array) roundToBits(values, bits);
  else bits.set(values);
  return held;
}
