import { expect, it } from 'vitest';
import { c4Line, c4Page, gopherQuality, gopherRepetition, obelicsText } from '../src/filters/text-quality';
import { textKey, minHashBands, urlKey } from '../src/filters/fingerprints';
import { extractPage, tidyParts } from '../src/pages/extract';
import { PageError } from '../src/pages/html';
import { decodePage } from '../src/pages/encoding';
import { declaredSize, parseSrcset } from '../src/pages/images';
import { cleanText, collapse, comparable } from '../src/pages/text';

const MIB = 2 ** 20;
const spaces = (n: number) => ' '.repeat(n);
const repeat = (text: string, n: number) => text.repeat(Math.ceil(n / text.length)).slice(0, n);

/** CPU time of one call in milliseconds: other processes share the machine. */
function cpuMs(work: () => void): number {
  const before = process.cpuUsage();
  work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}

/**
 * Eight times the input may take little more than eight times as long: quadratic work takes 64 times as long. Short times
 * are mostly noise and garbage collection, so the input grows until a call takes long enough, up to the largest page.
 */
function expectLinear(work: (bytes: number) => () => void): void {
  for (let bytes = 2 ** 14; ; bytes *= 4) {
    const small = cpuMs(work(bytes));
    if (small < 20 && bytes < MIB) continue;
    const large = work(Math.min(8 * bytes, 8 * MIB - 2 ** 16));
    const ratio = () => cpuMs(large) / Math.max(small, 20);
    const first = ratio();
    expect(first < 30 ? first : ratio(), `${bytes} bytes: ${small} ms`).toBeLessThan(30);
    return;
  }
}

const page = (html: string) => () => {
  try {
    extractPage(html, { url: 'https://e.org/' });
  } catch (error) {
    if (!(error instanceof PageError)) throw error;
  }
};

it.each<[string, (n: number) => string]>([
  ['spaces in a pre', (n) => `<pre>a${spaces(n)}b</pre>`],
  ['lines of spaces in a pre', (n) => `<pre>a${repeat(' \n ', n)}b</pre>`],
  ['spaces in text', (n) => `<p>a${spaces(n)}b</p>`],
  ['spaces in separate elements', (n) => `<p>a${repeat('<b> </b>', n)}b</p>`],
  ['spaces between line breaks', (n) => `<p>a${repeat(' <br> ', n)}b</p>`],
  [
    'a <picture> with many sources',
    (n) => `<picture>${repeat('<source srcset="a.avif 2x">', n)}<img src="a.png"></picture>`,
  ],
  [
    'a <picture> with many sources and images',
    (n) => {
      return `<picture>${repeat('<source srcset="a">', n / 2)}${repeat('<img src=a>', n / 2)}</picture>`;
    },
  ],
  ['nested <picture> elements', (n) => '<picture>'.repeat(400) + repeat('<source srcset=a><img src=b>', n)],
  ['a srcset of commas', (n) => `<img srcset="${repeat(' ,', n)}">`],
  ['a srcset of one URL', (n) => `<img srcset="a${repeat(',', n)}b">`],
  ['a srcset of spaces', (n) => `<img srcset="a${spaces(n)}1${spaces(n)}">`],
  ['many data attributes', (n) => `<img ${Array.from({ length: n / 20 }, (_, i) => `data-${i}="a.jpg"`).join(' ')}>`],
  ['a long width', (n) => `<img src="a.png" width="1${spaces(n)}x">`],
  ['a long style', (n) => `<p style="${repeat('; display', n)}">a</p>`],
  ['a long class', (n) => `<p class="${repeat('a1 ', n)}">a</p><p class="${repeat('1x', n)}">a</p>`],
  ['long words about cookies', (n) => `<div>we use ${repeat('cookie ', n)}<a href=a>b</a></div>`],
  ['nested banners', (n) => '<div>'.repeat(400) + `cookies <button>` + repeat('<i></i>', n)],
  ['nested figures', (n) => '<div class="figure">'.repeat(400) + repeat('<i></i>', n) + '<img src=a><pre>a</pre>'],
  ['nested tables', (n) => '<table><tr><td>'.repeat(150) + repeat('<i></i>', n)],
  ['nested lists', (n) => '<ul>'.repeat(400) + repeat('<li>a', n)],
  ['nested superscripts', (n) => 'x' + '<sup>'.repeat(400) + repeat('a b ', n)],
  ['nested roots', (n) => `<math>${'<msqrt>'.repeat(400)}<mi>${repeat('a ', n)}</mi></math>`],
  ['nested wrappers of formulas', (n) => '<span class="MathJax">'.repeat(400) + repeat('<i></i>', n)],
  ['nested headings with buttons', (n) => repeat('<h2><button>a</button>', n)],
  ['a permalink of spaces', (n) => `<a href="#">${spaces(n)}</a>`],
  ['sections named by headings', (n) => repeat('<section id="menu"><h2>a</h2>', n)],
  ['metas', (n) => repeat('<meta name="robots" content="a, b, c">', n)],
  ['comments that never end', (n) => repeat('<!-- ', n)],
  ['one word', (n) => `<p>${repeat('a', n)}</p>`],
  ['combining marks', (n) => `<p>a${repeat('\u0301\u0327', n)}</p>`],
])('extractPage takes time proportional to %s', { timeout: 600_000 }, (_, make) => {
  expectLinear((n) => page(make(n)));
});

