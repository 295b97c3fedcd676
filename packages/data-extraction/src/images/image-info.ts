import { createHash } from 'node:crypto';
import sharp from 'sharp';
import type { ImageFormat, Preset } from '../filters/presets';

export const IMAGE_LIMITS = {
  /** Maximum size of an encoded image. */
  bytes: 32 * 2 ** 20,
  /** 8192 x 8192. A hostile file of a few kilobytes could decode to gigabytes. */
  pixels: 2 ** 26,
} as const;

/** The properties of an image that filters use. */
export interface ImageInfo {
  /** File name: the SHA-256 of the content, and the extension of its format. */
  readonly file: string;
  readonly width: number;
  readonly height: number;
  /** Perceptual hash, 16 hexadecimal digits. */
  readonly perceptualHash: string;
}

// One thread per image: the number of workers determines how many cores are used.
sharp.concurrency(1);
sharp.cache(false);

/** Recognizes the format by the first bytes; undefined for formats that are not decoded. */
export function sniffFormat(bytes: Uint8Array): ImageFormat | undefined {
  const ascii = (from: number, to: number) => String.fromCharCode(...bytes.subarray(from, to));
  if (bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff) return 'jpeg';
  if (ascii(0, 8) === '\x89PNG\r\n\x1a\n') return 'png';
  if (/^GIF8[79]a$/.test(ascii(0, 6))) return 'gif';
  if (ascii(0, 4) === 'RIFF' && ascii(8, 12) === 'WEBP') return 'webp';
  if (ascii(4, 8) === 'ftyp' && /^avi[fs]$/.test(ascii(8, 12))) return 'avif';
  return undefined;
}

/** @returns the properties of the image, or why the preset drops it */
export async function examineImage(bytes: Uint8Array, rules: Preset['image']): Promise<ImageInfo | string> {
  if (bytes.length > IMAGE_LIMITS.bytes) return 'file too large';
  const format = sniffFormat(bytes);
  if (!format || !rules.formats.includes(format)) return 'format';
  try {
    // Applying a color profile takes longer than decoding most images, and hardly changes the perceptual hash.
    const image = sharp(bytes, { limitInputPixels: IMAGE_LIMITS.pixels, failOn: 'error', ignoreIcc: true });
    const { width = 0, height = 0, autoOrient } = pngSize(bytes) ?? (await image.metadata());
    const reason = sizeReason(width, height, rules);
    if (reason) return reason;
    const { data } = await image
      .flatten({ background: '#ffffff' })
      .toColorspace('srgb')
      .resize(SIDE, SIDE, { fit: 'fill' })
      .raw({ depth: 'uchar' })
      .toBuffer({ resolveWithObject: true });
    if (isSingleColor(data)) return 'single color';
    const file = `${createHash('sha256').update(bytes).digest('hex').slice(0, 40)}.${format === 'jpeg' ? 'jpg' : format}`;
    return {
      file,
      width: autoOrient?.width ?? width,
      height: autoOrient?.height ?? height,
      perceptualHash: perceptualHashOf(data),
    };
  } catch {
    return 'unreadable';
  }
}

/** Size of a PNG from its first chunk; undefined for other formats, and if EXIF data may rotate it. */
function pngSize(bytes: Uint8Array): { width: number; height: number; autoOrient?: undefined } | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (sniffFormat(bytes) !== 'png' || bytes.length < 33 || view.getUint32(12) !== CHUNKS.header) return undefined;
  for (let at = 8; at + 8 <= bytes.length; at += 12 + view.getUint32(at)) {
    const chunk = view.getUint32(at + 4);
    if (chunk === CHUNKS.exif) return undefined;
    if (chunk === CHUNKS.data) return { width: view.getUint32(16), height: view.getUint32(20) };
  }
  return undefined;
}

/** Types of PNG chunks: IHDR, IDAT and eXIf. */
const CHUNKS = { header: 0x49484452, data: 0x49444154, exif: 0x65584966 } as const;

function sizeReason(width: number, height: number, rules: Preset['image']): string | undefined {
  const [small, large] = width < height ? [width, height] : [height, width];
  if (width * height > IMAGE_LIMITS.pixels || large > rules.maxSide) return 'too many pixels';
  if (small < rules.minSide) return 'too small';
  return large > rules.maxRatio * small ? 'aspect ratio' : undefined;
}

/** Side in pixels of the copy that is hashed and checked for a single color. */
const SIDE = 32;
const KEPT = 8;

/** Whether all pixels are within 8 of 256 levels of each other. @param rgb uint8 [32, 32, 3] */
function isSingleColor(rgb: Uint8Array): boolean {
  for (let channel = 0; channel < 3; channel++) {
    let [low, high] = [255, 0];
    for (let i = channel; i < rgb.length; i += 3) {
      low = Math.min(low, rgb[i]!);
      high = Math.max(high, rgb[i]!);
    }
    if (high - low > 8) return false;
  }
  return true;
}

const COSINES = Float64Array.from({ length: KEPT * SIDE }, (_, i) =>
  Math.cos((Math.PI / SIDE) * ((i % SIDE) + 0.5) * Math.floor(i / SIDE)),
);

/**
 * Perceptual hash: which of the 64 lowest cosine frequencies of the brightness are above their median. Scaling,
 * recompression and a little noise change few bits.
 *
 * @param rgb uint8 [32, 32, 3]
 */
function perceptualHashOf(rgb: Uint8Array): string {
  const rows = new Float64Array(SIDE * KEPT); // [y, u]
  for (let y = 0; y < SIDE; y++) {
    for (let u = 0; u < KEPT; u++) {
      let sum = 0;
      for (let x = 0; x < SIDE; x++) {
        const at = (y * SIDE + x) * 3;
        sum += (0.299 * rgb[at]! + 0.587 * rgb[at + 1]! + 0.114 * rgb[at + 2]!) * COSINES[u * SIDE + x]!;
      }
      rows[y * KEPT + u] = sum;
    }
  }
  const frequencies = Float64Array.from({ length: KEPT * KEPT }, (_, i) => {
    const [v, u] = [Math.floor(i / KEPT), i % KEPT];
    let sum = 0;
    for (let y = 0; y < SIDE; y++) sum += rows[y * KEPT + u]! * COSINES[v * SIDE + y]!;
    return sum;
  });
  const median = Float64Array.from(frequencies.subarray(1)).sort()[31]!;
  let hex = '';
  for (let i = 0; i < 64; i += 4) {
    let digit = 0;
    for (let k = 0; k < 4; k++) if (frequencies[i + k]! > median) digit |= 8 >> k;
    hex += digit.toString(16);
  }
  return hex;
}

/** Bits in which two hashes differ, 0 to 64. */
export function hashDistance(a: string, b: string): number {
  let bits = 0;
  for (let i = 0; i < 16; i += 8) {
    let x = Number.parseInt(a.slice(i, i + 8), 16) ^ Number.parseInt(b.slice(i, i + 8), 16);
    for (; x !== 0; x &= x - 1) bits++;
  }
  return bits;
}
