import {
  BLOCKS,
  boilerplateReason,
  isBoilerplateText,
  isListTitle,
  isNonText,
  lengthWithoutSpaces,
  measure,
  plainText,
  type Measure,
} from './boilerplate';
import { decodePage } from './encoding';
import { PAGE_LIMITS, PageError, parseHtml, type Element } from './html';
import { inlineText } from './inline';
import { optedOut } from './opt-out';
import { declaredSize, imageSources, type ImageRef } from './images';
import { cleanText, collapse, comparable, wordsOf } from './text';

export type PagePart = { readonly text: string } | { readonly image: ImageRef };

/** The content of a page, in the order of its markup. */
export interface ExtractedPage {
  readonly title: string;
  /** As the page declares it, such as `en` or `pt-BR`. Empty if it declares none. */
  readonly language: string;
  readonly parts: readonly PagePart[];
  /** Number of dropped blocks and images by reason, such as `block: navigation` or `image: icon`. */
  readonly dropped: Readonly<Record<string, number>>;
}

export interface ExtractOptions {
  /** URL of the page. Relative URLs are resolved against it. */
  readonly url: string;
  /** `Content-Type` header of the page. */
  readonly contentType?: string;
  /** An image that the page displays smaller than this on either side is an icon. Defaults to 64, the paper's minimum. */
  readonly minSide?: number;
}

/** An image that is not kept. Its alternative text replaces it within a sentence. */
interface RemovedImage {
  readonly inlineAlt: string;
}

type Piece = string | ImageRef | RemovedImage;

interface Block {
  readonly kind: 'text' | 'heading' | 'row' | 'pre';
  /** Level of a heading, 1 to 6. */
  readonly level: number;
  /** Bullet and indentation. */
  readonly prefix: string;
  /** Whether no empty line precedes it. */
  readonly tight: boolean;
  readonly pieces: Piece[];
  /** Characters in links. */
  linked: number;
}

/** The position in the tree. */
interface Context {
  readonly inLink: boolean;
  readonly inPre: boolean;
  readonly inContent: boolean;
  readonly inHeading: boolean;
  /** Enclosing lists, from the outside in. `next` is the number of the next item, undefined for bullets. */
  readonly lists: readonly { next: number | undefined }[];
}

/**
 * Extracts text and images of a page in the order of its markup. Drops navigation, footers, banners, lists of links, and
 * what the page contains twice. Captions and alternative texts stay with their images.
 *
 * @param page the bytes of the page, or its text
 * @throws PageError for a page that exceeds `PAGE_LIMITS` or opts out of machine learning
 */
export function extractPage(page: Uint8Array | string, options: ExtractOptions): ExtractedPage {
  if (page.length > PAGE_LIMITS.bytes) throw new PageError('too large');
  const html = typeof page === 'string' ? page : decodePage(page, options.contentType);
  return new Extraction(parseHtml(html), options).run();
}

class Extraction {
  private readonly blocks: Block[] = [];
  private readonly dropped: Record<string, number> = {};
  private readonly measures: Map<Element, Measure>;
  private readonly pageText: number;
  private readonly minSide: number;
  private base: string;
  private language = '';
  private title = '';
  private block: Block | undefined;
  private readonly imagesSeen = new Set<string>();
  /** How many images show a URL until a script loads them. A URL that several images show is a placeholder. */
  private readonly substitutes = new Map<string, number>();

  constructor(
    private readonly root: Element,
    { url, minSide = 64 }: ExtractOptions,
  ) {
    this.base = url;
    this.minSide = minSide;
    this.measures = measure(root);
    this.pageText = this.measures.get(root)!.text;
  }

  run(): ExtractedPage {
    this.readHead();
    this.children(this.root, { inLink: false, inPre: false, inContent: false, inHeading: false, lists: [] });
    this.endBlock();
    const parts = joinBlocks(this.keptBlocks()).map((part) =>
      'text' in part ? part : { image: this.withoutPlaceholders(part.image) },
    );
    return { title: this.title, language: this.language, parts, dropped: this.dropped };
  }