const obelics = obelicsText({
  minWords: 1,
  maxWords: Infinity,
  characterRepetition: 1,
  wordRepetition: 1,
  specialCharacters: 1,
  stopWords: 0,
  punctuation: 0,
  minWordsForPunctuation: 0,
});
const worst: [string, (n: number) => string][] = [
  ['spaces', (n) => `a${spaces(n)}b`],
  ['lines of spaces', (n) => `a${repeat('  \n', n)}b`],
  ['punctuation within a word', (n) => `a${repeat('!', n)}b`],
  ['dots', (n) => repeat('. ... ', n)],
  ['words', (n) => repeat('the bees of the hill ', n)],
  ['combining marks', (n) => `a${repeat('\u0301\u0327', n)}b`],
  ['one word', (n) => repeat('ä', n)],
  ['dashes', (n) => `a${repeat('—', n)}b`],
  ['letters of other scripts', (n) => repeat('ä ö中文 ', n)],
];
const functions: [string, (text: string) => unknown][] = [
  ['cleanText', cleanText],
  ['collapse', collapse],
  ['comparable', comparable],
  ['tidyParts', (text) => tidyParts([{ text }])],
  ['gopherQuality', gopherQuality],
  ['gopherRepetition', gopherRepetition],
  ['obelicsText', obelics],
  ['c4Line', c4Line],
  ['c4Page', c4Page],
  ['textKey', textKey],
  ['minHashBands', minHashBands],
  ['parseSrcset', parseSrcset],
  [
    'declaredSize',
    (text) => declaredSize({ name: 'img', attributes: { width: `1${text}`, style: text }, children: [] }),
  ],
];
it.each(functions)('%s takes time proportional to its text', { timeout: 600_000 }, (_, of) => {
  for (const [, make] of worst) {
    expectLinear((n) => {
      const text = make(n);
      return () => of(text);
    });
  }
});

it.each<[string, (n: number) => string]>([
  ['comments that never end', (n) => repeat('<!-- ', n)],
  ['attributes', (n) => `<meta ${repeat('a = ', n)}`],
  ['spaces', (n) => `<meta http-equiv=content-type content="charset${spaces(n)}`],
  ['style sheets', (n) => repeat('<style></style>', n)],
  ['bytes that are not UTF-8', (n) => repeat('\xff\xe2\x82', n)],
])('decodePage takes time proportional to %s', { timeout: 600_000 }, (_, make) => {
  expectLinear((n) => {
    // A page that is not UTF-8 is searched further for a `<meta>`.
    const bytes = Buffer.from(`${make(n)}${'\xff'.repeat(9)}`, 'latin1');
    return () => decodePage(bytes, `text/html;${spaces(500)}charset`);
  });
});

it('urlKey takes time proportional to the parameters', { timeout: 600_000 }, () => {
  expectLinear((n) => {
    const url = `https://e.org/?${Array.from({ length: n / 10 }, (_, i) => `utm_${i}=a`).join('&')}`;
    return () => urlKey(url);
  });
});
