import type { GoldenHandler } from './case';

/** Language models. */
export const lmHandlers: readonly GoldenHandler[] = [];
