export { extractPage, tidyParts, type ExtractedPage, type ExtractOptions, type PagePart } from './extract';
export { PAGE_LIMITS, PageError } from './html';
export { type PictureRef } from './pictures';
