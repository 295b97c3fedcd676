export { resamplerFromOpenFlamingo } from './open-flamingo';
export {
  initResampler,
  PerceiverResampler,
  resamplerRules,
  resamplerShapes,
  resamplerSpecs,
  type ResamplerConfig,
  type ResamplerLayerParams,
  type ResamplerParams,
} from './perceiver-resampler';
