import { BF16, F32, type Layout } from '../onednn/layout';
import type { OneDnn } from '../onednn/onednn';
import { ARG } from '../onednn/operations';
import { ifImplemented } from '../onednn/primitive';
import type { Shape } from './matrix';

/** Rows of the product that oneDNN chooses a layout for; the layout serves any number of rows. */
const TYPICAL_ROWS = 256;

/** Layouts by shape and type. Weights refer to them, so the primitives that own them are never destroyed. */
const layouts = new Map<string, Layout | undefined>();

/** The layout in which oneDNN multiplies such a weight; undefined if it has only reference code for that here. */
export function blocksFor(dnn: OneDnn, [out, inputs]: Shape, type: number): Layout | undefined {
  const key = `${out},${inputs},${type}`;
  if (!layouts.has(key)) layouts.set(key, chooseBlocks(dnn, out, inputs, type));
  return layouts.get(key);
}

/** Whether oneDNN has fast code for products in bfloat16 on this processor. */
export function multipliesBfloat16(dnn: OneDnn): boolean {
  return blocksFor(dnn, [64, 64], BF16) !== undefined;
}

function chooseBlocks(dnn: OneDnn, out: number, inputs: number, type: number): Layout | undefined {
  const dims = [inputs, out];
  if (!(out && inputs)) return { dims, type };
  const [rows, result] = [{ dims: [TYPICAL_ROWS, inputs], type }, { dims: [TYPICAL_ROWS, out] }];
  const chooser = ifImplemented(() => dnn.matmul(rows, { dims, strides: 'any', type }, undefined, result));
  if (chooser && (type === F32 || !chooser.isReference)) return { dims, type, chosen: chooser.layout(ARG.weights) };
  chooser?.destroy();
  return undefined;
}
