import type * as tf from '@tensorflow/tfjs-core';
import type { OneDnnBackend, NativeKernel } from '../onednn/onednn-backend';
import { sizeOf } from '../shared/pooled-backend';
import { apply, FEW } from './binary';
import { sumRowsOf } from './reduce';

const rowsOf = (x: tf.TensorInfo): [rows: number, width: number] => {
  const width = x.shape[x.shape.length - 1]!;
  return [sizeOf(x.shape) / width, width];
};

/** Variances from their inverse roots, 1 / r^2. */
function toVariance(rstd: Float32Array, variance: Float32Array): void {
  for (let i = 0; i < rstd.length; i++) variance[i] = 1 / (rstd[i]! * rstd[i]!);
}

/** For few rows, one token's for example: faster than waking oneDNN's threads. */
function layerNormInLoop(
  x: Float32Array,
  weight: Float32Array,
  bias: Float32Array | undefined,
  eps: number,
  y: Float32Array,
  mean: Float32Array,
  rstd: Float32Array,
): void {
  const width = weight.length;
  for (let r = 0, start = 0; start < x.length; r++, start += width) {
    let sum = 0;
    for (let i = 0; i < width; i++) sum += x[start + i]!;
    const center = sum / width;
    let squares = 0;
    for (let i = 0; i < width; i++) squares += (x[start + i]! - center) ** 2;
    const scale = 1 / Math.sqrt(squares / width + eps);
    for (let i = 0; i < width; i++)
      y[start + i] = (x[start + i]! - center) * scale * weight[i]! + (bias ? bias[i]! : 0);
    mean[r] = center;
    rstd[r] = scale;
  }
}

/** `{x [..., d], weight [d], bias? [d]}` -> `[y, mean [..., 1], rstd [..., 1]]`; the last two only if they are taped. */
const layerNorm: NativeKernel = ({ x, weight, bias }, attrs, b) => {
  const eps = attrs['eps'] as number;
  const [rows, width] = rowsOf(x!);
  const y = b.output(x!.shape);
  const stat = [...x!.shape.slice(0, -1), 1];
  if (rows * width < FEW) {
    const [means, spreads] = [new Float32Array(rows), new Float32Array(rows)];
    layerNormInLoop(b.values(x!), b.values(weight!), bias && b.values(bias), eps, b.values(y), means, spreads);
    if (!attrs['taped']) return [y];
    return [y, b.makeTensorInfo(stat, 'float32', means), b.makeTensorInfo(stat, 'float32', spreads)];
  }
  const [mean, rstd] = [b.output(stat), b.output(stat)] as const;
  const norm = b.compiled(`layerNorm ${rows},${width},${bias !== undefined},${eps}`, (dnn) =>
    dnn.layerNorm(rows, width, bias !== undefined, eps),
  );
  const shift = bias ? [b.address(bias)] : [];
  norm.run(b.address(x!), b.address(weight!), ...shift, b.address(y), b.address(mean), b.address(rstd));
  const values = b.values(rstd);
  for (let i = 0; i < rows; i++) values[i] = 1 / Math.sqrt(values[i]! + eps);
  return [y, mean, rstd];
};

/**
 * dx and dweight of a normalization with these means (default 0) and inverse deviations. With `given` these do not depend on
 * x, and the caller adds their part of dx.
 */
function gradients(
  b: OneDnnBackend,
  { dy, x, weight, mean, rstd }: Record<string, tf.TensorInfo>,
  given: boolean,
): [dx: tf.TensorInfo, dweight: tf.TensorInfo] {
  const [rows, width] = rowsOf(x!);
  const [dx, dweight] = [b.output(x!.shape), b.output([width])];
  if (!rows) {
    b.values(dweight).fill(0);
    return [dx, dweight];
  }
  const variance = b.pool.allocate(rows);
  // rstd already includes eps.
  toVariance(b.values(rstd!), variance);
  const norm = b.compiled(`layerNorm' ${rows},${width},${given}`, (dnn) =>
    dnn.layerNormBackward(rows, width, 0, given),
  );
  // The gradient to the weight does not need the weight.
  const factor = weight ? b.address(weight) : b.ones(width);
  const center = mean ? b.address(mean) : b.zeros(rows);
  const spread = b.pool.address(variance);
  norm.run(b.address(x!), b.address(dy!), factor, center, spread, b.address(dx), b.address(dweight));
  b.pool.release(variance);
  return [dx, dweight];
}

