import { readFileSync } from 'node:fs';
import { Random } from '@flamingo-ts/kernels';
import sharp from 'sharp';
import { COUNTS, SIDE, STYLES, type Concept } from './concepts';

/** Side of a rendered drawing, from which the variants are made. */
const DRAWN = 64;
/** Drawings rendered at a time: enough to keep the threads of sharp busy. */
const DRAWN_AHEAD = 16;
/** Variants of a drawing: six with one copy, one with two copies, one with three. */
export const VARIANTS = 8;
const SINGLE_VARIANTS = 6;
export const CLIP_ACTIONS = ['grows', 'shrinks', 'turns', 'moves right'] as const;

export const COLORS = ['red', 'orange', 'yellow', 'green', 'blue', 'purple', 'brown', 'gray', 'white'] as const;
/** The main color covers at least this share of a drawing. */
const DOMINANT_SHARE = 0.5;
/** Black is the main color only above this share. Below, it is the outline. */
const BLACK_SHARE = 0.7;

/** Every concept in every style, rendered once: premultiplied RGBA bytes. */
export interface Drawings {
  /** uint8 [concepts * styles, 64, 64, 4] */
  readonly pixels: Uint8Array;
  /** Position in `COLORS` of the main color of each drawing, or -1. */
  readonly color: Int8Array;
}

/**
 * Renders every concept in every style with sharp, some of them ahead while this thread processes another.
 *
 * OpenMoji has a margin within its 72 units, and Twemoji fills its box. The first is cropped and the second padded, so that
 * both have the same size.
 *
 * @param onDrawn called with each drawing in order: its number and its pixels, uint8 [64, 64, 4]
 */
export async function drawConcepts(
  concepts: readonly Concept[],
  onDrawn: (drawing: number, pixels: Uint8Array) => void,
): Promise<Drawings> {
  const size = DRAWN * DRAWN * 4;
  const files = concepts.flatMap((concept) => concept.files);
  const pixels = new Uint8Array(files.length * size);
  const color = new Int8Array(files.length).fill(-1);
  const styleOf = (drawing: number) => STYLES[drawing % STYLES.length];
  const ahead: Promise<Uint8Array>[] = [];
  for (let started = 0, drawing = 0; drawing < files.length; drawing++) {
    for (; started < files.length && ahead.length < DRAWN_AHEAD; started++) {
      const raw = styleOf(started) === 'flat' ? drawTwemoji(files[started]!) : drawOpenMoji(files[started]!);
      // A failure is reported when this drawing is awaited below.
      raw.catch(() => undefined);
      ahead.push(raw);
    }
    const raw = await ahead.shift()!;
    if (styleOf(drawing) !== 'sketch') color[drawing] = dominantColor(raw);
    premultiply(raw);
    pixels.set(raw, drawing * size);
    onDrawn(drawing, raw);
  }
  return { pixels, color };
}

async function drawOpenMoji(file: string): Promise<Uint8Array> {
  const margin = (72 - DRAWN) / 2;
  return sharp(readFileSync(file), { density: 72 })
    .resize(72, 72)
    .extract({ left: margin, top: margin, width: DRAWN, height: DRAWN })
    .ensureAlpha()
    .raw()
    .toBuffer();
}

async function drawTwemoji(file: string): Promise<Uint8Array> {
  const inner = 56;
  const margin = (DRAWN - inner) / 2;
  const clear = { r: 0, g: 0, b: 0, alpha: 0 };
  return sharp(readFileSync(file), { density: (72 * inner) / 36 })
    .resize(inner, inner)
    .ensureAlpha()
    .extend({ top: margin, bottom: margin, left: margin, right: margin, background: clear })
    .raw()
    .toBuffer();
}

/** Position in `COLORS` of the color that covers at least half of the opaque pixels that are not black, or -1. */
export function dominantColor(rgba: Uint8Array): number {
  const counts = new Array<number>(COLORS.length).fill(0);
  let black = 0;
  let opaque = 0;
  for (let i = 0; i < rgba.length; i += 4) {
    if (rgba[i + 3]! < 128) continue;
    opaque++;
    const name = colorName(rgba[i]!, rgba[i + 1]!, rgba[i + 2]!);
    if (name === 'black') black++;
    else if (name !== 'pink') counts[COLORS.indexOf(name)]!++;
  }
  if (opaque === 0 || black >= BLACK_SHARE * opaque) return -1;
  const rest = opaque - black;
  const best = counts.indexOf(Math.max(...counts));
  return counts[best]! >= DOMINANT_SHARE * rest ? best : -1;
}

/** Name of a color by hue, saturation and value. */
function colorName(r: number, g: number, b: number): (typeof COLORS)[number] | 'black' | 'pink' {
  const max = Math.max(r, g, b);
  const min = Math.min(r, g, b);
  const value = max / 255;
  const saturation = max === 0 ? 0 : (max - min) / max;
  if (value < 0.25) return 'black';
  if (saturation < 0.15) return value > 0.88 ? 'white' : 'gray';
  if (saturation < 0.25 && value < 0.8) return 'gray';
  const d = max - min;
  let hue = max === r ? ((g - b) / d + 6) % 6 : max === g ? (b - r) / d + 2 : (r - g) / d + 4;
  hue *= 60;
  if (hue < 15 || hue >= 345) return value > 0.85 && saturation < 0.5 ? 'pink' : value < 0.55 ? 'brown' : 'red';
  if (hue < 42) return value < 0.72 || (saturation < 0.62 && value < 0.85) ? 'brown' : 'orange';
  if (hue < 68) return 'yellow';
  if (hue < 165) return 'green';
  if (hue < 255) return 'blue';
  if (hue < 300) return 'purple';
  return 'pink';
}

