export {
  Chinchilla,
  ChinchillaBlock,
  chinchillaPreset,
  chinchillaPresets,
  chinchillaShapes,
  initChinchilla,
  loadChinchilla,
  loadFrozenChinchilla,
  type ChinchillaConfig,
  type ChinchillaLayerParams,
  type ChinchillaParams,
  type ChinchillaPreset,
} from './chinchilla';
