import type { Element } from './html';

/** What an element holds, itself and all below. Lengths in characters without white space. */
export interface Measure {
  text: number;
  linkText: number;
  links: number;
  images: number;
  /** Longest text outside links that stands in one block. */
  longestPlain: number;
  buttons: number;
  /** Whether the word cookie occurs. */
  cookies: boolean;
}

const UNREAD = new Set(
  `script style template iframe frame object embed svg canvas audio video map head title link meta button select option
   optgroup input textarea datalist progress meter rp rt applet`.split(/\s+/),
);

/** Whether an element never holds readable text of the page: a script, a mark beside a heading that links to it (¶). */
export function isUnread({ name, attributes, children }: Element): boolean {
  if (name !== 'a') return UNREAD.has(name);
  const [text] = children;
  const isMark = children.length === 1 && typeof text === 'string' && PERMALINK.test(text);
  return isMark && attributes['href']?.includes('#') === true;
}

const PERMALINK = /^\s*[¶#§∞⚓🔗][\u{fe0e}\u{fe0f}]?\s*$/u;

/** Elements that start a new line. */
export const BLOCKS = new Set(
  `address article aside blockquote body center dd details dialog dir div dl dt fieldset figcaption figure footer form
   h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu nav ol p pre section summary table tbody td tfoot th
   thead tr ul caption`.split(/\s+/),
);

/** Characters of a text that are no white space. */
export function lengthWithoutSpaces(text: string): number {
  let length = text.length;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === 32 || (code >= 9 && code <= 13)) length--;
    else if (code >= 160) return text.replace(/\s+/g, '').length;
  }
  return length;
}

/** Measures every element once, from the leaves up. */
export function measure(root: Element): Map<Element, Measure> {
  const measures = new Map<Element, Measure>();
  // `plain` gives the text outside links of the block around: inline elements add to it, blocks start their own.
  const visit = (element: Element, inLink: boolean): { own: Measure; plain: number } => {
    const own: Measure = { text: 0, linkText: 0, links: 0, images: 0, longestPlain: 0, buttons: 0, cookies: false };
    let plain = 0;
    for (const child of element.children) {
      if (typeof child === 'string') {
        const length = lengthWithoutSpaces(child);
        own.text += length;
        if (inLink) own.linkText += length;
        else plain += length;
        if (/cookie/i.test(child)) own.cookies = true;
        continue;
      }
      if (child.name === 'button') own.buttons++;
      if (child.name === 'img') own.images++;
      if (isUnread(child) || child.name === 'noscript') continue;
      const isLink = child.name === 'a' && child.attributes['href'] !== undefined;
      const { own: below, plain: belowPlain } = visit(child, inLink || isLink);
      own.text += below.text;
      own.linkText += below.linkText;
      own.links += below.links + (isLink ? 1 : 0);
      own.images += below.images;
      own.buttons += below.buttons;
      own.cookies ||= below.cookies;
      own.longestPlain = Math.max(own.longestPlain, below.longestPlain);
      if (!BLOCKS.has(child.name)) plain += belowPlain;
    }
    own.longestPlain = Math.max(own.longestPlain, plain);
    measures.set(element, own);
    return { own, plain };
  };
  visit(root, false);
  return measures;
}

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

/** Words of class names and ids, as designers and the usual systems use them. */
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

/** An element that holds more of the page's text than this is the page, whatever it is called. */
const TOO_MUCH_TO_DROP = 0.4;
const NEVER_DROPPED = new Set(['#root', 'html', 'body', 'main', 'article', 'h1', 'img', 'picture', 'br']);

/**
 * Why an element is no part of what a reader came for; undefined where it is.
 *
 * @param inContent whether it stands within `<main>` or `<article>`, where a header is the article's own
 */
export function boilerplateReason(
  element: Element,
  size: Measure,
  pageText: number,
  inContent: boolean,
): string | undefined {
  const { name, attributes } = element;
  if (NEVER_DROPPED.has(name)) return undefined;
  if (size.text <= TOO_MUCH_TO_DROP * pageText) {
    if (isHidden(attributes)) return 'hidden';
    const byElement = ELEMENT_REASONS[name] ?? (name === 'header' && !inContent ? 'header' : undefined);
    const byRole = ROLE_REASONS[attributes['role']?.toLowerCase() ?? ''];
    const reason = byElement ?? byRole ?? reasonOfNames(attributes['class']) ?? reasonOfNames(attributes['id']);
    if (reason) return reason;
    if (size.cookies && size.text < 1200 && size.buttons + size.links > 0 && isConsent(element)) return 'cookie banner';
  }
  // Many links with nothing but scraps between them: menus without a name, tag clouds, lists of other pages.
  if (BLOCKS.has(name) && size.links >= 3 && size.linkText > 0.5 * size.text && size.longestPlain < 80) {
    return 'link farm';
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

/** What names were found to say: those of a site come again on each of its pages. */
const namesKnown = new Map<string, string | undefined>();
const MAX_NAMES_KNOWN = 10_000;

function reasonOfNames(names = ''): string | undefined {
  if (names === '' || namesKnown.has(names)) return namesKnown.get(names);
  const words = names
    .slice(0, 500)
    .replace(/(?:sr|screen)-(?:only|reader)|visually-hidden|skip-link|cookie-law/gi, (found) => found.replace('-', ''))
    .replace(/([a-z])([A-Z])/g, '$1-$2')
    .toLowerCase()
    // Numbers end a word, as in nav2 and ad-300x250; letters among digits are none: generated names are full of them.
    .split(/(?:\d[\dx]*)?(?:[^a-z\d]+|$)/);
  const reason = words.map((word) => NAME_REASONS.get(word)).find((found) => found);
  if (namesKnown.size >= MAX_NAMES_KNOWN) namesKnown.clear();
  if (names.length <= 200) namesKnown.set(names, reason);
  return reason;
}

function isConsent(element: Element): boolean {
  return /(?:we|site|website|page) (?:also )?uses? (?:\w+ )?cookies|(?:accept|allow|manage|decline) (?:all |the |our )?cookies|cookie (?:policy|settings|preferences|notice)/i.test(
    plainText(element),
  );
}

/** All text below an element in one line, without what is never read. */
export function plainText(element: Element): string {
  const pieces: string[] = [];
  const visit = (e: Element) => {
    for (const child of e.children) {
      if (typeof child === 'string') pieces.push(child);
      else if (!isUnread(child) && child.name !== 'noscript') {
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

/** A whole block of nothing but this is furniture of the page. */
const FURNITURE =
  /^(?:(?:©|\(c\)|copyright\b).{0,160}|all rights reserved\.?|(?:read|learn|show|see|view|load) more\.{0,3}|skip to (?:main )?content|advertisement|share(?: this)?(?: (?:page|article|post|on .{1,20}))?|back to top|click here(?: to .{1,40})?|print this page|(?:leave|add|post) a (?:comment|reply)|sign (?:in|up)|log ?in|subscribe|table of contents|contents|(?:prev(?:ious)?|next|home|up)(?: (?:page|post|article))?|\d+ comments?|[«»‹›<>←→↑|•·\s]+)$/i;

export function isFurniture(text: string): boolean {
  return text.length < 200 && FURNITURE.test(text);
}