function premultiply(rgba: Uint8Array): void {
  for (let i = 0; i < rgba.length; i += 4) {
    const a = rgba[i + 3]! / 255;
    for (let c = 0; c < 3; c++) rgba[i + c] = Math.round(rgba[i + c]! * a);
  }
}

/** Placement of one copy of a drawing. Lengths are relative to the side of the image. */
interface Placement {
  readonly x: number;
  readonly y: number;
  readonly scale: number;
  readonly angle: number;
}

/**
 * Draws one variant of a drawing: moved, rotated, scaled, tinted, on a white or pastel background.
 *
 * @param source  premultiplied RGBA [64, 64, 4]
 * @param variant 0-5 one copy, 6 two copies, 7 three
 * @param out     uint8 [48, 48, 3]
 */
export function drawVariant(source: Uint8Array, variant: number, random: Random, out: Uint8Array): void {
  const jitter = (amount: number) => (random.uniform() * 2 - 1) * amount;
  const gain = [1 + jitter(0.1), 1 + jitter(0.1), 1 + jitter(0.1)] as const;
  const background = backgroundColor(random);
  const copies = Math.max(1, variant - SINGLE_VARIANTS + 2);
  const placements: Placement[] = [];
  if (copies === 1) {
    const scale = 0.8 + 0.3 * random.uniform();
    placements.push({ x: 0.5 + jitter(0.06), y: 0.5 + jitter(0.06), scale, angle: jitter(12) });
  } else {
    const centers = copies === 2 ? TWO : THREE;
    const scale = 0.46 + 0.08 * random.uniform();
    for (const [x, y] of centers) {
      placements.push({ x: x + jitter(0.03), y: y + jitter(0.03), scale, angle: jitter(12) });
    }
  }
  compose(source, placements, background, gain, out);
}

const TWO = [
  [0.27, 0.5],
  [0.73, 0.5],
] as const;
const THREE = [
  [0.27, 0.28],
  [0.73, 0.28],
  [0.5, 0.73],
] as const;

/**
 * Draws the frames of a clip in which one copy performs one of `CLIP_ACTIONS`.
 *
 * @param out uint8 [frames, 48, 48, 3]; the action spans all frames
 */
export function drawClip(source: Uint8Array, action: number, random: Random, out: Uint8Array): void {
  const background = backgroundColor(random);
  const frame = SIDE * SIDE * 3;
  const frames = out.length / frame;
  for (let f = 0; f < frames; f++) {
    const t = f / Math.max(1, frames - 1);
    const name = CLIP_ACTIONS[action];
    const scale = name === 'grows' ? 0.5 + 0.5 * t : name === 'shrinks' ? 1 - 0.5 * t : 0.8;
    const angle = name === 'turns' ? 135 * t : 0;
    const x = name === 'moves right' ? 0.3 + 0.4 * t : 0.5;
    compose(source, [{ x, y: 0.5, scale, angle }], background, [1, 1, 1], out.subarray(f * frame, (f + 1) * frame));
  }
}

function backgroundColor(random: Random): readonly [number, number, number] {
  if (random.uniform() < 0.5) return [255, 255, 255];
  const pastel = () => 215 + random.int(41);
  return [pastel(), pastel(), pastel()];
}

/** Draws each copy over the background with bilinear sampling. */
function compose(
  source: Uint8Array,
  placements: readonly Placement[],
  background: readonly [number, number, number],
  gain: readonly [number, number, number],
  out: Uint8Array,
): void {
  const maps = placements.map(({ x, y, scale, angle }) => {
    const step = DRAWN / (SIDE * scale);
    const a = (angle * Math.PI) / 180;
    return { cx: x * SIDE - 0.5, cy: y * SIDE - 0.5, c: Math.cos(a) * step, s: Math.sin(a) * step };
  });
  const [g0, g1, g2] = gain;
  for (let py = 0, o = 0; py < SIDE; py++) {
    for (let px = 0; px < SIDE; px++, o += 3) {
      let r = background[0];
      let g = background[1];
      let b = background[2];
      for (const m of maps) {
        const dx = px - m.cx;
        const dy = py - m.cy;
        const u = m.c * dx + m.s * dy + DRAWN / 2 - 0.5;
        const v = m.c * dy - m.s * dx + DRAWN / 2 - 0.5;
        if (u <= -1 || v <= -1 || u >= DRAWN || v >= DRAWN) continue;
        const x0 = Math.floor(u);
        const y0 = Math.floor(v);
        const fx = u - x0;
        const fy = v - y0;
        let sr = 0;
        let sg = 0;
        let sb = 0;
        let sa = 0;
        for (let k = 0; k < 4; k++) {
          const x = x0 + (k & 1);
          const y = y0 + (k >> 1);
          if (x < 0 || y < 0 || x >= DRAWN || y >= DRAWN) continue;
          const w = ((k & 1) === 1 ? fx : 1 - fx) * (k >> 1 === 1 ? fy : 1 - fy);
          const i = (y * DRAWN + x) * 4;
          sr += w * source[i]!;
          sg += w * source[i + 1]!;
          sb += w * source[i + 2]!;
          sa += w * source[i + 3]!;
        }
        const under = 1 - sa / 255;
        r = sr * g0 + r * under;
        g = sg * g1 + g * under;
        b = sb * g2 + b * under;
      }
      out[o] = r > 255 ? 255 : r + 0.5;
      out[o + 1] = g > 255 ? 255 : g + 0.5;
      out[o + 2] = b > 255 ? 255 : b + 0.5;
    }
  }
}

/** Position in `COUNTS` of the number of copies in a variant. */
export function countOf(variant: number): number {
  return Math.min(COUNTS.length - 1, Math.max(0, variant - SINGLE_VARIANTS + 1));
}
