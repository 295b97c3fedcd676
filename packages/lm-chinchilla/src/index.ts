export {
  Chinchilla,
  ChinchillaBlock,
  chinchillaPreset,
  chinchillaPresets,
  chinchillaShapes,
  initChinchilla,
  loadChinchilla,
  type ChinchillaConfig,
  type ChinchillaLayerParams,
  type ChinchillaParams,
  type ChinchillaPreset,
} from './chinchilla';
