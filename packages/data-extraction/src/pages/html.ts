import { Parser } from 'htmlparser2';

/** Hostile or broken pages end in a `PageError` at these, never in a hang. */
export const PAGE_LIMITS = {
  /** Larger than 999 of 1000 pages of the web; Common Crawl itself cuts at 1 MiB. */
  bytes: 8 * 2 ** 20,
  /** Browsers stop at 512. */
  depth: 512,
  /** Elements and runs of text. */
  nodes: 500_000,
} as const;

/** Why a page is refused; `reason` is what the manifest counts it under. */
export class PageError extends Error {
  constructor(readonly reason: string) {
    super(`page: ${reason}`);
  }
}

/** An element of a page; text is a plain string among the children. */
export interface Element {
  readonly name: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly children: (Element | string)[];
}

/**
 * Parses a page as forgivingly as a browser: what is never closed, closed twice or closed out of order gives a tree too.
 *
 * @throws PageError at a limit
 */
export function parseHtml(html: string): Element {
  const root: Element = { name: '#root', attributes: {}, children: [] };
  const open: Element[] = [root];
  let nodes = 0;
  const count = () => {
    if (++nodes > PAGE_LIMITS.nodes) throw new PageError('too many elements');
  };
  const parser = new Parser({
    onopentag(name, attributes) {
      count();
      if (open.length > PAGE_LIMITS.depth) throw new PageError('nested too deeply');
      const element: Element = { name, attributes, children: [] };
      open[open.length - 1]!.children.push(element);
      open.push(element);
    },
    ontext(text) {
      const { children } = open[open.length - 1]!;
      const last = children.length - 1;
      // The parser hands out text in pieces, one for each entity.
      if (typeof children[last] === 'string') children[last] += text;
      else {
        count();
        children.push(text);
      }
    },
    onclosetag() {
      if (open.length > 1) open.pop();
    },
  });
  parser.write(html);
  parser.end();
  return root;
}

/**
 * Bytes of a page to text. The encoding is that of the byte order mark, else of the HTTP header, else of a `<meta>` among
 * the first 4 KiB; else UTF-8, and Windows-1252 where the bytes are not UTF-8.
 *
 * @throws PageError for a page larger than `PAGE_LIMITS.bytes`
 */
export function decodeHtml(bytes: Uint8Array, contentType = ''): string {
  if (bytes.length > PAGE_LIMITS.bytes) throw new PageError('too large');
  const named = markOf(bytes) ?? charsetIn(contentType) ?? charsetIn(decodeWindows1252(bytes.subarray(0, 4096)));
  if (named && !/^utf-?8$/i.test(named)) {
    try {
      const decoder = new TextDecoder(named);
      return decoder.encoding === 'windows-1252' ? decodeWindows1252(bytes) : decoder.decode(bytes);
    } catch {
      // An encoding that does not exist: as if none were named.
    }
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    // Declared UTF-8 with a few bad bytes stays UTF-8 with replacement characters; undeclared it is Windows-1252.
    return named ? new TextDecoder().decode(bytes) : decodeWindows1252(bytes);
  }
}

const C1_OF_WINDOWS = '€\u0081‚ƒ„…†‡ˆ‰Š‹Œ\u008dŽ\u008f\u0090‘’“”•–—˜™š›œ\u009džŸ';

/** TextDecoder of Node 20 reads Windows-1252 as ISO 8859-1, and so loses quotation marks and the euro. */
function decodeWindows1252(bytes: Uint8Array): string {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1');
  return text.replace(/[\u0080-\u009f]/g, (c) => C1_OF_WINDOWS[c.charCodeAt(0) - 0x80]!);
}

function markOf(bytes: Uint8Array): string | undefined {
  if (bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf) return 'utf-8';
  if (bytes[0] === 0xfe && bytes[1] === 0xff) return 'utf-16be';
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return 'utf-16le';
  return undefined;
}

function charsetIn(text: string): string | undefined {
  const found = /charset\s*=\s*["']?\s*([\w:.-]{2,40})/i.exec(text)?.[1];
  // A page that could be read as ASCII up to here is not UTF-16, whatever it says (as the HTML standard has it).
  return found && /^utf-?16/i.test(found) ? 'utf-8' : found;
}
