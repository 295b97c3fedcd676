export { drawAugmentation, type AugmentationConfig, type Augmentation } from './augmentation';
export type { Batch } from './batch';
export type { Dataset } from './dataset';
export {
  closeGaps,
  mediaName,
  type BrokenDocument,
  type Document,
  type DocumentSource,
  type EncodedImage,
  type MediaPart,
  type MediaRef,
  type TextPart,
} from './document';
export { Faults, type Fault } from './faults';
export { ImageDecoder, type DecodeReport, type ImageDecoderOptions, type ImageFormat } from './image-decoder';
export { evenlySpaced, featureLoader, imageLoader, type MediaLoader } from './media';
export {
  Mixture,
  type DatasetConfig,
  type DatasetReport,
  type MixingStrategy,
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
export { openDataset, QUESTIONS, type OpenDatasetOptions } from './open-dataset';
export { prefetch, type Prefetchable } from './prefetch';
export { PendingReads } from './pending-reads';
export { normalize, preprocess, resizeBicubic, type PreprocessConfig, type RgbImage } from './resize';
export { buildSample, type LossRule, type Rejection, type Sample, type SampleOptions } from './sample';
export type { Manifest, ShardEntry } from './shard-format';
export { readManifest, verifyShards } from './shard-reader';
export { ShardWriter, DocumentTooLarge, wordCounter, type ShardWriterOptions, type TokenCounter } from './shard-writer';
export { type SpecialTokens, type TextTokenizer } from './tokenizer';
