export {
  Chinchilla,
  chinchillaPreset,
  chinchillaShapes,
  initChinchilla,
  loadChinchilla,
  loadFrozenChinchilla,
  type ChinchillaBlock,
  type ChinchillaConfig,
  type ChinchillaLayerParams,
  type ChinchillaParams,
} from './chinchilla';
