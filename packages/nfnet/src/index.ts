export {
  NFNET_VARIANTS,
  nfnetConfig,
  nfnetPlan,
  type NFBlockPlan,
  type NFNetConfig,
  type NFNetConfigInput,
  type NFNetVariant,
} from './config';
export { importHaiku, importTimm } from './import';
export { drawKeepMasks, NFNet, type NFNetLoadOptions, type NFNetTrainingOptions } from './nfnet';
export { initNFNet, nfnetFlops, nfnetShapes, type NFNetParams } from './params';
