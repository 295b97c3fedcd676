import type * as tf from '@tensorflow/tfjs-core';
import type { OneDnnBackend } from '../onednn/onednn-backend';

/**
 * Applies the activation of tfjs' fused kernels and disposes of its input. tfjs names activations after operations; the
 * kernels have the same names with a capital.
 */
export function activate(
  y: tf.TensorInfo,
  attrs: Record<string, unknown>,
  alpha: tf.TensorInfo | undefined,
  backend: OneDnnBackend,
): tf.TensorInfo {
  const name = attrs['activation'] as string | undefined;
  if (!name || name === 'linear') return y;
  const kernel = name === 'leakyrelu' ? 'LeakyRelu' : name[0]!.toUpperCase() + name.slice(1);
  const inputs: Record<string, tf.TensorInfo> = { x: y };
  if (alpha) inputs['alpha'] = alpha;
  const out = backend.call(kernel, inputs, { alpha: attrs['leakyreluAlpha'] });
  backend.disposeData(y.dataId);
  return out;
}
