import { Parser } from 'htmlparser2';

/** Pages beyond these limits, hostile or broken, throw a `PageError`. */
export const PAGE_LIMITS = {
  /** Larger than 99.9 % of the pages on the web; Common Crawl truncates at 1 MiB. */
  bytes: 8 * 2 ** 20,
  /** Browsers stop at 512. */
  depth: 512,
  /** Elements and runs of text. */
  nodes: 500_000,
} as const;

/** Rejects a page. The manifest counts it under `reason`. */
export class PageError extends Error {
  constructor(readonly reason: string) {
    super(`page: ${reason}`);
  }
}

/** An element of a page. Text nodes are plain strings among its children. */
export interface Element {
  readonly name: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly children: (Element | string)[];
}

/**
 * Parses a page into a tree. Elements that are never closed, closed twice or closed out of order are tolerated, as in a
 * browser.
 *
 * @throws PageError if the page exceeds `PAGE_LIMITS`
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
      // The parser reports text in fragments, one for each entity.
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
