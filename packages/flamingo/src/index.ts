export {
  Flamingo,
  initFlamingo,
  type FlamingoBatch,
  type FlamingoConfig,
  type FlamingoParams,
  type FlamingoParts,
  type FlamingoPrompt,
  type PreparedMedia,
} from './flamingo';
export { flamingoFromOpenFlamingo } from './open-flamingo';
export {
  flamingoPreset,
  flamingoPresets,
  flamingoShapes,
  type FlamingoArchitecture,
  type FlamingoPreset,
  type FlamingoShapes,
} from './presets';
export { TrainedTokens, type TiedHead } from './trained-tokens';
export { type VisionEncoder, type Visual } from './vision';
