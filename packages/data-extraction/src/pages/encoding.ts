import { getBOMEncoding, labelToName, legacyHookDecode } from '@exodus/bytes/encoding.js';

/** The HTML standard looks for a declaration in this many bytes. */
const PRESCAN_BYTES = 1024;
/** Browsers also use a later `<meta>`, which they find while parsing. */
const LATE_BYTES = 2 ** 16;

/**
 * Decodes the bytes of a page as browsers do. The encoding comes from the byte order mark, or else the `charset` of the
 * HTTP header, or else the page's first `<meta>` or XML declaration (HTML standard, section 13.2.3.2). Unknown labels
 * are ignored. A page without a declaration is UTF-8, unless it has more invalid bytes than valid characters of several
 * bytes: then a late `<meta>` decides, and without one the page is Windows-1252.
 *
 * Bytes that are invalid in the encoding become U+FFFD.
 */
export function decodePage(bytes: Uint8Array, contentType = ''): string {
  const encoding = labelToName(getBOMEncoding(bytes) ?? '') ?? encodingOfHeader(contentType) ?? declared(bytes);
  if (encoding !== null) return legacyHookDecode(bytes, encoding);
  const { valid, invalid } = countUtf8(bytes);
  if (invalid <= valid) return legacyHookDecode(bytes, 'UTF-8');
  return legacyHookDecode(bytes, prescan(asciiOf(bytes, LATE_BYTES)) ?? 'windows-1252');
}

/** The encoding that a `Content-Type` header names; null if there is none or it is unknown. */
function encodingOfHeader(contentType: string): string | null {
  const label = /;[^\S\n]*charset[^\S\n]*=[^\S\n]*(?:"([^"]*)"|'([^']*)'|([^\s;,]*))/i.exec(contentType.slice(0, 1000));
  return label && labelToName((label[1] ?? label[2] ?? label[3])!);
}

/** The encoding that the first bytes of the page declare. */
function declared(bytes: Uint8Array): string | null {
  const start = asciiOf(bytes, PRESCAN_BYTES);
  // An XML declaration in UTF-16 without a byte order mark.
  if (start.startsWith('<\0?\0x\0')) return 'UTF-16LE';
  if (start.startsWith('\0<\0?\0x')) return 'UTF-16BE';
  const xml = /^<\?xml\s[^>]*?encoding\s*=\s*(?:"([^">]*)"|'([^'>]*)')/.exec(start);
  return prescan(start) ?? (xml && usable(labelToName((xml[1] ?? xml[2])!)));
}

function asciiOf(bytes: Uint8Array, length: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(length, bytes.length)).toString('latin1');
}

/** A page whose markup can be read as ASCII is not UTF-16, whatever it declares. */
function usable(encoding: string | null): string | null {
  if (encoding === 'UTF-16LE' || encoding === 'UTF-16BE') return 'UTF-8';
  return encoding === 'x-user-defined' ? 'windows-1252' : encoding;
}

// One of: a comment; a tag's name, after which attributes follow; a closing tag, declaration or instruction.
const MARKUP = /<(?:!--(?:-?>|[^]*?(?:-->|$))|\/?([a-z][^\s/>]*)|[!/?][^>]*>?)/gi;
const ATTRIBUTE = /[\s/]*(?:(>)|([^\s/>][^\s/>=]*)(?:\s*=\s*(?:"([^"]*)"?|'([^']*)'?|([^\s>"'][^\s>]*)?))?)/gy;
/** Elements whose content is text, which may look like markup. */
const RAW_TEXT = new Set(['script', 'style', 'title', 'textarea', 'noscript', 'xmp', 'iframe', 'noembed', 'noframes']);

/** The prescan of the HTML standard: what the first `<meta>` with a known encoding declares. */
function prescan(start: string): string | null {
  MARKUP.lastIndex = 0;
  for (let match = MARKUP.exec(start); match; match = MARKUP.exec(start)) {
    const [markup, name] = match;
    if (name === undefined) continue;
    const attributes = new Map<string, string>();
    ATTRIBUTE.lastIndex = MARKUP.lastIndex;
    for (let at = ATTRIBUTE.exec(start); at && at[1] === undefined; at = ATTRIBUTE.exec(start)) {
      MARKUP.lastIndex = ATTRIBUTE.lastIndex;
      const key = at[2]!.toLowerCase();
      if (!attributes.has(key)) attributes.set(key, at[3] ?? at[4] ?? at[5] ?? '');
    }
    const tag = name.toLowerCase();
    if (markup.startsWith('</')) continue;
    if (tag === 'body') return null;
    const encoding = tag === 'meta' ? usable(encodingOfMeta(attributes)) : null;
    if (encoding !== null) return encoding;
    if (RAW_TEXT.has(tag)) {
      const end = start.slice(MARKUP.lastIndex).search(new RegExp(`</${tag}[\\s/>]`, 'i'));
      if (end === -1) return null;
      MARKUP.lastIndex += end;
    }
  }
  return null;
}

function encodingOfMeta(attributes: ReadonlyMap<string, string>): string | null {
  const charset = attributes.get('charset');
  if (charset !== undefined) return labelToName(charset);
  if (attributes.get('http-equiv')?.toLowerCase() !== 'content-type') return null;
  const label = /charset\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s;"']+))/i.exec(attributes.get('content') ?? '');
  return label && labelToName((label[1] ?? label[2] ?? label[3])!);
}

/** Counts characters of two to four bytes that are valid UTF-8, and bytes that belong to none. */
function countUtf8(bytes: Uint8Array): { valid: number; invalid: number } {
  let [valid, invalid] = [0, 0];
  for (let i = 0; i < bytes.length;) {
    const byte = bytes[i]!;
    if (byte < 0x80) {
      i++;
      continue;
    }
    const length =
      byte >= 0xc2 && byte < 0xe0 ? 2 : byte >= 0xe0 && byte < 0xf0 ? 3 : byte >= 0xf0 && byte < 0xf5 ? 4 : 1;
    let end = i + 1;
    while (end < i + length && (bytes[end]! & 0xc0) === 0x80) end++;
    // A truncated page may end within a character.
    const isCut = length > 1 && end === bytes.length;
    if (end - i === length && length > 1) valid++;
    else if (!isCut) invalid++;
    i = end;
  }
  return { valid, invalid };
}
