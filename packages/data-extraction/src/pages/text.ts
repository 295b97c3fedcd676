/** Soft hyphens, zero-width spaces, byte order marks, bidirectional and other controls. Joiners that scripts need stay. */
const INVISIBLE = /[\u00ad\u200b\u200e\u200f\u2060\ufeff\u202a-\u202e\u2066-\u2069]|(?![\t\n\v\f\r])\p{Cc}/gu;
const SPACES = /[\s\u0085]+/g;

/** Real text has no longer runs of combining marks (UAX #15, section 13), and normalizing them takes quadratic time. */
const MAX_MARKS = 30;
const MARK = /\p{M}/u;
const TOO_MANY_MARKS = /\p{M}{31}/u;

function limitMarks(text: string): string {
  if (!TOO_MANY_MARKS.test(text)) return text;
  let [kept, marks] = ['', 0];
  for (const character of text) {
    marks = MARK.test(character) ? marks + 1 : 0;
    if (marks <= MAX_MARKS) kept += character;
  }
  return kept;
}

/** Removes invisible characters, replaces lone surrogates, limits runs of combining marks, and normalizes to NFC. Keeps white space. */
export function cleanText(text: string): string {
  if (/^[\n\r\t -~]*$/.test(text)) return text;
  return limitMarks(text.replace(INVISIBLE, '').replace(/\p{Surrogate}/gu, '\ufffd')).normalize('NFC');
}

/** Replaces each run of white space by one space. */
export function collapse(text: string): string {
  return text.replace(SPACES, ' ');
}

/** Splits a text into words at white space. */
export function wordsOf(text: string): string[] {
  return text.split(/\s+/).filter((word) => word !== '');
}

/** Normalizes a text for comparison: letters and digits in lower case, one space for everything else. */
export function comparable(text: string): string {
  return (
    limitMarks(text)
      .normalize('NFKC')
      .toLowerCase()
      // Unicode classes are slow, and most text does not need them. With `+` they overflow the stack on long runs.
      .replace(/[^\0-\x7f]+/g, (run) => run.replace(/[^\p{L}\p{M}\p{N}]/gu, ' '))
      .replace(/[^a-z0-9\x80-\uffff]+/g, ' ')
      .trim()
  );
}
