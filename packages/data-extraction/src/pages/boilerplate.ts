import type { Element } from './html';
import { inlineText } from './inline';

/** What an element and its descendants contain. Lengths are in characters without white space. */
export interface Measure {
  text: number;
  linkText: number;
  links: number;
  images: number;
  /** Longest text outside links within one block. */
  longestPlain: number;
  buttons: number;
  /** Whether the word cookie occurs. */
  cookies: boolean;
  /** Whether it contains headings, lists, tables or preformatted text. */
  blocks: boolean;
  /** Whether it contains what a cell of a data table does not: blocks, images or several paragraphs. */
  layout: boolean;
  paragraphs: number;
}

const NON_TEXT = new Set(
  `script style template iframe frame object embed svg canvas audio video map head title link meta button select option
   optgroup input textarea datalist progress meter rp rt applet`.split(/\s+/),
);

/** Whether an element never contains readable text: a script, or the symbol that links to a heading (¶). */
export function isNonText({ name, attributes, children }: Element): boolean {
  if (name !== 'a') return NON_TEXT.has(name);
  const [text] = children;
  const isSign = children.length === 1 && typeof text === 'string' && text.length < 50 && PERMALINK.test(text);
  return isSign && attributes['href']?.includes('#') === true;
}

const PERMALINK = /^\s*[¶#§∞⚓🔗][\u{fe0e}\u{fe0f}]?\s*$/u;

/** Elements that start a new line. */
export const BLOCKS = new Set(
  `address article aside blockquote body center dd details dialog dir div dl dt fieldset figcaption figure footer form
   h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu nav ol p pre section summary table tbody td tfoot th
   thead tr ul caption`.split(/\s+/),
);

/** Counts the characters of a text that are not white space. */
export function lengthWithoutSpaces(text: string): number {
  let length = text.length;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === 32 || (code >= 9 && code <= 13)) length--;
    else if (code >= 160) return text.replace(/\s+/g, '').length;
  }
  return length;
}

/** Measures every element once, bottom up. */
export function measure(root: Element): Map<Element, Measure> {
  const measures = new Map<Element, Measure>();
  // `plain` is the text outside links of the enclosing block: inline elements add to it, blocks start their own.
  const visit = (element: Element, inLink: boolean): { measured: Measure; plain: number } => {
    const measured: Measure = {
      text: 0,
      linkText: 0,
      links: 0,
      images: 0,
      longestPlain: 0,
      buttons: 0,
      cookies: false,
      blocks: false,
      layout: false,
      paragraphs: 0,
    };
    let plain = 0;
    for (const child of element.children) {
      if (typeof child === 'string') {
        const length = lengthWithoutSpaces(child);
        measured.text += length;
        if (inLink) measured.linkText += length;
        else plain += length;
        if (/cookie/i.test(child)) measured.cookies = true;
        continue;
      }
      if (child.name === 'button' || child.name === 'input') measured.buttons++;
      if (child.name === 'img') measured.images++;
      if (child.name === 'p' && ++measured.paragraphs > 1) measured.layout = true;
      if (INNER_BLOCKS.has(child.name)) measured.blocks = measured.layout = true;
      if (/^(?:img|picture|figure)$/.test(child.name)) measured.layout = true;
      if (isNonText(child) || child.name === 'noscript') continue;
      const isLink = child.name === 'a' && child.attributes['href'] !== undefined;
      const { measured: below, plain: belowPlain } = visit(child, inLink || isLink);
      measured.text += below.text;
      measured.linkText += below.linkText;
      measured.links += below.links + (isLink ? 1 : 0);
      measured.images += below.images;
      measured.buttons += below.buttons;
      measured.cookies ||= below.cookies;
      measured.blocks ||= below.blocks;
      measured.paragraphs += below.paragraphs;
      measured.layout ||= below.layout || measured.paragraphs > 1;
      measured.longestPlain = Math.max(measured.longestPlain, below.longestPlain);
      if (!BLOCKS.has(child.name)) plain += belowPlain;
    }
    measured.longestPlain = Math.max(measured.longestPlain, plain);
    measures.set(element, measured);
    return { measured, plain };
  };
  visit(root, false);
  return measures;
}

