import {
  BLOCKS,
  boilerplateReason,
  isFurniture,
  isUnread,
  lengthWithoutSpaces,
  measure,
  plainText,
  type Measure,
} from './boilerplate';
import { decodeHtml, PageError, parseHtml, type Element } from './html';
import { optedOut } from './opt-out';
import { declaredSize, imageSources, type ImageRef } from './images';
import { cleanText, collapse, comparable, wordsOf } from './text';

export type PagePart = { readonly text: string } | { readonly image: ImageRef };

/** What a reader came for, in the order of the page. */
export interface ExtractedPage {
  readonly title: string;
  /** As the page declares it: `en`, `pt-BR`; empty where it does not. */
  readonly language: string;
  readonly parts: readonly PagePart[];
  /** What was left out, by reason: `block: navigation`, `image: icon`. */
  readonly dropped: Readonly<Record<string, number>>;
}

export interface ExtractOptions {
  /** Address of the page, which relative addresses start from. */
  readonly url: string;
  /** `Content-Type` header that came with it. */
  readonly contentType?: string;
  /** An image that the page shows smaller than this on either side is an icon. Default 64, the paper's smallest. */
  readonly minSide?: number;
}

type Piece = string | ImageRef;

interface Block {
  readonly kind: 'text' | 'heading' | 'row' | 'pre';
  /** 1 to 6 of a heading. */
  readonly level: number;
  /** Bullet and indentation. */
  readonly prefix: string;
  /** Follows its predecessor without an empty line. */
  readonly tight: boolean;
  readonly pieces: Piece[];
  /** Characters in links. */
  linked: number;
}

/** Where the walk stands. */
interface Context {
  readonly inLink: boolean;
  readonly inPre: boolean;
  readonly inContent: boolean;
  /** Lists around, from the outside in; `next` is the number of the next item, undefined for bullets. */
  readonly lists: readonly { next: number | undefined }[];
}

/**
 * Extracts text and images of a page in the order of its markup. Navigation, footers, banners and lists of links go;
 * so does what the page says or shows twice. Captions and alternative texts stay with their images.
 *
 * @param page bytes as they came, or text
 * @throws PageError for a page that is too large or nested too deeply, and for one that does not want to be used
 */
