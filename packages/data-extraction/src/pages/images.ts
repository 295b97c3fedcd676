import type { Element } from './html';

/** An image as a page refers to it. */
export interface ImageRef {
  /** Absolute URLs (or `data:` URLs) of the image, the best first. The first one that is available and fits is used. */
  readonly sources: readonly string[];
  readonly alt: string;
  readonly caption: string;
}

/** URLs of an image. `substitutes` are what the page shows until a script loads one of `sources`. */
export interface ImageSources {
  readonly sources: readonly string[];
  readonly substitutes: readonly string[];
}

/** Attributes that lazy-loading scripts read the image from. */
const LAZY = ['data-src', 'data-original', 'data-lazy-src', 'data-lazy', 'data-hi-res-src'];
const LAZY_SETS = ['data-srcset', 'data-lazy-srcset', 'data-original-set'];
/** Any other `data-` attribute counts if its value is the URL of an image and the `<img>` has no other URL. */
const IMAGE_URL = /^[^\s"'<>{}]{1,2000}\.(?:jpe?g|png|webp|gif|avif)(?:[?#][^\s"'<>{}]*)?$/i;
const PLACEHOLDER_NAME = /(?:spacer|blank|placeholder|transparent|pixel|loading|lazy|1x1)[\w.-]*$/i;
/** A shorter `data:` image is a spacer that a script replaces. */
const PLACEHOLDER_LENGTH = 400;
const MAX_SOURCES = 16;
/** `<source>` elements of a `<picture>` that are read. */
const MAX_VARIANTS = 64;

/**
 * Collects the URLs of an `<img>` and its `<picture>`, the largest image first. If a script loads the image late, the
 * URLs that the script loads come first.
 *
 * @param variants `<source>` elements of the `<picture>` around it
 * @param base     URL that relative URLs are resolved against
 */
export function imageSources(img: Element, variants: readonly Element[], base: string): ImageSources {
  const { attributes } = img;
  const elements = [...variants.slice(0, MAX_VARIANTS), img];
  const largestFirst = (keys: readonly string[]) =>
    elements
      .flatMap((element) => keys.flatMap((key) => parseSrcset(element.attributes[key] ?? '')))
      .sort((a, b) => b.size - a.size)
      .map(({ url }) => url);
  const resolved = (urls: readonly string[]) => resolveAll(urls, base);
  const lazy = resolved([...largestFirst(LAZY_SETS), ...LAZY.flatMap((key) => attributes[key] ?? [])]);
  const shown = resolved([...largestFirst(['srcset']), attributes['src'] ?? '']);
  const real = shown.filter((url) => !PLACEHOLDER_NAME.test(url.slice(-200)));
  if (lazy.length > 0) return { sources: lazy, substitutes: real.filter((url) => !url.startsWith('data:')) };
  if (real.length > 0) return { sources: shown, substitutes: [] };
  const others = resolved(
    Object.entries(attributes).flatMap(([key, value]) => (key.startsWith('data-') && isImageUrl(value) ? value : [])),
  );
  return { sources: others.length > 0 ? others : shown, substitutes: [] };
}

function isImageUrl(value: string): boolean {
  return value.length <= 2500 && IMAGE_URL.test(value.trim());
}

/**
 * Resolves URLs, without duplicates and spacers. A `data:` URL counts only if there is no other: else it is a preview.
 */
function resolveAll(sources: readonly string[], base: string): string[] {
  const urls = new Set<string>();
  const inline = new Set<string>();
  for (const source of sources) {
    const url = resolveSource(source.trim(), base);
    if (url) (url.startsWith('data:') ? inline : urls).add(url);
    if (urls.size === MAX_SOURCES) break;
  }
  return [...(urls.size > 0 ? urls : inline)].slice(0, MAX_SOURCES);
}

/** Returns undefined for what cannot be an image: spacers, scripts, other schemes. */
function resolveSource(source: string, base: string): string | undefined {
  if (source === '') return undefined;
  if (/^data:/i.test(source)) {
    return /^data:image\//i.test(source) && source.length >= PLACEHOLDER_LENGTH ? `data${source.slice(4)}` : undefined;
  }
  if (!URL.canParse(source, base)) return undefined;
  const url = new URL(source, base);
  url.hash = '';
  return /^(https?|file):$/.test(url.protocol) ? url.href : undefined;
}

/**
 * Parses the candidates of a `srcset`. URLs may contain commas, so a candidate ends at white space, or at a comma at
 * the end of the URL.
 */
export function parseSrcset(text: string): { url: string; size: number }[] {
  const sources: { url: string; size: number }[] = [];
  const pattern = /[\s,]*([^\s,]\S*)(?:\s+([\d.]+)([wx]))?[^,]*/gy;
  for (let match = pattern.exec(text); match && sources.length < MAX_SOURCES; match = pattern.exec(text)) {
    const [, first, number, unit] = match;
    const url = withoutCommas(first!);
    // Converts a density to a width in a typical column, so that both kinds can be compared.
    const size = number ? Number(number) * (unit === 'x' ? 640 : 1) : 640;
    sources.push({ url, size: Number.isFinite(size) ? size : 0 });
    // A comma at the end of a URL without a descriptor: the next candidate begins there.
    if (first !== url && !number) pattern.lastIndex = match.index + match[0].indexOf(first!) + first!.length;
  }
  return sources;
}

function withoutCommas(source: string): string {
  let end = source.length;
  while (source[end - 1] === ',') end--;
  return source.slice(0, end);
}

const PLAIN_PIXELS = /^(\d+(?:\.\d+)?)(?:px)?$/;
const STYLES = {
  width: /(?:^|[;\s])width\s*:\s*(\d+(?:\.\d+)?)px/i,
  height: /(?:^|[;\s])height\s*:\s*(\d+(?:\.\d+)?)px/i,
} as const;

/** Width and height in pixels that the page declares for an image; undefined where it declares none. */
export function declaredSize({ attributes }: Element): { width?: number; height?: number } {
  const style = (attributes['style'] ?? '').slice(0, 1000);
  const pixels = (key: 'width' | 'height') => {
    const text =
      STYLES[key].exec(style)?.[1] ?? PLAIN_PIXELS.exec((attributes[key] ?? '').slice(0, 100).replace(/\s+/g, ''))?.[1];
    return text === undefined ? undefined : Number(text);
  };
  return { width: pixels('width'), height: pixels('height') };
}
