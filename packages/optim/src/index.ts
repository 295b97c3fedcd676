export { adaptiveGradientClip, clipByGlobalNorm, type AdaptiveClipConfig, type ClipUnit } from './clip';
export { adamW, addDecayedWeights, sgd, type AdamWConfig, type DecayMask, type SgdConfig } from './optimizers';
export { constantSchedule, cosineSchedule, linearSchedule, switchAt, warmUp, type Schedule } from './schedules';
export {
  chain,
  disposeOptimizer,
  masked,
  restoreOptimizer,
  saveOptimizer,
  type Gradients,
  type OptimizerState,
  type Params,
  type Transform,
} from './transform';
