import * as tf from '@tensorflow/tfjs-core';
import { checkConfig, checkValue, globalNorm, rule, type ConfigRule, type ConfigRules } from '@flamingo-ts/kernels';
import { mapGradients, stateless, type Gradients, type Transform } from './transform';

/**
 * Scales all gradients by `maxNorm / (norm + 1e-6)` if that is below 1, where norm is the norm of all gradients together.
 * `update` throws if the norm is NaN or infinite, before anything changes.
 *
 * @param maxNorm greater than 0
 * @param onNorm  called with the norm at each step, before clipping; may throw to reject the step
 */
export function clipByGlobalNorm(maxNorm: number, onNorm?: (norm: number) => void): Transform {
  checkValue('clipByGlobalNorm', 'maxNorm', maxNorm, rule.number({ above: 0 }));
  return stateless((grads) => {
    const factor = clippingFactor(grads, maxNorm, onNorm);
    return factor === 1 ? grads : mapGradients(grads, (g) => tf.mul(g, factor));
  });
}

/**
 * The factor that brings the norm of all gradients together down to `maxNorm`, or 1.
 *
 * @throws Error naming the first gradient that is not finite, if the norm is not
 */
export function clippingFactor(grads: Gradients, maxNorm: number, onNorm?: (norm: number) => void): number {
  const norm = tf.tidy(() => globalNorm(Object.values(grads)).dataSync()[0]!);
  onNorm?.(norm);
  if (!Number.isFinite(norm)) {
    throw new Error(
      `optim: the norm of the gradients must be finite, got ${norm}${firstNonFinite(grads)}. No parameter was changed: ` +
        'skip this step, or lower the learning rate.',
    );
  }
  return Math.min(1, maxNorm / (norm + 1e-6));
}

/** Names the first gradient that holds NaN or infinity; the norm can also overflow from finite gradients. */
function firstNonFinite(grads: Gradients): string {
  const bad = Object.entries(grads).find(([, g]) => !g.dataSync().every(Number.isFinite));
  return bad ? `: the gradient of ${bad[0]} holds NaN or infinity` : '';
}

/** The unit that is clipped together: the whole tensor, each output (index of the first axis), or each element. */
export type ClipUnit = 'tensor' | 'output' | 'element';

/** Config of `adaptiveGradientClip`. */
export interface AdaptiveClipConfig {
  /** Largest gradient as a fraction of the parameter's norm. Default 0.01. */
  readonly factor?: number;
  /** Lower bound of a parameter's norm, so that one near zero can still grow. Default 1e-3. */
  readonly epsilon?: number;
  /** Default: `tensor` for vectors and scalars (axes of size 1 not counted), `output` for matrices and kernels. */
  readonly unit?: (name: string, param: tf.Variable) => ClipUnit;
  /** Which parameters are clipped. Default: all. The NFNet paper excludes the classifier. */
  readonly mask?: (name: string, param: tf.Variable) => boolean;
}

const ADAPTIVE_RULES: ConfigRules<AdaptiveClipConfig> = {
  factor: rule.optional(rule.number({ above: 0 })),
  epsilon: rule.optional(rule.number({ above: 0 })),
  unit: rule.optional(rule.callback as ConfigRule<NonNullable<AdaptiveClipConfig['unit']>>),
  mask: rule.optional(rule.callback as ConfigRule<NonNullable<AdaptiveClipConfig['mask']>>),
};

/**
 * Adaptive gradient clipping (Brock et al. 2021, section 4.1): scales a unit of a gradient down so that its norm is at most
 * `factor` times the norm of the same unit of the parameter.
 */
export function adaptiveGradientClip(config: AdaptiveClipConfig = {}): Transform {
  checkConfig('adaptiveGradientClip', config, ADAPTIVE_RULES);
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
