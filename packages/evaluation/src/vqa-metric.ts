/** An annotator's answer, with any other fields of its record. */
export interface VqaAnswer {
  readonly answer: string;
  readonly [field: string]: unknown;
}

/**
 * - `vqa`: the metric of the VQA benchmark. Normalizes texts only if the annotators disagree. An answer scores
 *   min(1, matches / 3), averaged over leaving out each annotator once.
 * - `open-flamingo`: always normalizes texts, and leaves out all annotators with equal normalized records together. Without
 *   ids in the records, ten equal answers therefore leave no annotator, and the right answer scores 0.
 */
export type VqaRule = 'vqa' | 'open-flamingo';

/** Accuracy of one prediction, 0 to 1. */
export function vqaAccuracy(
  prediction: string,
  answers: readonly (string | VqaAnswer)[],
  rule: VqaRule = 'vqa',
): number {
  if (answers.length === 0) throw new Error('vqaAccuracy: answers is empty. Pass the answers of the annotators.');
  const records = answers.map((a): VqaAnswer => (typeof a === 'string' ? { answer: a } : a));
  const normalize = rule === 'open-flamingo' || new Set(records.map((r) => cleaned(r.answer))).size > 1;
  const clean = normalize ? normalizeVqaAnswer : cleaned;
  const given = clean(prediction);
  const known = records.map((record) => ({ ...record, answer: clean(record.answer) }));
  const keys = known.map((record, i) => (rule === 'vqa' ? String(i) : recordKey(record)));
  const worth = keys.map((key) => {
    const matches = known.filter((other, i) => keys[i] !== key && other.answer === given).length;
    return Math.min(1, matches / 3);
  });
  return worth.reduce((a, b) => a + b, 0) / worth.length;
}

/**
 * Lower case, number words as digits, no articles, contractions with their apostrophes, no punctuation. Reproduces the
 * benchmark's own program with all its quirks, because every published number depends on them.
 */
export function normalizeVqaAnswer(text: string): string {
  return words(processPunctuation(text).toLowerCase())
    .map((word) => DIGITS.get(word) ?? word)
    .filter((word) => !ARTICLES.has(word))
    .map((word) => CONTRACTIONS.get(word) ?? word)
    .join(' ');
}

/**
 * The first step of the normalization. Replaces a punctuation character with a space, or removes all of its kind if one of
 * them is next to a space anywhere in the text, or if the text has a comma between digits. Removes a full stop unless a
 * digit follows, up to 32 of them.
 */
export function processPunctuation(text: string): string {
  const clean = cleaned(text);
  const hasNumberWithComma = /\p{Nd},\p{Nd}/u.test(clean);
  let out = clean;
  for (const mark of MARKS) {
    const vanishes = hasNumberWithComma || clean.includes(`${mark} `) || clean.includes(` ${mark}`);
    out = out.replaceAll(mark, vanishes ? '' : ' ');
  }
  let stops = 0;
  return out.replace(/\.(?!\p{Nd})/gu, (stop) => (++stops > 32 ? stop : ''));
}

const MARKS = [
  ';',
  '/',
  '[',
  ']',
  '"',
  '{',
  '}',
  '(',
  ')',
  '=',
  '+',
  '\\',
  '_',
  '-',
  '>',
  '<',
  '@',
  '`',
  ',',
  '?',
  '!',
];

const ARTICLES = new Set(['a', 'an', 'the']);

const DIGITS = new Map([
  ['none', '0'],
  ...'zero one two three four five six seven eight nine ten'
    .split(' ')
    .map((word, i): [string, string] => [word, `${i}`]),
]);

/** Contractions that the metric repairs when their only apostrophe, or one of several, is missing. */
const REPAIRED =
  "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd've how'd " +
  "how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock " +
  "oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've " +
  "someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd " +
  "they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd " +
  "where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all " +
  "y'all'll y'all'd've you'd you'd've you'll you're you've he'd he's 'ow's'at";

const CONTRACTIONS = new Map([
  ...REPAIRED.split(' ').flatMap((word) =>
    [...word.matchAll(/'/g)].map(({ index }): [string, string] => [word.slice(0, index) + word.slice(index + 1), word]),
  ),
  // The only entry that removes an apostrophe.
  ["somebody'd", 'somebodyd'],
]);

function cleaned(text: string): string {
  return text.replace(/[\n\t]/g, ' ').replace(new RegExp(`^${SPACE}+|${SPACE}+$`, 'g'), '');
}

function words(text: string): string[] {
  return text.split(new RegExp(`${SPACE}+`)).filter((word) => word !== '');
}

/** White space by Python's definition, as the benchmark's program is in Python: with four separators and NEL, without U+FEFF. */
const SPACE = '[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]';

/** Equal for records with equal fields, in any order. */
function recordKey(record: VqaAnswer): string {
  return JSON.stringify(Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1)));
}
