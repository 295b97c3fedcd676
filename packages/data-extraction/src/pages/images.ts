import type { Element } from './html';

/** An image of a page, as the page names it. */
export interface ImageRef {
  /** Absolute URLs (or `data:` URLs) of the image, the best first. The first one that is available and fits is used. */
  readonly sources: readonly string[];
  readonly alt: string;
  readonly caption: string;
}

/** Addresses of an image. `substitutes` are what the page shows until a script loads one of `sources`. */
export interface ImageSources {
  readonly sources: readonly string[];
  readonly substitutes: readonly string[];
}

/** Attributes that lazy-loading scripts read the image from. */
const LAZY = ['data-src', 'data-original', 'data-lazy-src', 'data-lazy', 'data-hi-res-src'];
const LAZY_SETS = ['data-srcset', 'data-lazy-srcset', 'data-original-set'];
/** Any other `data-` attribute counts if its value is the address of an image and the image has no other. */
const IMAGE_ADDRESS = /^[^\s"'<>{}]{1,2000}\.(?:jpe?g|png|webp|gif|avif)(?:[?#][^\s"'<>{}]*)?$/i;
const PLACEHOLDER_NAME = /(?:spacer|blank|placeholder|transparent|pixel|loading|lazy|1x1)[\w.-]*$/i;
/** A shorter `data:` image is a spacer that a script replaces. */
const PLACEHOLDER_LENGTH = 400;
const MAX_SOURCES = 16;
/** `<source>` elements of a `<picture>` that are read. */
const MAX_VARIANTS = 64;

/**
 * Collects the addresses of an `<img>`: the largest that it and its `<picture>` offer first. If a script loads the image
 * late, what the script loads comes first.
 *
 * @param variants `<source>` elements of the `<picture>` around it
 * @param base     URL that relative addresses are resolved against
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
    Object.entries(attributes).flatMap(([key, value]) =>
      key.startsWith('data-') && isImageAddress(value) ? value : [],
    ),
  );
  return { sources: others.length > 0 ? others : shown, substitutes: [] };
}

function isImageAddress(value: string): boolean {
  return value.length <= 2500 && IMAGE_ADDRESS.test(value.trim());
}

/** Without repetitions and spacers. A `data:` URL is the image only if there is no other: else it is a preview. */
function resolveAll(addresses: readonly string[], base: string): string[] {
  const urls = new Set<string>();
  const inline = new Set<string>();
  for (const address of addresses) {
    const url = resolveSource(address.trim(), base);
    if (url) (url.startsWith('data:') ? inline : urls).add(url);
    if (urls.size === MAX_SOURCES) break;
  }
  return [...(urls.size > 0 ? urls : inline)].slice(0, MAX_SOURCES);
}

/** Returns undefined for what cannot be an image: spacers, scripts, other schemes. */
function resolveSource(address: string, base: string): string | undefined {
  if (address === '') return undefined;
  if (/^data:/i.test(address)) {
    return /^data:image\//i.test(address) && address.length >= PLACEHOLDER_LENGTH
      ? `data${address.slice(4)}`
      : undefined;
  }
  if (!URL.canParse(address, base)) return undefined;
  const url = new URL(address, base);
  url.hash = '';
  return /^(https?|file):$/.test(url.protocol) ? url.href : undefined;
}

/**
 * Parses the candidates of a `srcset`. Addresses may contain commas, so a candidate ends at white space, or at a comma
 * that ends the address.
 */
export function parseSrcset(text: string): { url: string; size: number }[] {
  const found: { url: string; size: number }[] = [];
  const pattern = /[\s,]*([^\s,]\S*)(?:\s+([\d.]+)([wx]))?[^,]*/gy;
  for (let match = pattern.exec(text); match && found.length < MAX_SOURCES; match = pattern.exec(text)) {
    const [, first, number, unit] = match;
    const url = withoutCommas(first!);
    // A density is converted to pixels of a usual column, so that both kinds can be compared.
    const size = number ? Number(number) * (unit === 'x' ? 640 : 1) : 640;
    found.push({ url, size: Number.isFinite(size) ? size : 0 });
    // A comma at the end of an address without a descriptor: the next candidate begins there.
    if (first !== url && !number) pattern.lastIndex = match.index + match[0].indexOf(first!) + first!.length;
  }
  return found;
}

function withoutCommas(address: string): string {
  let end = address.length;
  while (address[end - 1] === ',') end--;
  return address.slice(0, end);
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
