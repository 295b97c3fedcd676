export { countClosedGateDifferences } from './closed-gates';
export {
  Flamingo,
  initFlamingo,
  type FlamingoConfig,
  type FlamingoParams,
  type FlamingoParts,
  type PreparedMedia,
} from './flamingo';
export { type FlamingoBatch, type FlamingoPrompt, type MediaBatch } from './inputs';
export { loadOpenFlamingo, type OpenFlamingoOptions } from './load-open-flamingo';
export { flamingoFromOpenFlamingo } from './open-flamingo';
export { openFlamingoForm, type OpenFlamingoCheckpoint, type OpenFlamingoForm } from './open-flamingo-form';
export {
  openFlamingoPreset,
  openFlamingoPresets,
  type OpenFlamingoArchitecture,
  type OpenFlamingoPreset,
} from './open-flamingo-presets';
export {
  flamingoPreset,
  flamingoPresets,
  flamingoShapes,
  type FlamingoArchitecture,
  type FlamingoPreset,
  type FlamingoShapes,
} from './presets';
export { type SeparateHead, type TiedHead } from './trained-tokens';
export { type VisionEncoder, type Visual } from './vision';
