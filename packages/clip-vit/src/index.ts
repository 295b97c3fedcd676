export {
  CLIP_VIT_VARIANTS,
  ClipViT,
  clipViTConfig,
  clipViTShapes,
  initClipViT,
  type ClipViTConfig,
  type ClipViTConfigInput,
  type ClipViTLoadOptions,
  type ClipViTParams,
  type ClipViTVariant,
} from './clip-vit';
export {
  contrastiveLogits,
  contrastiveLoss,
  LOG_SCALE_MAX,
  LOG_SCALE_START,
  type ContrastiveOptions,
} from './contrastive';
export { importOpenClip } from './import';
