import {
  adamW,
  cosineSchedule,
  linearSchedule,
  switchAt,
  warmUp,
  type DecayMask,
  type Schedule,
  type Transform,
} from '@flamingo-ts/optim';
import type { OptimizerConfig } from '../config/config';

/** Warm-up to the peak learning rate, constant, then linear or cosine decay to its final share after the last step. */
export function learningRateOf(config: OptimizerConfig): Schedule {
  const { learningRate, warmupSteps, decayFrom, finalShare, steps } = config;
  const decayStart = Math.max(warmupSteps, Math.round(decayFrom * steps));
  const decaySchedule = config.schedule === 'cosine' ? cosineSchedule : linearSchedule;
  const decay = decaySchedule(learningRate, learningRate * finalShare, Math.max(1, steps - decayStart));
  const level = switchAt(decayStart - warmupSteps, () => learningRate, decay);
  // The first step has a rate above 0, because short runs should not waste a step.
  return (step) => warmUp(warmupSteps, level)(step + (step < warmupSteps ? 1 : 0));
}

/**
 * Global clipping and AdamW, as the Flamingo and Chinchilla papers train.
 *
 * @param decayMask which parameters weight decay applies to
 * @param onNorm    called with the gradient norm of each step, before anything is updated
 */
export function createOptimizer(
  config: OptimizerConfig,
  decayMask: DecayMask,
  onNorm: (norm: number) => void,
): Transform {
  const { beta1, beta2, weightDecay, clipNorm } = config;
  return adamW({ learningRate: learningRateOf(config), beta1, beta2, weightDecay, clipNorm, onNorm, decayMask });
}
