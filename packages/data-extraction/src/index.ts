export { type Manifest } from './assemble';
export { extractPage, tidyParts, type ExtractedPage, type ExtractOptions, type PagePart } from './extract';
export { PAGE_LIMITS, PageError } from './html';
export { extractPages, type ExtractPagesOptions, type ExtractProgress } from './job';
export { PICTURE_LIMITS } from './picture-info';
export { type PictureRef } from './pictures';
export { presets, type PictureFormat, type Preset, type PresetName } from './presets';
export { type TextFilter } from './text-quality';
export { type ExplicitContentHook } from './unit';