export function extractPage(page: Uint8Array | string, options: ExtractOptions): ExtractedPage {
  const root = parseHtml(typeof page === 'string' ? page : decodeHtml(page, options.contentType));
  return new Extraction(root, options).run();
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
  private imagesSeen = new Set<string>();

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
    this.children(this.root, { inLink: false, inPre: false, inContent: false, lists: [] });
    this.endBlock();
    return { title: this.title, language: this.language, parts: joinBlocks(this.keptBlocks()), dropped: this.dropped };
  }

  /** Title, language and base address, wherever broken markup has put them. */
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
          // An address that is none changes nothing.
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
    if (isUnread(element)) return;
    const size = this.measures.get(element);
    if (size) {
      const reason = boilerplateReason(element, size, this.pageText, context.inContent);
      if (reason) {
        if (size.text + size.images > 0) this.drop(`block: ${reason}`);
        // Words on both sides of what was taken out do not grow together.
        if (BLOCKS.has(name)) this.endBlock();
        else this.text(' ', context);
        return;
      }
    }
    if (size && isFigure(element, size, this.pageText)) return this.figure(element, context);
    switch (name) {
      case 'br':
        return this.lineBreak();
      // What stands for people without scripts is the image that a script would load; its words ask for scripts.
      case 'noscript':
      case 'img':
      case 'picture':
        return this.images(element);
      case 'a':
        return this.children(element, {
          ...context,
          inLink: context.inLink || element.attributes['href'] !== undefined,
        });
      case 'sup':
        // The numbers of footnotes.
        if (/\breference\b|\bfootnote/.test(element.attributes['class'] ?? '')) return;
        return this.children(element, context);
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
      this.children(element, context);
      return this.endBlock();
    }
    if (isCaption(element) && this.caption(element)) return;
    const inContent = context.inContent || name === 'main' || name === 'article';
    if (!BLOCKS.has(name)) return this.children(element, { ...context, inContent });
    this.startBlock({ tight: name === 'dd' }, context);
    this.children(element, { ...context, inContent });
    this.endBlock();
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
    // Items follow one another closely; so does a list within an item.
    const tight = this.blocks[this.blocks.length - 1]?.prefix !== '' || lists.length > 1;
    this.block = newBlock({ prefix: indent + bullet, tight });
    this.children(element, { ...context, lists });
    this.endBlock();
  }

  /** A table of data gives a line for each row; one that only lays out the page gives what is in its cells. */
  private table(element: Element, context: Context): void {
    this.endBlock();
    const rows = dataRows(element);
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

  /** Images of a figure, each with the text that follows it; what precedes all of them belongs to the first. */
  private figure(element: Element, context: Context): void {
    this.endBlock();
    const found: { image: ImageRef; words: string[] }[] = [];
    let before: string[] = [];
    const visit = (e: Element) => {
      for (const child of e.children) {
        if (typeof child === 'string') (found[found.length - 1]?.words ?? before).push(child);
        else if (child.name === 'img' || child.name === 'picture' || child.name === 'noscript') {
          for (const image of this.imagesIn(child)) {
            found.push({ image, words: before });
            before = [];
          }
        } else if (!isUnread(child)) {
          const words = found[found.length - 1]?.words ?? before;
          if (BLOCKS.has(child.name) || child.name === 'br') words.push(' ');
          visit(child);
          if (BLOCKS.has(child.name)) (found[found.length - 1]?.words ?? before).push(' ');
        }
      }
    };
    visit(element);
    // All its images were icons or duplicates: what it says is plain text.
    if (found.length === 0) {
      this.startBlock({}, context);
      this.text(before.join(''), context);
      return this.endBlock();
    }
    this.startBlock({}, context);
    for (const { image, words } of found) {
      this.block!.pieces.push({ ...image, caption: collapse(cleanText(words.join(''))).trim() });
    }
    this.endBlock();
  }

  /** Gives the text to the image right before it. @returns whether there is one */
  private caption(element: Element): boolean {
    this.endBlock();
    const last = this.blocks[this.blocks.length - 1];
    const piece = last?.pieces[last.pieces.length - 1];
    if (piece === undefined || typeof piece === 'string' || piece.caption !== '') return false;
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

  /** Images of an `<img>`, of a `<picture>` with its variants, or of all below another element. */
  private imagesIn(element: Element, variants: readonly Element[] = []): ImageRef[] {
    if (element.name === 'img') {
      const image = this.readImage(element, variants);
      return image ? [image] : [];
    }
    const below = element.children.filter((child) => typeof child !== 'string' && !isUnread(child)) as Element[];
    const sources = element.name === 'picture' ? below.filter(({ name }) => name === 'source') : [];
    return below.flatMap((child) => this.imagesIn(child, sources));
  }

  /** `undefined`, and counted, for icons, spacers and what the page has shown already. */
  private readImage(img: Element, variants: readonly Element[]): ImageRef | undefined {
    const sources = imageSources(img, variants, this.base);
    if (sources.length === 0) return void this.drop('image: no address');
    const { width = Infinity, height = Infinity } = declaredSize(img);
    if (width < this.minSide || height < this.minSide) return void this.drop('image: icon');
    if (sources.some((source) => this.imagesSeen.has(source))) return void this.drop('image: duplicate on the page');
    for (const source of sources) this.imagesSeen.add(source);
    return { sources, alt: collapse(cleanText(img.attributes['alt'] ?? '')).trim(), caption: '' };
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
    // What spans several lines in the source is one line to a reader, unless it is preformatted.
    pieces.push(context.inPre ? clean : collapse(clean));
    if (context.inLink) this.block.linked += lengthWithoutSpaces(clean);
  }

  private lineBreak(): void {
    this.block?.pieces.push('\n');
  }

  /** Ends the block before. One that is still empty hands on its bullet, and how closely it follows. */
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
    const pieces = tidyPieces(block.pieces, block.kind === 'pre');
    if (pieces.length > 0) this.blocks.push({ ...block, pieces });
  }

  /** Blocks without furniture, repetitions and headings that nothing follows. */
  private keptBlocks(): Block[] {
    const said = new Set<string>();
    let before = '';
    const kept = this.blocks.filter((block) => {
      if (block.pieces.some((piece) => typeof piece !== 'string')) return true;
      const text = block.pieces.join('');
      const key = comparable(text);
      const reason = this.textReason(block, text, key, said, before);
      before = key;
      if (reason) this.drop(`block: ${reason}`);
      return !reason;
    });
    // From the end: a heading needs something below it that is no heading of its own rank or above.
    let followed = 7;
    const result: Block[] = [];
    for (const block of kept.reverse()) {
      const bare = block.kind === 'heading' && block.pieces.every((piece) => typeof piece === 'string');
      if (bare && followed <= block.level) this.drop('block: heading of nothing');
      else if (bare && followed === 7) this.drop('block: heading of nothing');
      else {
        followed = bare ? block.level : 8;
        result.push(block);
      }
    }
    return result.reverse();
  }

  private textReason(block: Block, text: string, key: string, said: Set<string>, before: string): string | undefined {
    if (isFurniture(text.trim())) return 'furniture';
    const length = lengthWithoutSpaces(text);
    if (
      block.kind === 'text' &&
      block.linked > 0.75 * length &&
      wordsOf(text).length <= 12 &&
      !/[.!?…。؟]$/.test(text)
    ) {
      return 'link';
    }
    // Short ones (cells, labels) may come twice, only not in a row.
    if (key !== '' && key === before) return 'duplicate on the page';
    if (key.length < 25) return undefined;
    if (said.has(key)) return 'duplicate on the page';
    said.add(key);
    return undefined;
  }
}

