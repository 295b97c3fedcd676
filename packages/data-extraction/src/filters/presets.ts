import { c4Line, c4Page, gopherQuality, gopherRepetition, obelicsText, type TextFilter } from './text-quality';

/** Supported formats, recognized by their first bytes. SVG is excluded because it can contain scripts. */
export type ImageFormat = 'jpeg' | 'png' | 'webp' | 'gif' | 'avif';

/** The filters of a dataset. Each filter counts what it drops under its own reason. */
export interface Preset {
  /** ISO 639-1 code of the language to keep. */
  readonly language: string;
  readonly image: {
    readonly formats: readonly ImageFormat[];
    /** Limits for the smaller and the larger side in pixels. */
    readonly minSide: number;
    readonly maxSide: number;
    /** Maximum ratio of the larger to the smaller side. */
    readonly maxRatio: number;
    /** An image whose URL contains one of these words is dropped. */
    readonly urlWords: readonly string[];
  };
  /** Maximum number of images on a page. */
  readonly maxImages: number;
  /** Drops lines or paragraphs and keeps the rest of the page. */
  readonly pieces?: { readonly of: 'line' | 'paragraph'; readonly filter: TextFilter };
  /** If one of them returns a reason, the page is dropped. */
  readonly page: readonly TextFilter[];
  /** An image on more pages than this is dropped everywhere. */
  readonly maxRepeats: number;
}

const DECORATION_WORDS = ['logo', 'button', 'icon', 'plugin', 'widget'];

export const presets = {
  /** Flamingo (Alayrac et al., 2022), appendix A.3.1, with Gopher's text filters. */
  m3w: {
    language: 'en',
    image: {
      formats: ['jpeg', 'png', 'webp', 'gif', 'avif'],
      minSide: 64,
      maxSide: 20_000,
      maxRatio: 3,
      urlWords: [],
    },
    maxImages: Infinity,
    page: [gopherQuality, gopherRepetition],
    maxRepeats: Infinity,
  },
  /**
   * OBELICS (Laurençon et al., 2023), section 3 and its published configuration, without the filters that require
   * models: perplexity and the share of common words.
   */
  obelics: {
    language: 'en',
    image: {
      formats: ['jpeg', 'png', 'webp'],
      minSide: 150,
      maxSide: 20_000,
      maxRatio: 2,
      urlWords: DECORATION_WORDS,
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
   * Multimodal C4 (Zhu et al., 2023), section 2, with C4's text rules. Images stay in place; the
   * original assigns them to sentences with CLIP.
   */
  mmc4: {
    language: 'en',
    image: {
      formats: ['jpeg', 'png'],
      minSide: 150,
      maxSide: 20_000,
      maxRatio: 2,
      urlWords: DECORATION_WORDS,
    },
    maxImages: 30,
    pieces: { of: 'line', filter: c4Line },
    page: [c4Page],
    maxRepeats: 10,
  },
} as const satisfies Record<string, Preset>;

export type PresetName = keyof typeof presets;

/** @throws Error for an unknown name */
export function presetOf(name: string): Preset {
  if (Object.hasOwn(presets, name)) return presets[name as PresetName];
  throw new Error(`preset must be one of ${Object.keys(presets).join(', ')}, got ${name}.`);
}
