import type { AddedTokenJson } from './tokenizer';

/** A section of a text: the id of an added token, or text between added tokens. */
type Section = number | string;

/** An added token and its spelling in the text to search. */
export interface Spelling {
  readonly token: AddedTokenJson;
  readonly spelling: string;
}

// Equivalent to Rust's \w and \s, which `tokenizers` uses here.
const ENDS_WITH_WORD = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u;
const STARTS_WITH_WORD = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u;
const SPACE = /\p{White_Space}/u;

/**
 * Finds added tokens in a text, as the `tokenizers` library does: the leftmost match wins, then the longest. Respects
 * `single_word`, `lstrip` and `rstrip`.
 */
export function addedTokenSplitter(spellings: readonly Spelling[]): (text: string) => Section[] {
  const tokens = new Map(spellings.filter(({ spelling }) => spelling).map((s) => [s.spelling, s.token]));
  if (tokens.size === 0) return (text) => (text ? [text] : []);
  const longestFirst = [...tokens.keys()].sort((a, b) => b.length - a.length);
  const pattern = new RegExp(longestFirst.map(escapeRegExp).join('|'), 'g');
  return (text) => {
    const sections: Section[] = [];
    let done = 0;
    for (const { 0: spelling, index } of text.matchAll(pattern)) {
      const { id, single_word, lstrip, rstrip } = tokens.get(spelling)!;
      let begin = index;
      let end = index + spelling.length;
      // Two code units are enough for the whole character before or after.
      const isPartOfWord =
        ENDS_WITH_WORD.test(text.slice(Math.max(0, begin - 2), begin)) ||
        STARTS_WITH_WORD.test(text.slice(end, end + 2));
      if (single_word && isPartOfWord) continue;
      if (lstrip) while (begin > done && SPACE.test(text[begin - 1]!)) begin--;
      if (rstrip) while (end < text.length && SPACE.test(text[end]!)) end++;
      if (begin > done) sections.push(text.slice(done, begin));
      sections.push(id);
      done = end;
    }
    if (done < text.length) sections.push(text.slice(done));
    return sections;
  };
}

/** A pattern that matches exactly this text. */
export function escapeRegExp(text: string): string {
  return text.replace(/[\^$\\.*+?()[\]{}|]/g, '\\$&');
}
