import { expandBfloat16 } from '../onednn/bfloat16';
import { S8, type Layout } from '../onednn/layout';
import type { OneDnnBackend } from '../onednn/onednn-backend';
import { fromPool, type Given, type Held, type Shape } from './matrix';

/** Steps from 0 to the largest magnitude of a row. */
const STEPS = 127;

/** Elements quantized at a time: a megabyte stays in the processor's cache. */
const ELEMENTS_AT_ONCE = 1 << 18;

/** Rounds a matrix to int8, symmetrically to the nearest step, with a factor for each row. */
export function quantize(
  backend: OneDnnBackend,
  values: Given,
  [out, inputs]: Shape,
): { readonly held: Held; readonly scales: Float32Array } {
  const { pool } = backend;
  const held = fromPool(backend, values.length);
  const scales = pool.allocate(out);
  const steps = pool.allocate(out);
  for (let o = 0; o < out; o++) {
    const top = largest(values.subarray(o * inputs, (o + 1) * inputs));
    scales[o] = top / STEPS;
    steps[o] = top > 0 ? STEPS / top : 0;
  }
  const count = Math.max(1, Math.floor(ELEMENTS_AT_ONCE / inputs));
  const scaled = pool.allocate(Math.min(count, out) * inputs);
  for (let first = 0; first < out && inputs > 0; first += count) {
    const rows = Math.min(count, out - first);
    const n = rows * inputs;
    const place = first * inputs;
    const from = pool.address(values) + place * values.BYTES_PER_ELEMENT;
    const wide = values instanceof Float32Array ? from : expandBfloat16(backend, from, n);
    const [all, column]: Layout[] = [{ dims: [rows, inputs] }, { dims: [rows, 1] }];
    const key = `rows ${rows},${inputs}`;
    const scale = backend.compiled(key, (dnn) => dnn.binary('mul', all!, column!, all!));
    scale.run(wide, pool.address(steps) + 4 * first, pool.address(scaled));
    const round = backend.compiled(`round ${n}`, (dnn) => dnn.reorder({ dims: [n] }, { dims: [n], type: S8 }));
    round.run(pool.address(scaled), pool.address(held.data) + place);
  }
  pool.release(steps);
  pool.release(scaled);
  return { held, scales };
}

/** Largest magnitude: without their sign bits, floats sort like integers. */
function largest(values: Given): number {
  const isBfloat16 = values instanceof Uint16Array;
  const bits = isBfloat16 ? values : new Int32Array(values.buffer, values.byteOffset, values.length);
  const mask = isBfloat16 ? 0x7fff : 0x7fffffff;
  let top = 0;
  for (let i = 0; i < bits.length; i++) {
    const magnitude = bits[i]! & mask;
    if (magnitude > top) top = magnitude;
  }
  return new Float32Array(Int32Array.of(isBfloat16 ? top << 16 : top).buffer)[0]!;
}
