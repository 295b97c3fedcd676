import * as tf from '@tensorflow/tfjs-core';
import { adamWStep, checkConfig, checkValue, rule, type ConfigRule, type ConfigRules } from '@flamingo-ts/kernels';
import { clippingFactor } from './clip';
import { rateAt, type Schedule } from './schedules';
import { expectKnown, mapGradients, stateless, zerosLike, type Transform } from './transform';

/** Which parameters are decayed. */
export type DecayMask = (name: string, param: tf.Variable) => boolean;

/** The default: matrices and convolution kernels, but not biases, norms and gates. */
const matrices: DecayMask = (_, param) => param.rank >= 2;

/** Config of `adamW`. */
export interface AdamWConfig {
  /** Greater than 0; a schedule may return 0 too. */
  readonly learningRate: number | Schedule;
  /** Decay of the running mean of gradients, from 0 to below 1. Default 0.9. */
  readonly beta1?: number;
  /** Decay of the running mean of squared gradients, from 0 to below 1. Default 0.999. */
  readonly beta2?: number;
  /** Added to the root of the mean of squares; greater than 0. Default 1e-8. */
  readonly epsilon?: number;
  /** Decoupled from the gradient: `p *= 1 - learningRate * weightDecay` before the update. Default 0. */
  readonly weightDecay?: number;
  /**
   * Upper bound of the norm of all gradients together; larger gradients are scaled down. Like `clipByGlobalNorm`, but
   * without a second copy of all gradients; also throws if the norm is not finite. Default: no clipping.
   */
  readonly clipNorm?: number;
  /**
   * Called with that norm at each step, before clipping and before any parameter or average changes. To reject a step,
   * throw: parameters, averages and the step count then do not change.
   */
  readonly onNorm?: (norm: number) => void;
  /** Which parameters `weightDecay` applies to. Default: those with two or more axes. */
  readonly decayMask?: DecayMask;
}

const RATE: ConfigRule<number | Schedule> = rule.either(
  rule.number({ above: 0 }),
  rule.callback as ConfigRule<Schedule>,
);
const share = rule.number({ min: 0, below: 1 });

const ADAMW_RULES: ConfigRules<AdamWConfig> = {
  learningRate: RATE,
  beta1: rule.optional(share),
  beta2: rule.optional(share),
  epsilon: rule.optional(rule.number({ above: 0 })),
  weightDecay: rule.optional(rule.number({ min: 0 })),
  clipNorm: rule.optional(rule.number({ above: 0 })),
  onNorm: rule.optional(rule.callback as ConfigRule<(norm: number) => void>),
  decayMask: rule.optional(rule.callback as ConfigRule<DecayMask>),
};

/**
 * AdamW (Loshchilov and Hutter 2019) with bias correction.
 *
 * @throws Error naming the first config key that is unknown or out of range
 */
export function adamW(config: AdamWConfig): Transform {
  checkConfig('adamW', config, ADAMW_RULES);
  const { learningRate, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0, decayMask = matrices } = config;
  const { clipNorm = Infinity, onNorm } = config;
  return {
    init: (params) => ({ step: 0, slots: { m: zerosLike(params), v: zerosLike(params) }, parts: [] }),
    update: (grads, state, params) => {
      expectKnown(grads, params);
      const names = Object.keys(grads);
      const pick = <T>(from: Readonly<Record<string, T>>) => names.map((name) => from[name]!);
      const variables = pick(params);
      adamWStep(variables, pick(grads), pick(state.slots['m']!), pick(state.slots['v']!), {
        learningRate: rateAt(learningRate, state.step),
        beta1,
        beta2,
        epsilon,
        weightDecay: variables.map((p, i) => (decayMask(names[i]!, p) ? weightDecay : 0)),
        step: state.step + 1,
        gradientScale: clipNorm < Infinity || onNorm ? clippingFactor(grads, clipNorm, onNorm) : 1,
      });
      state.step++;
      return {};
    },
  };
}

/** Config of `sgd`. */
export interface SgdConfig {
  /** Greater than 0; a schedule may return 0 too. */
  readonly learningRate: number | Schedule;
  /** From 0 to below 1: the velocity is `v = momentum * v + g`. Default 0. */
  readonly momentum?: number;
  /** Steps by `g + momentum * v` instead of `v`. Default false. */
  readonly nesterov?: boolean;
}

const SGD_RULES: ConfigRules<SgdConfig> = {
  learningRate: RATE,
  momentum: rule.optional(share),
  nesterov: rule.optional(rule.boolean),
};

/**
 * Gradient descent with momentum. For L2 decay, put `addDecayedWeights` before it.
 *
 * @throws Error naming the first config key that is unknown or out of range
 */
export function sgd(config: SgdConfig): Transform {
  checkConfig('sgd', config, SGD_RULES);
  const { learningRate, momentum = 0, nesterov = false } = config;
  return {
    init: (params) => ({ step: 0, slots: { velocity: momentum ? zerosLike(params) : {} }, parts: [] }),
    update: (grads, state, params) => {
      expectKnown(grads, params);
      const rate = rateAt(learningRate, state.step);
      for (const [name, g] of Object.entries(grads)) {
        tf.tidy(() => {
          const velocity = state.slots['velocity']![name];
          velocity?.assign(tf.add(tf.mul(velocity, momentum), g));
          const direction = nesterov && velocity ? tf.add(g, tf.mul(velocity, momentum)) : (velocity ?? g);
          params[name]!.assign(tf.sub(params[name]!, tf.mul(direction, rate)));
        });
      }
      state.step++;
      return {};
    },
  };
}

/** Adds `weightDecay * p` to the gradients: L2 decay as part of the loss, for use before `sgd`. */
export function addDecayedWeights(weightDecay: number, decayMask: DecayMask = matrices): Transform {
  checkValue('addDecayedWeights', 'weightDecay', weightDecay, rule.number({ min: 0 }));
  return stateless((grads, params) =>
    mapGradients(grads, (g, name) => {
      const p = params[name]!;
      return decayMask(name, p) ? tf.add(g, tf.mul(p, weightDecay)) : g;
    }),
  );
}
