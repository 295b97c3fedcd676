/**
 * A generated answer without what a model adds when it forgets `<EOC>` and starts the next prompt: cut before the first
 * of the prompt's keywords (section 4.4.1 of the first version of the paper) and freed of blanks around it.
 */
export function trimAnswer(
  generated: string,
  keywords: readonly string[] = ['Question:', 'Answer:', 'Output:'],
): string {
  return cutAtFirst(generated, keywords).trim();
}

/** OpenFlamingo's cut of answers to questions: at a prompt word, even inside a word, then at the first ", ". */
export function openFlamingoVqaAnswer(generated: string): string {
  return cutAtFirst(cutAtFirst(generated, ['Question', 'Answer', 'Short']), [', ']);
}

/** OpenFlamingo's cut of captions. */
export function openFlamingoCaption(generated: string): string {
  return cutAtFirst(generated, ['Output']).replaceAll('"', '');
}

/** 1 if the answers are equal but for case and blanks around them, else 0: top-1 accuracy. */
export function exactMatch(prediction: string, answer: string): number {
  return prediction.trim().toLowerCase() === answer.trim().toLowerCase() ? 1 : 0;
}

function cutAtFirst(text: string, marks: readonly string[]): string {
  const places = marks.map((mark) => text.indexOf(mark)).filter((place) => place >= 0);
  return places.length === 0 ? text : text.slice(0, Math.min(...places));
}