  private withoutPlaceholders(image: ImageRef): ImageRef {
    const sources = image.sources.filter((url) => (this.substitutes.get(url) ?? 0) < 2);
    return sources.length === image.sources.length || sources.length === 0 ? image : { ...image, sources };
  }

  /** Reads title, language and base URL, wherever broken markup has put them. */
  private readHead(): void {
    const visit = (element: Element, depth: number) => {
      const { name, attributes } = element;
      if (name === 'html') this.language ||= (attributes['lang'] ?? attributes['xml:lang'] ?? '').trim().slice(0, 35);
      if (name === 'meta' && optedOut((header) => metaHeader(attributes, header))) throw new PageError('opted out');
      if (name === 'title' && this.title === '') this.title = collapse(cleanText(plainText(element))).trim();
      if (name === 'base' && attributes['href']) {
        try {
          this.base = new URL(attributes['href'], this.base).href;
        } catch {
          // Ignore an invalid URL.
        }
      }
      if (depth < 4) for (const child of element.children) if (typeof child !== 'string') visit(child, depth + 1);
    };
    visit(this.root, 0);
  }

  private drop(reason: string, times = 1): void {
    this.dropped[reason] = (this.dropped[reason] ?? 0) + times;
  }

  private children(element: Element, context: Context): void {
    for (const child of element.children) {
      if (typeof child === 'string') this.text(child, context);
      else this.element(child, context);
    }
  }

  private element(element: Element, context: Context): void {
    const { name } = element;
    const before = this.block?.pieces.at(-1);
    const inline = inlineText(element, typeof before === 'string' ? before : '', plainText);
    if (inline !== undefined) return this.text(inline, context);
    if (isNonText(element)) return;
    const size = this.measures.get(element);
    if (size) {
      const reason = boilerplateReason(element, size, this.pageText, context);
      if (reason) {
        if (size.text + size.images > 0) this.drop(`block: ${reason}`);
        // Keep the words on both sides separate.
        if (!BLOCKS.has(name)) return this.text(' ', context);
        this.endBlock();
        if (reason === 'navigation' || reason === 'link farm') this.dropListTitle();
        return;
      }
    }
    if (size && isFigure(element, size, this.pageText)) return this.figure(element, context);
    switch (name) {
      case 'br':
        return this.lineBreak();
      // Contains the image that a script would load. Its text only asks readers to enable scripts.
      case 'noscript':
      case 'img':
      case 'picture':
        return this.images(element);
      case 'a':
        return this.children(element, {
          ...context,
          inLink: context.inLink || element.attributes['href'] !== undefined,
        });
      case 'pre':
        this.startBlock({ kind: 'pre' }, context);
        this.children(element, { ...context, inPre: true });
        return this.endBlock();
      case 'ul':
      case 'ol':
      case 'dir':
        return this.list(element, context);
      case 'li':
        return this.item(element, context);
      case 'table':
        return this.table(element, context);
    }
    const heading = HEADINGS.get(name);
    if (heading) {
      this.startBlock({ kind: 'heading', level: heading }, context);
      this.children(headingText(element), { ...context, inHeading: true });
      return this.endBlock();
    }
    if (isCaption(element) && this.caption(element)) return;
    const inContent = context.inContent || name === 'main' || name === 'article';
    if (!BLOCKS.has(name)) return this.children(element, { ...context, inContent });
    // A defined term is content even if it is a link.
    this.startBlock({ kind: name === 'dt' ? 'row' : 'text', tight: name === 'dd' }, context);
    this.children(element, { ...context, inContent });
    this.endBlock();
  }

  /** Drops the heading "Contents" of a list of links that was dropped. */
  private dropListTitle(): void {
    const last = this.blocks.at(-1);
    if (last?.kind !== 'heading' || !isListTitle(textOf(last).trim())) return;
    this.blocks.pop();
    this.drop('block: boilerplate');
  }

  private list(element: Element, context: Context): void {
    const first = Number(element.attributes['start'] ?? 1);
    const next = element.name === 'ol' ? (Number.isSafeInteger(first) ? first : 1) : undefined;
    this.endBlock();
    this.children(element, { ...context, lists: [...context.lists, { next }] });
    this.endBlock();
  }

