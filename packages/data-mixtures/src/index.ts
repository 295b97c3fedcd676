export { makeBatch, lossRows, type Batch, type LoadedSample } from './batch';
export {
  mediaName,
  type Document,
  type DocumentSource,
  type EncodedImage,
  type MediaPart,
  type MediaRef,
  type TextPart,
} from './document';
export { ImageDecoder, type DecodeReport, type ImageDecoderOptions, type ImageFormat } from './image-decoder';
export { featureLoader, pictureLoader, type MediaLoader } from './media';
export {
  Mixture,
  type DatasetConfig,
  type DatasetReport,
  type MixtureConfig,
  type MixtureCursor,
  type MixtureStep,
} from './mixture';
export {
  IGNORED_LABEL,
  openFlamingoLabels,
  openFlamingoPage,
  openFlamingoPair,
  type OpenFlamingoPage,
  type OpenFlamingoPageOptions,
  type ScoredPage,
} from './open-flamingo';
export { prefetch } from './prefetch';
export { seededStream, type RandomStream } from './random';
export { centreCrop, normalise, preprocess, resizeBicubic, type PreprocessConfig, type RgbImage } from './resize';
export {
  buildSample,
  mediaIndexOf,
  nextMediaIndexOf,
  type LossRule,
  type Rejection,
  type Sample,
  type SampleOptions,
} from './sample';
export { type SpecialTokens, type TextTokenizer } from './tokenizer';
