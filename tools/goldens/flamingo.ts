import type { GoldenHandler } from './case';

/** Resampler, cross attention, gated blocks and the interleaved model. */
export const flamingoHandlers: readonly GoldenHandler[] = [];
