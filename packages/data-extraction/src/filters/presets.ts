import { c4Line, c4Page, gopherQuality, gopherRepetition, obelicsText, type TextFilter } from './text-quality';

/** Formats that are ever decoded: raster images, told by their first bytes. SVG is a program, and is not. */
export type ImageFormat = 'jpeg' | 'png' | 'webp' | 'gif' | 'avif';

/** What a recipe keeps. Every filter counts what it drops under a reason of its own. */
export interface Preset {
  /** ISO 639-1 code of the language that is kept. */
  readonly language: string;
  readonly image: {
    readonly formats: readonly ImageFormat[];
    /** Pixels of the smaller and of the larger side. */
    readonly minSide: number;
    readonly maxSide: number;
    /** Larger side over smaller. */
    readonly maxRatio: number;
    /** Words in an address that make an image furniture. */
    readonly addressWords: readonly string[];
  };
  /** Images of a page that is kept. */
  readonly maxImages: number;
  /** Drops lines or paragraphs and keeps the rest of the page. */
  readonly pieces?: { readonly of: 'line' | 'paragraph'; readonly filter: TextFilter };
  /** Any of them drops the page. */
  readonly page: readonly TextFilter[];
  /** An image that comes more often in the whole set is dropped everywhere. */
  readonly maxRepeats: number;
}

const FURNITURE_WORDS = ['logo', 'button', 'icon', 'plugin', 'widget'];

export const presets = {
  /** Flamingo (Alayrac et al., 2022), appendix A.3.1; its text filters are Gopher's. */
  m3w: {
    language: 'en',
    image: {
      formats: ['jpeg', 'png', 'webp', 'gif', 'avif'],
      minSide: 64,
      maxSide: 20_000,
      maxRatio: 3,
      addressWords: [],
    },
    maxImages: Infinity,
    page: [gopherQuality, gopherRepetition],
    maxRepeats: Infinity,
  },
  /**
   * OBELICS (Laurençon et al., 2023), section 3 and its published configuration. Left out for want of their models: the
   * perplexity, and the share of common words.
   */
  obelics: {
    language: 'en',
    image: {
      formats: ['jpeg', 'png', 'webp'],
      minSide: 150,
      maxSide: 20_000,
      maxRatio: 2,
      addressWords: FURNITURE_WORDS,
    },
    maxImages: 30,
    pieces: {
      of: 'paragraph',
      filter: obelicsText({
        minWords: 4,
        maxWords: 1000,
        characterRepetition: 0.1,
        wordRepetition: 0.1,
        specialCharacters: 0.3,
        stopWords: 0.3,
        punctuation: 0.001,
        minWordsForPunctuation: 12,
      }),
    },
    page: [
      obelicsText({
        minWords: 10,
        maxWords: 2000,
        characterRepetition: 0.1,
        wordRepetition: 0.2,
        specialCharacters: 0.275,
        stopWords: 0.35,
        punctuation: 0.03,
        minWordsForPunctuation: 0,
      }),
    ],
    maxRepeats: 10,
  },
  /**
   * Multimodal C4 (Zhu et al., 2023), section 2, over C4's own rules. Images stay where the page has them; theirs are
   * assigned to sentences by CLIP.
   */
  mmc4: {
    language: 'en',
    image: {
      formats: ['jpeg', 'png'],
      minSide: 150,
      maxSide: 20_000,
      maxRatio: 2,
      addressWords: FURNITURE_WORDS,
    },
    maxImages: 30,
    pieces: { of: 'line', filter: c4Line },
    page: [c4Page],
    maxRepeats: 10,
  },
} as const satisfies Record<string, Preset>;

export type PresetName = keyof typeof presets;

/** @throws Error for a name that is none of the presets' */
export function presetOf(name: string): Preset {
  if (Object.hasOwn(presets, name)) return presets[name as PresetName];
  throw new Error(`preset must be one of ${Object.keys(presets).join(', ')}, got ${name}.`);
}
