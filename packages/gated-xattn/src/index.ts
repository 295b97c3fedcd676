export { checkInterleaving, type InterleavingOptions, type InterleavingReport } from './check-interleaving';
export {
  CrossAttention,
  GatedXAttn,
  initGatedXAttn,
  type CrossAttentionParams,
  type GatedXAttnConfig,
  type GatedXAttnParams,
} from './gated-xattn';
export {
  gatedPositions,
  initInterleave,
  interleave,
  InterleavedLM,
  interleaveRules,
  interleaveShapes,
  interleaveSpecs,
  type InterleaveConfig,
  type InterleaveParams,
} from './interleave';
export {
  expectMediaIndex,
  MediaContext,
  type MediaContextOptions,
  type MediaKeysValues,
  type MediaLMContext,
} from './media-context';
export { gatedXAttnFromOpenFlamingo } from './open-flamingo';
