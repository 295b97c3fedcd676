import type { NativeBackend, NativeKernel } from '../native-backend';
import { sizeOf } from '../pooled-backend';
import type * as tf from '@tensorflow/tfjs-core';

const rowsOf = (x: tf.TensorInfo): [rows: number, width: number] => {
  const width = x.shape[x.shape.length - 1]!;
  return [sizeOf(x.shape) / width, width];
};

/** Variances again from their inverse roots, or the other way round: v = 1 / r^2. */
function toVariance(rstd: Float32Array, variance: Float32Array): void {
  for (let i = 0; i < rstd.length; i++) variance[i] = 1 / (rstd[i]! * rstd[i]!);
}

/** `{x [..., d], weight [d], bias? [d]}` -> `[y, mean [..., 1], rstd [..., 1]]` */
const layerNorm: NativeKernel = ({ x, weight, bias }, attrs, b) => {
  const eps = attrs['eps'] as number;
  const [rows, width] = rowsOf(x!);
  const stat = [...x!.shape.slice(0, -1), 1];
  const [y, mean, rstd] = [b.output(x!.shape), b.output(stat), b.output(stat)] as const;
  const norm = b.compiled(`layerNorm ${rows},${width},${bias !== undefined},${eps}`, (dnn) =>
    dnn.layerNorm(rows, width, bias !== undefined, eps),
  );
  const shift = bias ? [b.address(bias)] : [];
  norm.run(b.address(x!), b.address(weight!), ...shift, b.address(y), b.address(mean), b.address(rstd));
  const values = b.values(rstd);
  for (let i = 0; i < rows; i++) values[i] = 1 / Math.sqrt(values[i]! + eps);
  return [y, mean, rstd];
};

/** `{dy, x, weight, mean, rstd}` -> dx */
const layerNormGradient: NativeKernel = ({ dy, x, weight, mean, rstd }, _attrs, b) => {
  const [rows, width] = rowsOf(x!);
  const dx = b.output(x!.shape);
  const [variance, unused] = [b.pool.allocate(rows), b.pool.allocate(width)];
  // What eps was is part of rstd already.
  toVariance(b.values(rstd!), variance);
  const norm = b.compiled(`layerNorm' ${rows},${width}`, (dnn) => dnn.layerNormBackward(rows, width, 0));
  const rest = [variance, b.values(dx), unused].map((values) => b.pool.address(values));
  norm.run(...[x, dy, weight, mean].map((t) => b.address(t!)), ...rest);
  b.pool.release(variance);
  b.pool.release(unused);
  return [dx];
};

/** dweight[c] = sum over rows of dy (x - mean) rstd */
function weightGradient(
  b: NativeBackend,
  dy: tf.TensorInfo,
  x: tf.TensorInfo,
  rstd: tf.TensorInfo,
  mean?: tf.TensorInfo,
) {
  const [rows, width] = rowsOf(x);
  const [g, v, r, m] = [b.values(dy), b.values(x), b.values(rstd), mean && b.values(mean)];
  const sums = new Float64Array(width);
  for (let row = 0, i = 0; row < rows; row++) {
    const [scale, centre] = [r[row]!, m ? m[row]! : 0];
    for (let c = 0; c < width; c++, i++) sums[c]! += g[i]! * (v[i]! - centre) * scale;
  }
  const out = b.output([width]);
  b.values(out).set(sums);
  return out;
}

/** `{x [..., d], weight [d]}` -> `[y, rstd [..., 1]]` */
const rmsNorm: NativeKernel = ({ x, weight }, attrs, b) => {
  const eps = attrs['eps'] as number;
  const [rows, width] = rowsOf(x!);
  const [y, rstd] = [b.output(x!.shape), b.output([...x!.shape.slice(0, -1), 1])];
  const [v, w, out, r] = [b.values(x!), b.values(weight!), b.values(y), b.values(rstd)];
  for (let row = 0; row < rows; row++) {
    const start = row * width;
    let [s, t] = [0, 0];
    let i = start;
    for (const even = start + width - (width % 2); i < even; i += 2) {
      s += v[i]! * v[i]!;
      t += v[i + 1]! * v[i + 1]!;
    }
    if (width % 2) s += v[i]! * v[i]!;
    const scale = 1 / Math.sqrt((s + t) / width + eps);
    r[row] = scale;
    for (let c = 0; c < width; c++) out[start + c] = v[start + c]! * scale * w[c]!;
  }
  return [y, rstd];
};

/** `{dy, x, weight, rstd}` -> dx = rstd (g - xhat mean(g xhat)), where g = dy weight */
const rmsNormGradient: NativeKernel = ({ dy, x, weight, rstd }, _attrs, b) => {
  const [rows, width] = rowsOf(x!);
  const dx = b.output(x!.shape);
  const [g, v, w, r, out] = [b.values(dy!), b.values(x!), b.values(weight!), b.values(rstd!), b.values(dx)];
  for (let row = 0; row < rows; row++) {
    const start = row * width;
    const scale = r[row]!;
    let along = 0;
    for (let c = 0; c < width; c++) along += g[start + c]! * w[c]! * v[start + c]!;
    const bend = (along * scale * scale) / width;
    for (let c = 0; c < width; c++) out[start + c] = scale * (g[start + c]! * w[c]! - v[start + c]! * bend);
  }
  return [dx];
};

export const normKernels: Record<string, NativeKernel> = {
  FlamingoLayerNorm: layerNorm,
  FlamingoLayerNormGrad: layerNormGradient,
  FlamingoLayerNormWeightGrad: ({ dy, x, mean, rstd }, _attrs, b) => [weightGradient(b, dy!, x!, rstd!, mean!)],
  FlamingoRMSNorm: rmsNorm,
  FlamingoRMSNormGrad: rmsNormGradient,
  FlamingoRMSNormWeightGrad: ({ dy, x, rstd }, _attrs, b) => [weightGradient(b, dy!, x!, rstd!)],
};