  private item(element: Element, context: Context): void {
    const lists = context.lists.length > 0 ? context.lists : [{ next: undefined }];
    const list = lists[lists.length - 1]!;
    const bullet = list.next === undefined ? '- ' : `${list.next++}. `;
    this.endBlock();
    const indent = '  '.repeat(Math.min(lists.length, 8) - 1);
    // No empty line between items, or before a list within an item.
    const tight = this.blocks[this.blocks.length - 1]?.prefix !== '' || lists.length > 1;
    this.block = newBlock({ prefix: indent + bullet, tight });
    this.children(element, { ...context, lists });
    this.endBlock();
  }

  /** A data table becomes one line per row. The cells of a layout table are extracted like any other element. */
  private table(element: Element, context: Context): void {
    this.endBlock();
    const rows = dataRows(element, this.measures);
    if (!rows) {
      this.children(element, context);
      return this.endBlock();
    }
    for (const child of element.children) {
      if (typeof child !== 'string' && child.name === 'caption') {
        this.startBlock({}, context);
        this.children(child, context);
        this.endBlock();
      }
    }
    let first = true;
    for (const cells of rows) {
      const text = collapse(cleanText(cells.map((cell) => plainText(cell)).join(' | '))).trim();
      if (!/[^|\s]/.test(text)) continue;
      this.blocks.push(newBlock({ kind: 'row', tight: !first, pieces: [text] }));
      first = false;
    }
  }

  /** Adds the images of a figure, each with the text that follows it. Text before all images belongs to the first. */
  private figure(element: Element, context: Context): void {
    this.endBlock();
    const images: { image: ImageRef; words: string[] }[] = [];
    let before: string[] = [];
    const visit = (e: Element) => {
      for (const child of e.children) {
        if (typeof child === 'string') (images[images.length - 1]?.words ?? before).push(child);
        else if (child.name === 'img' || child.name === 'picture' || child.name === 'noscript') {
          for (const image of this.imagesIn(child)) {
            if ('inlineAlt' in image) continue;
            images.push({ image, words: before });
            before = [];
          }
        } else {
          const words = images[images.length - 1]?.words ?? before;
          const inline = inlineText(child, words.at(-1) ?? '', plainText);
          if (inline !== undefined) words.push(inline);
          if (inline !== undefined || isNonText(child)) continue;
          if (BLOCKS.has(child.name) || child.name === 'br') words.push(' ');
          visit(child);
          if (BLOCKS.has(child.name)) (images[images.length - 1]?.words ?? before).push(' ');
        }
      }
    };
    visit(element);
    // All its images were icons or duplicates, so treat its text as plain text.
    if (images.length === 0) {
      this.startBlock({}, context);
      this.text(before.join(''), context);
      return this.endBlock();
    }
    this.startBlock({}, context);
    for (const { image, words } of images) {
      this.block!.pieces.push({ ...image, caption: collapse(cleanText(words.join(''))).trim() });
    }
    this.endBlock();
  }

  /** Makes the text the caption of the image before it. @returns false if there is no such image */
  private caption(element: Element): boolean {
    this.endBlock();
    const last = this.blocks[this.blocks.length - 1];
    const piece = last?.pieces[last.pieces.length - 1];
    if (piece === undefined || typeof piece === 'string' || 'inlineAlt' in piece || piece.caption !== '') return false;
    const caption = collapse(cleanText(plainText(element))).trim();
    if (caption.length > 1000) return false;
    last!.pieces[last!.pieces.length - 1] = { ...piece, caption };
    return true;
  }

  private images(element: Element): void {
    for (const image of this.imagesIn(element)) {
      this.block ??= newBlock({});
      this.block.pieces.push(image);
    }
  }

  /** Reads an `<img>`, a `<picture>` with its variants, or all images below another element. */
  private imagesIn(element: Element): (ImageRef | RemovedImage)[] {
    if (element.name === 'img') return this.readImage(element, []);
    const below = element.children.filter((child) => typeof child !== 'string' && !isNonText(child)) as Element[];
    if (element.name !== 'picture') return below.flatMap((child) => this.imagesIn(child));
    // Browsers show one image; the variants belong to it.
    const variants = below.filter(({ name }) => name === 'source');
    const first = below.find(({ name }) => name === 'img');
    return below.flatMap((child) => (child === first ? this.readImage(child, variants) : this.imagesIn(child)));
  }

