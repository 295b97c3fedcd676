/** GPT-2's words: contractions, letters, digits and other signs, each with the space before it; and white space. */
export const GPT2_WORDS =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

/** What happens to the delimiters that a pre-tokenizer splits at. */
export type SplitBehavior = 'Removed' | 'Isolated' | 'Contiguous' | 'MergedWithPrevious' | 'MergedWithNext';

/**
 * Splits a text as pre-tokenizers of the `tokenizers` library do.
 *
 * @param delimiter a global pattern
 * @param invert    whether the delimiter is the text between the matches
 */
export function splitWords(text: string, delimiter: RegExp, behavior: SplitBehavior, invert = false): string[] {
  const parts: { text: string; isDelimiter: boolean }[] = [];
  let done = 0;
  for (const { 0: match, index } of text.matchAll(delimiter)) {
    if (match === '') continue;
    if (index > done) parts.push({ text: text.slice(done, index), isDelimiter: invert });
    parts.push({ text: match, isDelimiter: !invert });
    done = index + match.length;
  }
  if (done < text.length) parts.push({ text: text.slice(done), isDelimiter: invert });

  if (behavior === 'Removed') return parts.filter((part) => !part.isDelimiter).map((part) => part.text);
  if (behavior === 'Isolated') return parts.map((part) => part.text);
  const isBackward = behavior === 'MergedWithNext';
  const words: string[] = [];
  let afterDelimiter = false;
  for (const part of isBackward ? parts.reverse() : parts) {
    const joins = behavior === 'Contiguous' ? part.isDelimiter === afterDelimiter : part.isDelimiter && !afterDelimiter;
    const last = words.length - 1;
    if (!joins || last < 0) words.push(part.text);
    else words[last] = isBackward ? part.text + words[last]! : words[last]! + part.text;
    afterDelimiter = part.isDelimiter;
  }
  return isBackward ? words.reverse() : words;
}
