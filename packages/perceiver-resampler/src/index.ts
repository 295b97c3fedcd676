export { resamplerFromOpenFlamingo } from './open-flamingo';
export {
  initResampler,
  PerceiverResampler,
  resamplerShapes,
  type ResamplerConfig,
  type ResamplerLayerParams,
  type ResamplerParams,
} from './perceiver-resampler';