  /** Counts an image that is not kept (icons, spacers, duplicates) and returns its alternative text in its place. */
  private readImage(img: Element, variants: readonly Element[]): [ImageRef | RemovedImage] {
    const alt = collapse(cleanText(img.attributes['alt'] ?? '')).trim();
    const reason = this.imageReason(img, variants);
    if (typeof reason !== 'string') return [{ ...reason, alt, caption: '' }];
    this.drop(`image: ${reason}`);
    return [{ inlineAlt: alt.length <= MAX_INLINE_ALT ? alt : '' }];
  }

  private imageReason(img: Element, variants: readonly Element[]): string | Pick<ImageRef, 'sources'> {
    const { sources, substitutes } = imageSources(img, variants, this.base);
    if (sources.length === 0) return 'no URL';
    const { width = Infinity, height = Infinity } = declaredSize(img);
    if (width < this.minSide || height < this.minSide) return 'icon';
    if (sources.some((source) => this.imagesSeen.has(source))) return 'duplicate on the page';
    for (const source of sources) this.imagesSeen.add(source);
    for (const url of substitutes) this.substitutes.set(url, (this.substitutes.get(url) ?? 0) + 1);
    return { sources: [...sources, ...substitutes.filter((url) => !sources.includes(url))] };
  }

  private text(text: string, context: Context): void {
    const clean = cleanText(text);
    if (clean === '') return;
    if (!this.block) {
      if (clean.trim() === '') return;
      this.block = newBlock({ prefix: indentOf(context) });
    }
    const { pieces } = this.block;
    if (pieces.length === 0 && clean.trim() === '') return;
    // Line breaks of the source are spaces, except in preformatted text.
    pieces.push(context.inPre ? clean : collapse(clean));
    if (context.inLink) this.block.linked += lengthWithoutSpaces(clean);
  }

  private lineBreak(): void {
    this.block?.pieces.push('\n');
  }

  /** Ends the current block and starts another, which inherits the bullet and spacing of an empty one. */
  private startBlock(block: Partial<Block>, context: Context): void {
    const waiting = this.block?.pieces.length === 0 ? this.block : undefined;
    this.endBlock();
    const prefix = waiting?.prefix || indentOf(context);
    const tight = waiting?.tight || block.tight || context.lists.length > 0;
    this.block = newBlock({ kind: block.kind, level: block.level, prefix, tight });
  }

  private endBlock(): void {
    const { block } = this;
    this.block = undefined;
    if (!block || block.pieces.length === 0) return;
    const pieces = tidyPieces(withInlineAlts(block.pieces), block.kind === 'pre');
    if (pieces.length > 0) this.blocks.push({ ...block, pieces });
  }

  /** Returns the blocks without boilerplate text, repetitions and headings without content. */
  private keptBlocks(): Block[] {
    const seen = new Set<string>();
    let before = '';
    const kept = this.blocks.filter((block) => {
      if (block.pieces.some((piece) => typeof piece !== 'string')) return true;
      const text = textOf(block);
      const key = comparable(text);
      const reason = this.textReason(block, text, key, seen, before);
      before = key;
      if (reason) this.drop(`block: ${reason}`);
      return !reason;
    });
    // From the end: a heading must be followed by something other than a heading of the same or a higher level.
    let followed = 7;
    const result: Block[] = [];
    for (const block of kept.reverse()) {
      const bare = block.kind === 'heading' && block.pieces.every((piece) => typeof piece === 'string');
      if (bare && followed <= block.level) this.drop('block: heading without content');
      else if (bare && followed === 7) this.drop('block: heading without content');
      else {
        followed = bare ? block.level : 8;
        result.push(block);
      }
    }
    return result.reverse();
  }

