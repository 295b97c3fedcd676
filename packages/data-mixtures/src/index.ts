export { centreCrop, normalise, preprocess, resizeBicubic, type PreprocessConfig, type RgbImage } from './resize';
