/**
 * Trims a generated answer of a model that omits `<EOC>` and starts the next prompt: cuts it before the first keyword of
 * the prompt (section 4.4.1 of the paper's first version) and removes the white space around it.
 */
export function trimAnswer(
  generated: string,
  keywords: readonly string[] = ['Question:', 'Answer:', 'Output:'],
): string {
  return cutAtFirst(generated, keywords).trim();
}

/** Trims answers to questions as OpenFlamingo does: at a prompt word, even inside a word, then at the first ", ". */
export function openFlamingoVqaAnswer(generated: string): string {
  return cutAtFirst(cutAtFirst(generated, ['Question', 'Answer', 'Short']), [', ']);
}

/** Trims captions as OpenFlamingo does. */
export function openFlamingoCaption(generated: string): string {
  return cutAtFirst(generated, ['Output']).replaceAll('"', '');
}

/** 1 if the answers are equal, ignoring case and surrounding white space, else 0: top-1 accuracy. */
export function exactMatch(prediction: string, answer: string): number {
  return prediction.trim().toLowerCase() === answer.trim().toLowerCase() ? 1 : 0;
}

function cutAtFirst(text: string, keywords: readonly string[]): string {
  const places = keywords.map((keyword) => text.indexOf(keyword)).filter((place) => place >= 0);
  return places.length === 0 ? text : text.slice(0, Math.min(...places));
}
