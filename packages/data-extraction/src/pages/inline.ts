import type { Element } from './html';

/**
 * Plain text of an inline element whose layout carries meaning: `10<sup>-12</sup>` becomes 10^-12, `a<sub>i</sub>` a_i,
 * MathML and KaTeX one line of text (`(a + b)/2`), and the image of a formula its alternative text. Undefined for any
 * other element, empty for a footnote number.
 *
 * @param before text in front of the element: an exponent needs a base
 * @param textOf returns the plain text of an element
 */
export function inlineText(element: Element, before: string, textOf: (element: Element) => string): string | undefined {
  const { name, attributes } = element;
  if (name === 'sup' && isFootnoteReference(element)) return '';
  if (name === 'sup' || name === 'sub') {
    if (!isSmall(element, 500)) return undefined;
    return name === 'sup' ? superscript(textOf(element), before) : subscript(textOf(element), before);
  }
  if (name === 'math') return mathText(element, textOf);
  if (name === 'img') return isFormula(element) ? formulaOf(attributes['alt']!) : undefined;
  if (name === 'script') {
    // TeX that a script has not rendered yet.
    const isTex = /^math\/tex\b/i.test(attributes['type'] ?? '') && !/^MathJax-Element/.test(attributes['id'] ?? '');
    return isTex ? element.children.filter((child) => typeof child === 'string').join('') : undefined;
  }
  if (name !== 'mjx-container' && !MATH_NAMES.test((attributes['class'] ?? '').slice(0, 500))) return undefined;
  if (/\bMathJax_Preview\b/.test(attributes['class'] ?? '')) return '';
  const math = findMath(element);
  if (math) return mathText(math, textOf);
  return /\bkatex\b/.test(attributes['class'] ?? '') && isSmall(element, 5000) ? textOf(element) : undefined;
}

/** Wrappers that hold a formula twice: as MathML for machines and as an image or styled text for readers. */
const MATH_NAMES = /(?:^|\s)(?:katex|mwe-math-element|MathJax(?:_Preview|_SVG|_CHTML)?)(?:\s|$)/;

/** Maximum elements and characters of a formula. Larger ones are hostile and become plain text. */
const MAX_FORMULA = 20_000;

/** Whether an element has at most `limit` descendants and characters together. */
function isSmall(element: Element, limit: number): boolean {
  const stack = [element];
  let size = 0;
  for (let next = stack.pop(); next; next = stack.pop()) {
    for (const child of next.children) {
      size += typeof child === 'string' ? child.length : 1;
      if (size > limit) return false;
      if (typeof child !== 'string') stack.push(child);
    }
  }
  return true;
}

/** The first `<math>` below a wrapper. Wrappers are small: the search gives up after a few hundred elements. */
function findMath(element: Element): Element | undefined {
  const stack = [element];
  let seen = 0;
  for (let next = stack.pop(); next && seen < 500; next = stack.pop(), seen++) {
    if (next.name === 'math') return next;
    if (next.children.length > 500) continue;
    for (const child of [...next.children].reverse()) if (typeof child !== 'string') stack.push(child);
  }
  return undefined;
}

function isFootnoteReference({ attributes, children }: Element): boolean {
  if (/\breference\b|\bfootnote/.test((attributes['class'] ?? '').slice(0, 500))) return true;
  const elements = children.filter((child) => typeof child !== 'string');
  const href = elements[0]?.name === 'a' ? elements[0].attributes['href'] : undefined;
  return elements.length === 1 && href?.startsWith('#') === true;
}

function superscript(text: string, before: string): string {
  if (!/[\p{L}\p{N})\]}|!'′″]$/u.test(before.slice(-2))) return text;
  if (/\d$/.test(before.slice(-1)) && /^(?:st|nd|rd|th|er?|re|o|a|[ºª])$/i.test(text)) return text;
  return text === '' || /^(?:tm|sm|[™®©℠*†‡§]+)$/i.test(text) ? text : `^${grouped(text)}`;
}

/** Subscripts of chemical formulas and of names stay plain: H2O, log2. */
function subscript(text: string, before: string): string {
  if (text === '' || !/[\p{L}\p{N})\]}|]$/u.test(before.slice(-2))) return text;
  return /[\p{L})\]]$/u.test(before.slice(-2)) && /^\d+$/.test(text) ? text : `_${grouped(text)}`;
}

