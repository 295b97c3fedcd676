import type { GoldenHandler } from './case';

/** Labels, text building, prompts and the answer metric. */
export const textHandlers: readonly GoldenHandler[] = [];
