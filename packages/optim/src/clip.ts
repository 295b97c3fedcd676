import * as tf from '@tensorflow/tfjs-core';
import { globalNorm } from '@flamingo-ts/kernels';
import { mapGradients, stateless, type Gradients, type Transform } from './transform';

/**
 * Scales all gradients by `maxNorm / (norm + 1e-6)` when that is below 1, norm being that of all of them together.
 *
 * @param onNorm told the norm at each step, before clipping
 */
export function clipByGlobalNorm(maxNorm: number, onNorm?: (norm: number) => void): Transform {
  return stateless((grads) => {
    const factor = clippingFactor(grads, maxNorm, onNorm);
    return factor === 1 ? grads : mapGradients(grads, (g) => tf.mul(g, factor));
  });
}

/** What gradients are to be multiplied by so that the norm of all of them together is at most `maxNorm`. */
export function clippingFactor(grads: Gradients, maxNorm: number, onNorm?: (norm: number) => void): number {
  const norm = tf.tidy(() => globalNorm(Object.values(grads)).dataSync()[0]!);
  onNorm?.(norm);
  // A norm that is no number makes no factor of its own: what it spoils shall be seen.
  return Math.min(1, maxNorm / (norm + 1e-6));
}

/** What is clipped together: the whole tensor, each output (index of the first axis), or each number alone. */
export type ClipUnit = 'tensor' | 'output' | 'element';

export interface AdaptiveClipConfig {
  /** Largest gradient as a fraction of the parameter's norm. Default 0.01. */
  readonly factor?: number;
  /** Norm that a parameter is counted as having at least, so that one near zero can still grow. Default 1e-3. */
  readonly epsilon?: number;
  /** Default: `tensor` for vectors and scalars (axes of size 1 not counted), `output` for matrices and kernels. */
  readonly unit?: (name: string, param: tf.Variable) => ClipUnit;
  /** Which parameters are clipped. Default all; the paper of NFNets spares the classifier. */
  readonly mask?: (name: string, param: tf.Variable) => boolean;
}

/**
 * Adaptive gradient clipping (Brock et al. 2021, section 4.1): per unit, a gradient whose norm exceeds `factor` times
 * the parameter's is scaled down to that.
 */
export function adaptiveGradientClip(config: AdaptiveClipConfig = {}): Transform {
  const { factor = 0.01, epsilon = 1e-3, unit = unitOf, mask = () => true } = config;
  return stateless((grads, params) =>
    mapGradients(grads, (g, name) => {
      const p = params[name]!;
      if (!mask(name, p)) return g;
      const norm = (x: tf.Tensor) => unitNorm(x, unit(name, p));
      const most = tf.mul(tf.maximum(norm(p), epsilon), factor);
      return tf.mul(g, tf.minimum(1, tf.div(most, tf.maximum(norm(g), 1e-6))));
    }),
  );
}

function unitOf(_: string, { shape }: tf.Variable): ClipUnit {
  return shape.filter((n) => n !== 1).length > 1 ? 'output' : 'tensor';
}

function unitNorm(x: tf.Tensor, unit: ClipUnit): tf.Tensor {
  if (unit === 'element') return tf.abs(x);
  const axes = unit === 'output' ? x.shape.map((_, i) => i).slice(1) : undefined;
  return tf.sqrt(tf.sum(tf.square(x), axes, true));
}