function grouped(text: string): string {
  return /^(?:[+\-−–]?[\p{L}\p{N}.,′'*]+|.)$/u.test(text.slice(0, 100)) && text.length <= 100 ? text : `(${text})`;
}

const FORMULA_NAMES = /(?:^|[\s_-])(?:math|tex|latex|equation|formula|mwe-math[\w-]*)(?:[\s_-]|$)/i;

/** Whether an image shows a formula that is also its alternative text. */
function isFormula({ attributes }: Element): boolean {
  const alt = attributes['alt']?.trim() ?? '';
  if (alt === '' || alt.length > 2000) return false;
  return (
    FORMULA_NAMES.test((attributes['class'] ?? '').slice(0, 500)) || /^(?:\$|\\[a-z([]|\{\\displaystyle)/.test(alt)
  );
}

function formulaOf(alt: string): string {
  const text = alt.trim();
  if (text.startsWith('{\\displaystyle') && text.endsWith('}')) return text.slice('{\\displaystyle'.length, -1).trim();
  return text.length > 2 && text.startsWith('$') && text.endsWith('$') ? text.replace(/^\$+|\$+$/g, '') : text;
}

/** One line of text for a MathML element. */
function mathText(math: Element, textOf: (element: Element) => string): string {
  if (!isSmall(math, MAX_FORMULA)) return textOf(math);
  const text = tidyMath(linear(math));
  return text === '' ? (math.attributes['alttext'] ?? '').trim() : text;
}

function tidyMath(text: string): string {
  return text
    .replace(/\s+/g, ' ')
    .replace(/([([{]) /g, '$1')
    .replace(/ ([)\]},;])/g, '$1')
    .trim();
}

const SPACED = /^(?:[=<>≤≥≠≈≡∼≃≅±∓×÷∈∉⊂⊆⊃⊇∪∩∧∨→←↔⇒⇐⇔↦∝]|:=|==|!=|<=|>=)$/;
const LARGE = /^[∑∏∐∫∬∭∮⋃⋂⨁⨂]$/;

function linear(element: Element): string {
  const parts = element.children.filter((child) => typeof child !== 'string');
  const at = (index: number) => {
    const part = parts[index];
    return part ? tidyMath(linear(part)) : '';
  };
  switch (element.name) {
    case 'annotation':
    case 'annotation-xml':
    case 'mphantom':
      return '';
    case 'semantics':
      return parts[0] ? linear(parts[0]) : '';
    case 'mspace':
      return ' ';
    case 'mi':
    case 'mn':
    case 'ms':
    case 'mtext':
    case 'mo':
      return leaf(element);
    case 'mfrac':
      return `${operand(at(0))}/${operand(at(1))}`;
    case 'msqrt':
      return `sqrt(${tidyMath(row(element))})`;
    case 'mroot':
      return `${operand(at(0))}^(1/${operand(at(1))})`;
    case 'msup':
      return script(at(0), '', at(1));
    case 'msub':
    case 'munder':
      return script(at(0), at(1), '');
    case 'mover':
      return /^[^\p{L}\p{N}\s]$/u.test(at(1)) ? at(0) + at(1) : script(at(0), '', at(1));
    case 'msubsup':
    case 'munderover':
      return script(at(0), at(1), at(2));
    case 'mfenced':
      return `${element.attributes['open'] ?? '('}${parts.map((_, i) => at(i)).join(', ')}${element.attributes['close'] ?? ')'}`;
    case 'mtr':
      return parts.map((_, i) => at(i)).join(', ');
    case 'mtable':
      return parts.map((_, i) => at(i)).join('; ');
    default:
      return row(element);
  }
}

function leaf({ name, children }: Element): string {
  const text = children
    .filter((child) => typeof child === 'string')
    .join('')
    .replace(/[\u2061-\u2064\u200b]/g, '')
    .trim();
  if (name === 'mtext') return ` ${text} `;
  // Separates the name of a function from its argument.
  return name === 'mi' && text.length > 1 ? ` ${text} ` : text;
}

function row({ children }: Element): string {
  let text = '';
  for (const child of children) {
    if (typeof child === 'string') continue;
    const part = linear(child);
    const isOperator = child.name === 'mo';
    if (isOperator && SPACED.test(part)) text += ` ${part} `;
    else if (isOperator && /^[+\-−]$/.test(part) && /[\p{L}\p{N})\]}|!′]\s*$/u.test(text.slice(-20)))
      text += ` ${part} `;
    else if (isOperator && /^[,;]$/.test(part)) text += `${part} `;
    else text += part;
  }
  return text;
}

function operand(text: string): string {
  return /^[\p{L}\p{N}.′]+$/u.test(text) || text.length === 1 || isWrapped(text) ? text : `(${text})`;
}

/** Whether one pair of parentheses encloses the whole text. */
function isWrapped(text: string): boolean {
  if (!text.startsWith('(')) return false;
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    if (text[i] === '(') depth++;
    else if (text[i] === ')' && --depth === 0) return i === text.length - 1;
  }
  return false;
}

function script(base: string, below: string, above: string): string {
  const isLarge = LARGE.test(base);
  const body = isLarge || /^[\p{L}\p{N}.′]*$/u.test(base) || isWrapped(base) || base.length === 1 ? base : `(${base})`;
  return body + (below && `_${grouped(below)}`) + (above && `^${grouped(above)}`) + (isLarge ? ' ' : '');
}
