import * as tf from '@tensorflow/tfjs-core';
import type { OneDnnBackend, NativeKernel } from '../onednn/onednn-backend';
import type { Layout } from '../onednn/layout';
import type { PoolGeometry } from '../onednn/operations';
import { plainFloats, sizeOf } from '../shared/pooled-backend';

const images = ([n, h, w, c]: readonly number[]): Layout => ({
  dims: [n!, c!, h!, w!],
  strides: [h! * w! * c!, 1, w! * c!, c!],
});

function pool(b: OneDnnBackend, x: tf.TensorInfo, shape: number[], g: PoolGeometry): tf.TensorInfo {
  const y = b.output(shape);
  const key = `pool ${x.shape.join()} ${shape.join()} ${Object.values(g).join()}`;
  b.compiled(key, (dnn) => dnn.averagePool(images(x.shape), images(shape), g)).run(b.address(x), b.address(y));
  return y;
}

function poolGradient(b: OneDnnBackend, dy: tf.TensorInfo, shape: number[], g: PoolGeometry): tf.TensorInfo {
  const dx = b.output(shape);
  const key = `pool' ${shape.join()} ${dy.shape.join()} ${Object.values(g).join()}`;
  const gradient = b.compiled(key, (dnn) => dnn.averagePoolBackward(images(shape), images(dy.shape), g));
  gradient.run(b.address(dy), b.address(dx));
  return dx;
}

/** 2x2 windows with stride 2; an odd last row or column forms smaller windows. */
const geometry2x2 = (height: number, width: number): PoolGeometry => ({
  strides: [2, 2],
  kernel: [2, 2],
  padStart: [0, 0],
  padEnd: [height % 2, width % 2],
});

const averagePool: NativeKernel = ({ x }, attrs, backend) => {
  if (!plainFloats(x)) return undefined;
  const { filterSize, strides, pad, dimRoundingMode } = attrs as unknown as tf.AvgPoolAttrs;
  const shape = x!.shape as [number, number, number, number];
  const info = tf.backend_util.computePool2DInfo(shape, filterSize, strides, 1, pad, dimRoundingMode);
  const { top, left } = info.padInfo;
  const bottom = Math.max(0, (info.outHeight - 1) * info.strideHeight + info.filterHeight - info.inHeight - top);
  const right = Math.max(0, (info.outWidth - 1) * info.strideWidth + info.filterWidth - info.inWidth - left);
  // oneDNN refuses a padding as large as the window.
  if (sizeOf(info.outShape) <= 0 || Math.max(top, bottom) >= info.filterHeight) return undefined;
  if (Math.max(left, right) >= info.filterWidth) return undefined;
  return pool(backend, x!, info.outShape, {
    strides: [info.strideHeight, info.strideWidth],
    kernel: [info.filterHeight, info.filterWidth],
    padStart: [top, left],
    padEnd: [bottom, right],
  });
};

const pool2x2: NativeKernel = ({ x }, _attrs, backend) => {
  const [n, h, w, c] = x!.shape as [number, number, number, number];
  return [pool(backend, x!, [n, Math.ceil(h / 2), Math.ceil(w / 2), c], geometry2x2(h, w))];
};

const pool2x2Gradient: NativeKernel = ({ dy }, attrs, backend) => {
  const { height, width } = attrs as { height: number; width: number };
  const shape = [dy!.shape[0]!, height, width, dy!.shape[3]!];
  return [poolGradient(backend, dy!, shape, geometry2x2(height, width))];
};

export const poolingKernels: Record<string, NativeKernel> = {
  [tf.AvgPool]: averagePool,
  FlamingoAvgPool2D: pool2x2,
  FlamingoAvgPool2DGrad: pool2x2Gradient,
};
