/** Tells the language of a text: an ISO 639-1 code, empty where there is no telling. */
export type LanguageDetector = (text: string) => string;

/** More text changes nothing, and costs time. */
const ENOUGH = 2000;

/** Loads the n-grams of 60 languages. */
export async function openLanguageDetector(): Promise<LanguageDetector> {
  const { eld } = await import('eld/small');
  return (text) => eld.detect(text.slice(0, ENOUGH)).language;
}
