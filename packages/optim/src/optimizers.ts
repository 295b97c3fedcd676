import * as tf from '@tensorflow/tfjs-core';
import { adamWStep } from '@flamingo-ts/kernels';
import { clippingFactor } from './clip';
import { rateAt, type Schedule } from './schedules';
import { expectKnown, mapGradients, stateless, zerosLike, type Transform } from './transform';

/** Which parameters are decayed. */
export type DecayMask = (name: string, param: tf.Variable) => boolean;

/** The default: matrices and kernels, but no biases, norms and gates. */
const matrices: DecayMask = (_, param) => param.rank >= 2;

export interface AdamWConfig {
  readonly learningRate: number | Schedule;
  /** Share of the old mean of gradients. Default 0.9. */
  readonly beta1?: number;
  /** Share of the old mean of squared gradients. Default 0.999. */
  readonly beta2?: number;
  /** Added to the root of the mean of squares. Default 1e-8. */
  readonly epsilon?: number;
  /** Decoupled from the gradient: `p *= 1 - learningRate * weightDecay` before the update. Default 0. */
  readonly weightDecay?: number;
  /**
   * Largest norm of all gradients together; larger ones are scaled down to it as they are used. What `clipByGlobalNorm`
   * before it would do, without a second copy of all gradients. Default: none.
   */
  readonly clipNorm?: number;
  /** Told that norm at each step, before clipping. */
  readonly onNorm?: (norm: number) => void;
  /** What `weightDecay` applies to. Default: parameters of two or more axes. */
  readonly decayMask?: DecayMask;
}

/** AdamW (Loshchilov and Hutter 2019), bias-corrected. */
export function adamW(config: AdamWConfig): Transform {
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

export interface SgdConfig {
  readonly learningRate: number | Schedule;
  /** Share of the old velocity: `v = momentum * v + g`. Default 0. */
  readonly momentum?: number;
  /** Step by `g + momentum * v` instead of by `v`. Default false. */
  readonly nesterov?: boolean;
}

/** Gradient descent with momentum. For L2 decay put `addDecayedWeights` before it. */
export function sgd({ learningRate, momentum = 0, nesterov = false }: SgdConfig): Transform {
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
  return stateless((grads, params) =>
    mapGradients(grads, (g, name) => {
      const p = params[name]!;
      return decayMask(name, p) ? tf.add(g, tf.mul(p, weightDecay)) : g;
    }),
  );
}
