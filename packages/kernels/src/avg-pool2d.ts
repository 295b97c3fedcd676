import * as tf from '@tensorflow/tfjs-core';
import { fusedOp } from './fused-op';
import { expectShape } from './shape';

/** 1 / (cells inside the image) of each window: `[1, ceil(h / 2), ceil(w / 2), 1]`. */
function inverseCounts(height: number, width: number): tf.Tensor4D {
  const rows = Math.ceil(height / 2);
  const columns = Math.ceil(width / 2);
  const inverse = new Float32Array(rows * columns);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      inverse[y * columns + x] = 1 / (Math.min(2, height - 2 * y) * Math.min(2, width - 2 * x));
    }
  }
  return tf.tensor4d(inverse, [1, rows, columns, 1]);
}

/** `{x NHWC}` -> `[y NHWC]` */
const avgPoolOp = fusedOp<object>({
  name: 'FlamingoAvgPool2D',
  forward: ({ x }) => [tf.avgPool(x as tf.Tensor4D, 2, 2, 'same')],
  saveInputs: ['x'],
  gradient: ([dy], { x }) => ({
    x: () => avgPoolGradOp({ dy }, { height: x!.shape[1]!, width: x!.shape[2]! })[0]!,
  }),
});

/** `{dy NHWC}` -> dx `[batch, height, width, channels]`. tfjs' own gradient divides border windows by 4. */
const avgPoolGradOp = fusedOp<{ readonly height: number; readonly width: number }>({
  name: 'FlamingoAvgPool2DGrad',
  forward: ({ dy }, { height, width }) => {
    const [b, h, w, c] = dy!.shape as [number, number, number, number];
    const share = tf.mul(dy!, inverseCounts(height, width));
    const wide = tf.reshape(tf.concat([share, share], 3), [b * h, w * 2 * c]);
    const whole = tf.reshape(tf.concat([wide, wide], 1), [b, h * 2, w * 2, c]);
    return [tf.slice(whole, [0, 0, 0, 0], [b, height, width, c])];
  },
});

/**
 * Mean over 2x2 windows with stride 2. An odd last row or column forms smaller windows, averaged over the cells they have.
 *
 * @param x float32 `[batch, height, width, channels]`
 * @returns float32 `[batch, ceil(height / 2), ceil(width / 2), channels]`
 */
export function avgPool2d(x: tf.Tensor): tf.Tensor4D {
  expectShape('avgPool2d: x', x, ['batch', 'height', 'width', 'channels'], 'Images are NHWC.');
  return avgPoolOp({ x }, {})[0] as tf.Tensor4D;
}
