/** Returns the language of a text as an ISO 639-1 code, empty if it is unknown. */
export type LanguageDetector = (text: string) => string;

/** Number of characters to examine. More do not change the result. */
const MAX_CHARACTERS = 2000;

/** Loads the n-grams of 60 languages. */
export async function openLanguageDetector(): Promise<LanguageDetector> {
  const { eld } = await import('eld/small');
  return (text) => eld.detect(text.slice(0, MAX_CHARACTERS)).language;
}
