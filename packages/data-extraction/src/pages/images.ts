import type { Element } from './html';

/** An image of a page, as the page names it. */
export interface ImageRef {
  /** Absolute addresses (or `data:`) under which the same image may be found, the best first. */
  readonly sources: readonly string[];
  readonly alt: string;
  readonly caption: string;
}

/** Attributes in which scripts look for the image that they load late, the usual ones first. */
const LAZY = ['data-src', 'data-original', 'data-lazy-src', 'data-lazy', 'data-url', 'data-image', 'data-hi-res-src'];
const LAZY_SETS = ['data-srcset', 'data-lazy-srcset', 'data-original-set'];
/** A `data:` image of fewer characters is a spacer that a script replaces. */
const PLACEHOLDER_LENGTH = 400;
const MAX_SOURCES = 16;

/**
 * The addresses of an `<img>`, the largest of what it and the `<picture>` around it offer first; what a script would load
 * later instead of the placeholder that stands in its place.
 *
 * @param variants `<source>` elements of the `<picture>` around it
 * @param base     address that relative ones start from
 */
export function imageSources(img: Element, variants: readonly Element[], base: string): string[] {
  const a = img.attributes;
  const named = (keys: readonly string[]) => keys.flatMap((key) => a[key]?.trim() || []);
  const sets = [...variants, img].flatMap((element) =>
    ['srcset', ...LAZY_SETS].flatMap((key) => parseSrcset(element.attributes[key] ?? '')),
  );
  sets.sort((x, y) => y.size - x.size);
  const lazy = named(LAZY);
  const isLazy = lazy.length > 0 || LAZY_SETS.some((key) => a[key] !== undefined);
  // Beside an image that is loaded late, `src` is a spacer, often the same one for all.
  const all = [...sets.map(({ url }) => url), ...lazy, ...(isLazy ? [] : named(['src']))];
  const sources = new Set<string>();
  for (const url of all) {
    const absolute = resolveSource(url, base);
    if (absolute && sources.size < MAX_SOURCES) sources.add(absolute);
  }
  return [...sources];
}

/** `undefined` for what is no image to be had: spacers, scripts, other schemes. */
function resolveSource(source: string, base: string): string | undefined {
  if (/^data:/i.test(source)) {
    return /^data:image\//i.test(source) && source.length >= PLACEHOLDER_LENGTH ? source : undefined;
  }
  try {
    const url = new URL(source, base);
    url.hash = '';
    return /^(https?|file):$/.test(url.protocol) ? url.href : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Candidates of a `srcset`. Addresses may hold commas, so a candidate ends at white space, or at a comma that ends the
 * address.
 */
export function parseSrcset(text: string): { url: string; size: number }[] {
  const found: { url: string; size: number }[] = [];
  const pattern = /[\s,]*([^\s,]\S*)(?:\s+([\d.]+)([wx]))?[^,]*/gy;
  for (let match = pattern.exec(text); match && found.length < MAX_SOURCES; match = pattern.exec(text)) {
    const [, first, number, unit] = match;
    const url = first!.replace(/,+$/, '');
    // Densities count as so many pixels of the usual column, so that both kinds can be compared.
    const size = number ? Number(number) * (unit === 'x' ? 640 : 1) : 640;
    found.push({ url, size: Number.isFinite(size) ? size : 0 });
    // A comma at the end of an address, and no descriptor: the next candidate begins there.
    if (first !== url && !number) pattern.lastIndex = match.index + match[0].indexOf(first!) + first!.length;
  }
  return found;
}

/** Width and height that the page asks for in pixels; undefined where it does not say. */
export function declaredSize({ attributes }: Element): { width?: number; height?: number } {
  const pixels = (key: 'width' | 'height') => {
    const plain = /^\s*(\d+(?:\.\d+)?)\s*(?:px)?\s*$/.exec(attributes[key] ?? '')?.[1];
    const styled = new RegExp(`(?:^|[;\\s])${key}\\s*:\\s*(\\d+(?:\\.\\d+)?)px`, 'i').exec(
      (attributes['style'] ?? '').slice(0, 1000),
    )?.[1];
    const text = styled ?? plain;
    return text === undefined ? undefined : Number(text);
  };
  return { width: pixels('width'), height: pixels('height') };
}
