import { describe, expect, it } from 'vitest';
import { extractPage, tidyParts } from './extract';

const read = (body: string) =>
  tidyParts(extractPage(`<p>${body}</p>`, { url: 'https://e.org/' }).parts)
    .map((part) => ('text' in part ? part.text : `<${part.image.alt}>`))
    .join('');

describe('superscripts and subscripts', () => {
  it.each([
    ['10<sup>-12</sup> m', '10^-12 m'],
    ['10<sup>−12</sup> m', '10^−12 m'],
    ['x<sup>2</sup> + y<sup>2</sup>', 'x^2 + y^2'],
    ['2<sup>n + 1</sup>', '2^(n + 1)'],
    ['(a + b)<sup>2</sup>', '(a + b)^2'],
    ['e<sup>x<sup>2</sup></sup>', 'e^(x^2)'],
    ['the 1<sup>st</sup> of May', 'the 1st of May'],
    ['Linux<sup>®</sup> and Word<sup>TM</sup>', 'Linux® and WordTM'],
    ['H<sub>2</sub>O', 'H2O'],
    ['a<sub>i</sub> and a<sub>i+1</sub>', 'a_i and a_(i+1)'],
    ['1010<sub>2</sub>', '1010_2'],
    ['log<sub>2</sub> n', 'log2 n'],
    ['It works<sup class="reference"><a href="#n1">[1]</a></sup>.', 'It works.'],
    ['It works<sup><a href="#fn1">1</a></sup>.', 'It works.'],
    ['E<b>=</b>mc<sup><i>2</i></sup>', 'E=mc^2'],
  ])('%s', (html, text) => expect(read(html)).toBe(text));

  it('are converted in tables and captions too', () => {
    const table = '<table><tr><th>a</th><th>b</th></tr><tr><td>10<sup>6</sup></td><td>H<sub>2</sub></td></tr></table>';
    expect(read(`A</p>${table}<p>B`)).toContain('10^6 | H2');
    const [image] = extractPage('<figure><img src="a.png"><figcaption>10<sup>6</sup> bees</figcaption></figure>', {
      url: 'https://e.org/',
    }).parts;
    expect(image).toMatchObject({ image: { caption: '10^6 bees' } });
  });
});

const mathml = {
  power: '<msup><mi>x</mi><mn>2</mn></msup>',
  fraction: '<mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mn>2</mn></mfrac>',
  root: '<msqrt><mrow><mi>a</mi><mo>−</mo><mn>1</mn></mrow></msqrt>',
  sum: '<munderover><mo>∑</mo><mrow><mi>i</mi><mo>=</mo><mn>1</mn></mrow><mi>n</mi></munderover><msub><mi>x</mi><mi>i</mi></msub>',
  sine: '<mi>sin</mi><mo>\u2061</mo><mi>x</mi>',
  negative: '<mi>y</mi><mo>=</mo><mo>-</mo><mn>1</mn>',
};
const katex = (inner: string, tex: string) =>
  `<span class="katex"><span class="katex-mathml"><math><semantics><mrow>${inner}</mrow>
   <annotation encoding="application/x-tex">${tex}</annotation></semantics></math></span>
   <span class="katex-html" aria-hidden="true"><span class="mord">x</span><span>2</span></span></span>`;

describe('formulas', () => {
  it.each([
    [mathml.power, 'x^2'],
    [mathml.fraction, '(a + b)/2'],
    [mathml.root, 'sqrt(a − 1)'],
    [mathml.sum, '∑_(i = 1)^n x_i'],
    [mathml.sine, 'sin x'],
    [mathml.negative, 'y = -1'],
  ])('MathML %s', (inner, text) => expect(read(`Take <math>${inner}</math>.`)).toBe(`Take ${text}.`));

  it.each([
    ['KaTeX, only once', katex(mathml.power, 'x^2')],
    ['displayed KaTeX', `<span class="katex-display">${katex(mathml.power, 'x^2')}</span>`],
    [
      'MathJax 3',
      `<mjx-container><mjx-math aria-hidden="true"></mjx-math><mjx-assistive-mml><math>${mathml.power}</math></mjx-assistive-mml></mjx-container>`,
    ],
    [
      'MathJax 2',
      `<span class="MathJax_Preview">x2</span><span class="MathJax"><nobr aria-hidden="true">x2</nobr><span class="MJX_Assistive_MathML"><math>${mathml.power}</math></span></span><script type="math/tex" id="MathJax-Element-1">x^2</script>`,
    ],
    ['TeX in a script', '<script type="math/tex">x^2</script>'],
    [
      'Wikipedia',
      `<span class="mwe-math-element"><span style="display: none"><math>${mathml.power}</math></span><img class="mwe-math-fallback-image-inline" alt="{\\displaystyle x^{2}}" src="x.svg"></span>`,
    ],
    ['an image with TeX', '<img class="math" src="_images/math/a.png" alt="x^2">'],
    ['an image of Wikipedia', '<img src="x.svg" alt="{\\displaystyle x^2}">'],
    ['alttext', '<math alttext="x^2"></math>'],
  ])('%s', (_, html) => expect(read(`Take ${html}, and wait.`)).toBe('Take x^2, and wait.'));
});

describe('images within sentences', () => {
  const icon = (alt: string) => `<img src="a.png" width="16" alt="${alt}">`;
  it.each([
    [`Press ${icon('Save')} and wait.`, 'Press Save and wait.'],
    [`Press ${icon('')} and wait.`, 'Press and wait.'],
    [`${icon('Warning')} Wait.`, 'Wait.'],
    [icon('Warning'), ''],
    [
      'See <img src="b.png" alt="the hive">, then <img src="b.png" alt="the hive"> again.',
      'See<the hive>, then the hive again.',
    ],
  ])('%s', (html, text) => expect(read(html)).toBe(text));

  it('are still counted', () => {
    expect(extractPage(`<p>Press ${icon('Save')}.</p>`, { url: 'https://e.org/' }).dropped).toEqual({
      'image: icon': 1,
    });
  });
});