  private textReason(block: Block, text: string, key: string, seen: Set<string>, before: string): string | undefined {
    const length = lengthWithoutSpaces(text);
    if (block.kind === 'text' && isBoilerplateText(text.trim(), block.linked > 0.75 * length)) return 'boilerplate';
    if (
      block.kind === 'text' &&
      block.linked > 0.75 * length &&
      wordsOf(text).length <= 12 &&
      !/[.!?…。؟]$/.test(text)
    ) {
      return 'link';
    }
    // Short blocks (cells, labels) may repeat, but not consecutively.
    if (key !== '' && key === before) return 'duplicate on the page';
    if (key.length < 25) return undefined;
    if (seen.has(key)) return 'duplicate on the page';
    seen.add(key);
    return undefined;
  }
}

/** Longer alternative texts describe an image, and do not replace it in a sentence. */
const MAX_INLINE_ALT = 100;

/** The value of a `<meta>` that replaces an HTTP header. */
function metaHeader({ name, content }: Readonly<Record<string, string>>, header: string): string | undefined {
  const names = header === 'x-robots-tag' ? ['robots', 'flamingo-ts'] : [header];
  return name !== undefined && names.includes(name.trim().toLowerCase()) ? content : undefined;
}

function textOf({ pieces }: Block): string {
  return pieces.filter((piece) => typeof piece === 'string').join('');
}

/** The element that holds the text of a heading: a button, if there is no text outside of it. */
function headingText(heading: Element): Element {
  if (plainText(heading) !== '') return heading;
  const stack: Element[] = [heading];
  for (let next = stack.pop(); next; next = stack.pop()) {
    if (next.name === 'button') return next;
    for (const child of next.children) if (typeof child !== 'string') stack.push(child);
  }
  return heading;
}

/** Replaces images that are not kept by their alternative texts if they interrupt a sentence, else removes them. */
function withInlineAlts(pieces: readonly Piece[]): (string | ImageRef)[] {
  let hasText = false;
  return pieces.flatMap((piece) => {
    if (typeof piece === 'string') hasText ||= piece.trim() !== '';
    if (typeof piece === 'string' || !('inlineAlt' in piece)) return piece;
    return hasText && piece.inlineAlt !== '' ? piece.inlineAlt : [];
  });
}

function newBlock({
  kind = 'text',
  level = 0,
  prefix = '',
  tight = false,
  pieces = [],
  linked = 0,
}: Partial<Block>): Block {
  return { kind, level, prefix, tight, pieces, linked };
}

function indentOf({ lists }: Context): string {
  return '  '.repeat(Math.min(lists.length, 8));
}

const HEADINGS = new Map([1, 2, 3, 4, 5, 6].map((level) => [`h${level}`, level]));
const FIGURES = /(?:^|\s)(?:figure|informalfigure|mediaobject|screenshot|thumb|wp-caption|image-container)(?:\s|$)/i;
const CAPTIONS = /(?:^|[\s_-])(?:caption|captiontext|thumbcaption|wp-caption-text)(?:\s|$)/i;

/** Whether an element holds only images with captions: no table, and not a large part of the page. */
function isFigure({ name, attributes }: Element, size: Measure, pageText: number): boolean {
  if (size.images === 0 || size.text > 800 || (size.text > 200 && size.text > 0.5 * pageText)) return false;
  return !size.blocks && (name === 'figure' || FIGURES.test((attributes['class'] ?? '').slice(0, 1000)));
}

function isCaption({ name, attributes }: Element): boolean {
  const { class: names } = attributes;
  return name === 'figcaption' || (names !== undefined && name !== 'caption' && CAPTIONS.test(names.slice(0, 1000)));
}

/** Rows of cells of a data table; undefined for a layout table: a single column, blocks or images in its cells. */
function dataRows(table: Element, measures: ReadonlyMap<Element, Measure>): Element[][] | undefined {
  if (table.attributes['role'] === 'presentation') return undefined;
  const rows: Element[][] = [];
  let plain = true;
  const visit = (element: Element, row: Element[] | undefined) => {
    for (const child of element.children) {
      if (typeof child === 'string') continue;
      if (child.name === 'td' || child.name === 'th') {
        if (row) row.push(child);
        plain &&= measures.get(child)?.layout !== true;
      } else if (child.name === 'tr') {
        const cells: Element[] = [];
        rows.push(cells);
        visit(child, cells);
      } else if (/^t(?:head|body|foot)$/.test(child.name)) visit(child, row);
    }
  };
  visit(table, undefined);
  const columns = rows.reduce((most, row) => Math.max(most, row.length), 0);
  return plain && rows.length >= 2 && columns >= 2 ? rows : undefined;
}