/**
 * Weight gradients that were computed together with input gradients, keyed by the data of dy and of rstd, which are unique to
 * each call. tfjs requests them next, if at all.
 */
const found = new WeakMap<object, { readonly rstd: object; readonly dweight: Float32Array }>();

/** dx of `gradients`; keeps dweight for the next call. */
function inputGradient(b: OneDnnBackend, inputs: Record<string, tf.TensorInfo>, given: boolean): tf.TensorInfo {
  const [dx, dweight] = gradients(b, inputs, given);
  found.set(inputs['dy']!.dataId, { rstd: inputs['rstd']!.dataId, dweight: b.values(dweight).slice() });
  b.disposeData(dweight.dataId);
  return dx;
}

const weightGradient =
  (given: boolean): NativeKernel =>
  (inputs, _attrs, b) => {
    const { dy, rstd } = inputs as Record<'dy' | 'rstd', tf.TensorInfo>;
    const known = found.get(dy.dataId);
    if (known?.rstd === rstd.dataId) return [b.makeTensorInfo([known.dweight.length], 'float32', known.dweight)];
    const [dx, dweight] = gradients(b, inputs, given);
    b.disposeData(dx.dataId);
    return [dweight];
  };

/** out[r] = mean over the row of x y */
function rowMeans(b: OneDnnBackend, x: tf.TensorInfo, y: tf.TensorInfo, out: Float32Array): void {
  const [rows, width] = rowsOf(x);
  const product = b.output(x.shape);
  apply('mul', x, y, product, b);
  sumRowsOf(b, b.values(product), rows, width, out, 1 / width);
  b.disposeData(product.dataId);
}

/** `{x [..., d], weight [d]}` -> `[y, rstd [..., 1]]`: a layer norm whose mean is 0 and whose variance is the mean square. */
const rmsNorm: NativeKernel = ({ x, weight }, attrs, b) => {
  const eps = attrs['eps'] as number;
  const [rows, width] = rowsOf(x!);
  const [y, rstd] = [b.output(x!.shape), b.output([...x!.shape.slice(0, -1), 1])];
  const values = b.values(rstd);
  rowMeans(b, x!, x!, values);
  const norm = b.compiled(`rmsNorm ${rows},${width},${eps}`, (dnn) => dnn.layerNorm(rows, width, false, eps, true));
  norm.run(b.address(x!), b.address(weight!), b.address(y), b.zeros(rows), b.address(rstd));
  for (let r = 0; r < rows; r++) values[r] = 1 / Math.sqrt(values[r]! + eps);
  return [y, rstd];
};

/** `{dy, x, weight, rstd}` -> dx = t - x rstd^2 mean(t x), where t = dy weight rstd */
const rmsNormGradient: NativeKernel = (inputs, _attrs, b) => {
  const { x, rstd } = inputs as Record<'x' | 'rstd', tf.TensorInfo>;
  const [rows, width] = rowsOf(x);
  const dx = inputGradient(b, inputs as Record<string, tf.TensorInfo>, true);
  const bend = b.pool.allocate(rows);
  rowMeans(b, dx, x, bend);
  const r = b.values(rstd);
  for (let i = 0; i < rows; i++) bend[i]! *= -r[i]! * r[i]!;
  const [data, column] = [{ dims: [rows, width] }, { dims: [rows, 1] }];
  b.compiled(`bend ${rows},${width}`, (dnn) => dnn.binary('mul', data, column, data, [{ kind: 'sum', scale: 1 }])).run(
    b.address(x),
    b.pool.address(bend),
    b.address(dx),
  );
  b.pool.release(bend);
  return [dx];
};

export const normKernels: Record<string, NativeKernel> = {
  FlamingoLayerNorm: layerNorm,
  FlamingoLayerNormGrad: (inputs, _attrs, b) => [inputGradient(b, inputs, false)],
  FlamingoLayerNormWeightGrad: weightGradient(false),
  FlamingoRMSNorm: rmsNorm,
  FlamingoRMSNormGrad: rmsNormGradient,
  FlamingoRMSNormWeightGrad: weightGradient(true),
};
