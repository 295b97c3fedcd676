/** Soft hyphens, zero-width spaces, byte order marks, bidirectional and other controls; the joiners that scripts need stay. */
const INVISIBLE = /[\u00ad\u200b\u200e\u200f\u2060\ufeff\u202a-\u202e\u2066-\u2069]|(?![\t\n\v\f\r])\p{Cc}/gu;
const SPACES = /[\s\u0085]+/g;

/** Without invisible characters and lone surrogates, composed (NFC). White space stays as it is. */
export function cleanText(text: string): string {
  if (/^[\n\r\t -~]*$/.test(text)) return text;
  return text
    .replace(INVISIBLE, '')
    .replace(/\p{Surrogate}/gu, '\ufffd')
    .normalize('NFC');
}

/** White space of any kind and length to one space. */
export function collapse(text: string): string {
  return text.replace(SPACES, ' ');
}

/** Words as a reader counts them: what white space separates. */
export function wordsOf(text: string): string[] {
  return text.split(/\s+/).filter((word) => word !== '');
}

/** What two texts are compared by: letters and digits in lower case, everything else one space. */
export function comparable(text: string): string {
  return (
    text
      .normalize('NFKC')
      .toLowerCase()
      // Classes of Unicode are slow to look up, and most text does not need them.
      .replace(/[^\0-\x7f]+/g, (run) => run.replace(/[^\p{L}\p{M}\p{N}]+/gu, ' '))
      .replace(/[^a-z0-9\x80-\uffff]+/g, ' ')
      .trim()
  );
}
