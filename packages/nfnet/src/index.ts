export {
  drawKeepMasks,
  initNFNet,
  NFNET_VARIANTS,
  NFNet,
  nfnetConfig,
  nfnetFlops,
  nfnetPlan,
  nfnetShapes,
  type NFBlockPlan,
  type NFNetConfig,
  type NFNetLoading,
  type NFNetParams,
  type NFNetSettings,
  type NFNetTraining,
  type NFNetVariant,
} from './nfnet';
export { importHaiku, importTimm } from './import';