/** Removes white space that is not displayed. Returns no pieces for a block without words and images. */
function tidyPieces(pieces: readonly (string | ImageRef)[], preformatted: boolean): (string | ImageRef)[] {
  const merged: (string | ImageRef)[] = [];
  for (const piece of pieces) {
    const last = merged.length - 1;
    if (typeof piece === 'string' && typeof merged[last] === 'string') merged[last] += piece;
    else merged.push(piece);
  }
  const tidy = merged.map((piece) => {
    if (typeof piece !== 'string') return piece;
    if (preformatted) return withoutTrailingSpaces(piece.replace(/\r\n?/g, '\n'));
    // Runs of spaces first: the second pattern is quadratic in their length.
    return piece
      .replace(/ {2,}/g, ' ')
      .replace(/ ?\n ?/g, '\n')
      .replace(/\n{3,}/g, '\n\n');
  });
  const ends = (index: number, trim: (text: string) => string) => {
    const piece = tidy[index];
    if (typeof piece === 'string') tidy[index] = trim(piece);
  };
  const start = preformatted ? 0 : tidy.findIndex((piece) => typeof piece === 'string');
  ends(start, (text) => (preformatted ? text.replace(/^\s*\n/, '') : text.trimStart()));
  ends(tidy.length - 1, (text) => text.trimEnd());
  const kept = tidy.filter((piece) => piece !== '');
  return kept.some((piece) => typeof piece !== 'string' || piece.trim() !== '') ? kept : [];
}

/** Removes white space before line breaks and at the end. A regular expression would be quadratic in runs of spaces. */
function withoutTrailingSpaces(text: string): string {
  return text
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n');
}

function joinBlocks(blocks: readonly Block[]): PagePart[] {
  const parts: PagePart[] = [];
  let text = '';
  blocks.forEach((block, i) => {
    if (i > 0) text += block.tight && block.kind !== 'heading' ? '\n' : '\n\n';
    let { prefix } = block;
    for (const piece of block.pieces) {
      if (typeof piece === 'string') {
        text += prefix + piece;
        prefix = '';
      } else if ('sources' in piece) {
        if (text !== '') parts.push({ text });
        text = '';
        parts.push({ image: piece });
      }
    }
  });
  if (text !== '') parts.push({ text });
  return parts;
}

/**
 * The alternative text of an image that is dropped after extraction, as a part in its place. Empty unless the image
 * interrupts a sentence.
 *
 * @param before parts before the image
 */
export function imageInText(before: readonly object[], alt: string): { text: string }[] {
  const last = before.at(-1);
  if (alt === '' || alt.length > MAX_INLINE_ALT || !last || !('text' in last)) return [];
  const line = (last.text as string).trimEnd();
  const gap = (last.text as string).slice(line.length);
  return line === '' || gap.includes('\n') ? [] : [{ text: alt }];
}

/**
 * Merges adjacent texts, removes white space at their ends, and drops empty texts. Call it after removing images.
 */
export function tidyParts<P extends object>(
  parts: readonly (P | { readonly text: string })[],
): (P | { text: string })[] {
  const result: (P | { text: string })[] = [];
  for (const part of parts) {
    const last = result[result.length - 1];
    if ('text' in part && last && 'text' in last) last.text += part.text;
    else result.push({ ...part });
  }
  return result.flatMap((part): (P | { text: string })[] => {
    if (!('text' in part)) return [part];
    const text = withoutTrailingSpaces(part.text.replace(/(\S) {2,}/g, '$1 '))
      .replace(/\n{3,}/g, '\n\n')
      .replace(/^\s*\n/, '')
      .trimEnd();
    return text.trim() === '' ? [] : [{ text: text.replace(/^ (?! )/, '') }];
  });
}