/** What a `<meta>` says in place of a header of the answer. */
function metaHeader({ name, content }: Readonly<Record<string, string>>, header: string): string | undefined {
  const stands = header === 'x-robots-tag' ? /^(?:robots|flamingo-ts)$/i : new RegExp(`^${header}$`, 'i');
  return name !== undefined && stands.test(name.trim()) ? content : undefined;
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

/** Images with a caption and no more: not a table, not a good part of the page. */
function isFigure({ name, attributes, children }: Element, size: Measure, pageText: number): boolean {
  if (size.images === 0 || size.text > 800 || (size.text > 200 && size.text > 0.5 * pageText)) return false;
  if (name !== 'figure' && !FIGURES.test(attributes['class'] ?? '')) return false;
  const holdsBlocks = (e: Element | string): boolean =>
    typeof e !== 'string' && (/^(?:table|pre|ul|ol|dl|h[1-6])$/.test(e.name) || e.children.some(holdsBlocks));
  return !children.some(holdsBlocks);
}

function isCaption({ name, attributes }: Element): boolean {
  const { class: names } = attributes;
  return name === 'figcaption' || (names !== undefined && name !== 'caption' && CAPTIONS.test(names));
}

/** Rows of cells of a table of data; undefined for one that lays out a page: a single column, blocks or images in its cells. */
function dataRows(table: Element): Element[][] | undefined {
  if (table.attributes['role'] === 'presentation') return undefined;
  const rows: Element[][] = [];
  let plain = true;
  const visit = (element: Element, row: Element[] | undefined) => {
    for (const child of element.children) {
      if (typeof child === 'string') continue;
      if (child.name === 'td' || child.name === 'th') {
        if (row) row.push(child);
        plain &&= !holdsLayout(child);
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

function holdsLayout(cell: Element): boolean {
  let paragraphs = 0;
  const visit = (element: Element): boolean =>
    element.children.some(
      (child) =>
        typeof child !== 'string' &&
        (/^(?:table|img|image|ul|ol|dl|pre|h[1-6]|figure)$/.test(child.name) ||
          (child.name === 'p' && ++paragraphs > 1) ||
          visit(child)),
    );
  return visit(cell);
}

/** White space as a reader sees it; nothing left of a block without words and images. */
function tidyPieces(pieces: readonly Piece[], preformatted: boolean): Piece[] {
  const merged: Piece[] = [];
  for (const piece of pieces) {
    const last = merged.length - 1;
    if (typeof piece === 'string' && typeof merged[last] === 'string') merged[last] += piece;
    else merged.push(piece);
  }
  const tidy = merged.map((piece) => {
    if (typeof piece !== 'string') return piece;
    if (preformatted) return piece.replace(/\r\n?/g, '\n').replace(/[^\S\n]+$/gm, '');
    return piece
      .replace(/ *\n */g, '\n')
      .replace(/ {2,}/g, ' ')
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
      } else {
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
 * Neighbouring texts as one, without white space at either end and without texts of nothing else: what remains when
 * images have been taken out.
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
    const text = part.text
      .replace(/(\S) {2,}/g, '$1 ')
      .replace(/[^\S\n]+$/gm, '')
      .replace(/\n{3,}/g, '\n\n')
      .replace(/^\s*\n/, '')
      .trimEnd();
    return text.trim() === '' ? [] : [{ text: text.replace(/^ (?! )/, '') }];
  });
}
