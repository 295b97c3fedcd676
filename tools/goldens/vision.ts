import type { GoldenHandler } from './case';

/** Standardised convolutions, NFNet, CLIP's vision tower, contrastive loss, preprocessing and training traces. */
export const visionHandlers: readonly GoldenHandler[] = [];
