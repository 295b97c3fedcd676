import {
  adamW,
  cosineSchedule,
  linearSchedule,
  switchAt,
  warmUp,
  type Schedule,
  type Transform,
} from '@flamingo-ts/optim';
import type { OptimizerConfig } from '../config/config';
import type { Objective } from './stage';

/** Warm-up to the top rate, constant, then along a line or half a cosine down to its final share after the last step. */
export function learningRateOf(config: OptimizerConfig): Schedule {
  const { learningRate, warmupSteps, decayFrom, finalShare, steps } = config;
  const decayStart = Math.max(warmupSteps, Math.round(decayFrom * steps));
  const down = config.schedule === 'cosine' ? cosineSchedule : linearSchedule;
  const decay = down(learningRate, learningRate * finalShare, Math.max(1, steps - decayStart));
  const level = switchAt(decayStart - warmupSteps, () => learningRate, decay);
  // The very first step has a rate above 0: a run of a few hundred steps has none to give away.
  return (step) => warmUp(warmupSteps, level)(step + (step < warmupSteps ? 1 : 0));
}

/** Global clipping and AdamW, as the Flamingo and Chinchilla papers train; `onNorm` is told each step's gradient norm. */
export function createOptimizer(
  config: OptimizerConfig,
  objective: Objective,
  onNorm: (norm: number) => void,
): Transform {
  const { beta1, beta2, weightDecay, clipNorm } = config;
  return adamW({
    learningRate: learningRateOf(config),
    beta1,
    beta2,
    weightDecay,
    clipNorm,
    onNorm,
    decayMask: (name, param) => objective.decays(name, param.shape),
  });
}