const INNER_BLOCKS = new Set(['table', 'pre', 'ul', 'ol', 'dl', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6']);

const ELEMENT_REASONS: Readonly<Record<string, string>> = {
  nav: 'navigation',
  menu: 'navigation',
  footer: 'footer',
  aside: 'sidebar',
  dialog: 'dialog',
  form: 'form',
};

const ROLE_REASONS: Readonly<Record<string, string>> = {
  navigation: 'navigation',
  menu: 'navigation',
  menubar: 'navigation',
  banner: 'header',
  contentinfo: 'footer',
  complementary: 'sidebar',
  search: 'form',
  dialog: 'dialog',
  alertdialog: 'dialog',
};

/** Words in class names and ids that designers and common systems use. */
const NAME_REASONS = new Map(
  Object.entries({
    navigation: `nav navbar navbox navigation navheader navfooter navmenu menubar menu submenu breadcrumb breadcrumbs
      sidenav pagination pager toc skiplink editsection catlinks jumplink
      docnav`,
    footer: 'footer printfooter colophon',
    sidebar: 'sidebar',
    'cookie banner': 'cookie cookies cookiebanner cookieconsent gdpr consent ccpa',
    advertisement: 'ad ads advert adverts advertisement adsbygoogle sponsor sponsored promo dfp',
    sharing: 'share sharing sharebar sharedaddy social addthis newsletter subscribe signup',
    'related pages': 'related recommended recommendations',
    dialog: 'modal popup lightbox overlay',
    hidden: 'sronly screenreader visuallyhidden noprint',
  }).flatMap(([reason, names]) => names.split(/\s+/).map((name) => [name, reason] as const)),
);

/** An element with a larger share of the page's text than this is the content of the page, whatever its name. */
const TOO_MUCH_TO_DROP = 0.4;
const NEVER_DROPPED = new Set(['#root', 'html', 'body', 'main', 'article', 'h1', 'img', 'picture', 'br', 'math']);
/** Elements whose id names their purpose. Ids of other elements are link targets, generated from their text. */
const NAMED_BY_ID = new Set(`div section table ul ol header p center fieldset form aside iframe`.split(' '));
/** Reasons that apply only to links and buttons with little text around them. */
const CLICKABLE = new Set(['navigation', 'sharing', 'related pages']);
const PROSE = 80;
/** Asides that documentation systems use for notes within the text. */
const NOTES = /\b(?:admonition|footnotes?|note|tip|hint|important|caution|warning|topic|callout|example)\b/i;

/** The position of an element. */
export interface Place {
  /** Within `<main>` or `<article>`, where a header is the article's own. */
  readonly inContent: boolean;
  readonly inHeading: boolean;
}

/**
 * Returns why an element is not content; undefined if it is.
 *
 * Names are weak evidence. An id counts only if it was not generated from the heading of its element. A name that
 * suggests links counts only if the element has links, or almost no text.
 */
export function boilerplateReason(
  element: Element,
  size: Measure,
  pageText: number,
  { inContent, inHeading }: Place,
): string | undefined {
  const { name, attributes } = element;
  if (NEVER_DROPPED.has(name)) return undefined;
  if (size.text <= TOO_MUCH_TO_DROP * pageText) {
    if (isHidden(attributes)) return 'hidden';
    const isNote = name === 'aside' && NOTES.test((attributes['class'] ?? '').slice(0, 500));
    const byElement = isNote ? undefined : ELEMENT_REASONS[name];
    const byRole = ROLE_REASONS[attributes['role']?.toLowerCase() ?? ''];
    const reason = byElement ?? (name === 'header' && !inContent ? 'header' : byRole);
    if (reason) return reason;
    const byClass = /^h\d$/.test(name) ? undefined : reasonOfNames(attributes['class']);
    const byId = NAMED_BY_ID.has(name) && !inHeading ? reasonOfNames(attributes['id']) : undefined;
    const named = byClass ?? (byId && !isNamedByHeading(element, size) ? byId : undefined);
    if (named && (!CLICKABLE.has(named) || isClickable(name, size))) return named;
    if (!inContent && size.cookies && size.text < 1200 && size.buttons + size.links > 0 && isConsent(element)) {
      return 'cookie banner';
    }
  }
  // Many links with little text between them: unnamed menus, tag clouds, lists of other pages.
  if (BLOCKS.has(name) && size.links >= 3 && size.linkText > 0.5 * size.text && size.longestPlain < PROSE) {
    return 'link farm';
  }
  return undefined;
}

function isClickable(name: string, { text, linkText, links, buttons, longestPlain }: Measure): boolean {
  if (links + buttons === 0) return name !== 'p' && text < 25;
  return longestPlain < PROSE || linkText > 0.5 * text;
}

/** Whether an id was generated from the heading of its element: `related-work` of "3.1 Related work". */
function isNamedByHeading({ attributes, children }: Element, size: Measure): boolean {
  const heading = firstHeading(children, 3);
  if (!heading || size.linkText > 0.5 * size.text) return false;
  const words = (text: string) => text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, '');
  const title = words(plainText(heading).slice(0, 300));
  const id = words((attributes['id'] ?? '').slice(0, 300));
  const plainTitle = title.replace(/^\d+/, '');
  if (id === title || id === plainTitle) return true;
  // Prefixes (`section-`, `user-content-`), numbers at the end, and labels that authors derived from the title.
  return (title.includes(id) || id.includes(plainTitle)) && size.longestPlain >= PROSE;
}

/** The heading that an element begins with, at most `levels` levels down. */
function firstHeading(children: Element['children'], levels: number): Element | undefined {
  for (const child of children.slice(0, 10)) {
    if (typeof child === 'string') {
      if (child.trim() !== '') return undefined;
      continue;
    }
    if (/^h[1-6]$/.test(child.name)) return child;
    const below = levels > 0 ? firstHeading(child.children, levels - 1) : undefined;
    if (below) return below;
  }
  return undefined;
}

function isHidden(attributes: Readonly<Record<string, string>>): boolean {
  return (
    attributes['hidden'] !== undefined ||
    attributes['aria-hidden'] === 'true' ||
    /(?:^|[;\s])(?:display\s*:\s*none|visibility\s*:\s*hidden)/i.test((attributes['style'] ?? '').slice(0, 1000))
  );
}

/** Cached results: a site uses the same names on each of its pages. */
const namesKnown = new Map<string, string | undefined>();
const MAX_NAMES_KNOWN = 10_000;

function reasonOfNames(names = ''): string | undefined {
  if (names === '' || namesKnown.has(names)) return namesKnown.get(names);
  const words = names
    .slice(0, 500)
    .replace(/(?:sr|screen)-(?:only|reader)|visually-hidden|skip-link|cookie-law/gi, (name) => name.replace('-', ''))
    .replace(/([a-z])([A-Z])/g, '$1-$2')
    .toLowerCase()
    // Numbers end a word (nav2, ad-300x250). Letters between digits are not words: generated names are full of them.
    .split(/(?:\d[\dx]*)?(?:[^a-z\d]+|$)/);
  const reason = words.map((word) => NAME_REASONS.get(word)).find(Boolean);
  if (namesKnown.size >= MAX_NAMES_KNOWN) namesKnown.clear();
  if (names.length <= 200) namesKnown.set(names, reason);
  return reason;
}

function isConsent(element: Element): boolean {
  return /(?:we|site|website|page) (?:also )?uses? (?:\w+ )?cookies|(?:accept|allow|manage|decline) (?:all |the |our )?cookies|cookie (?:policy|settings|preferences|notice)/i.test(
    plainText(element),
  );
}

/** Returns the text of an element on one line, without elements that never contain readable text. */
export function plainText(element: Element): string {
  const pieces: string[] = [];
  const visit = (e: Element) => {
    for (const child of e.children) {
      if (typeof child === 'string') {
        pieces.push(child);
        continue;
      }
      const inline = inlineText(child, pieces[pieces.length - 1] ?? '', plainText);
      if (inline !== undefined) pieces.push(inline);
      else if (!isNonText(child) && child.name !== 'noscript') {
        const block = BLOCKS.has(child.name) || child.name === 'br';
        if (block) pieces.push(' ');
        visit(child);
        if (block) pieces.push(' ');
      }
    }
  };
  visit(element);
  return pieces.join('').replace(/\s+/g, ' ').trim();
}

/** A block of text that matches as a whole is not content. */
const BOILERPLATE_TEXT =
  /^(?:(?:copyright\s*)?©.{0,160}|\(c\)\s*(?:copyright|(?:19|20)\d\d).{0,160}|copyright\s*(?:\(c\)|(?:19|20)\d\d).{0,160}|all rights reserved\.?|(?:read|learn|show|see|view|load) more\.{0,3}|skip to (?:main )?content|advertisement|share this(?: (?:page|article|post|on .{1,20}))?|back to top|click here(?: to .{1,40})?|print this page|(?:leave|add|post) a (?:comment|reply)|table of contents|\d+ comments?)$/i;
/** Words that may be content, in headings or as names of keys and menus. They are dropped if they are links. */
const BOILERPLATE_LINK =
  /^(?:share(?: (?:page|article|post|on .{1,20}))?|sign (?:in|up)|log ?in|subscribe|contents|(?:prev(?:ious)?|next|home|up)(?: (?:page|post|article))?)$/i;
const SYMBOLS = /^[«»‹›<>←→↑|•·\s]+$/;
const LIST_TITLE = /^(?:(?:table of )?contents|on this page|navigation)$/i;

/** Whether a block of text is unrelated to the subject of the page. */
export function isBoilerplateText(text: string, isLinked: boolean): boolean {
  return (
    text.length < 200 &&
    (BOILERPLATE_TEXT.test(text) || SYMBOLS.test(text) || (isLinked && BOILERPLATE_LINK.test(text)))
  );
}

/** Whether a heading only introduces a list of links. */
export function isListTitle(text: string): boolean {
  return text.length < 50 && LIST_TITLE.test(text);
}
