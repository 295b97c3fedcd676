import { expectColor, expectOneOf, expectWhole } from './checks';

/** An image as RGB bytes, row by row. */
export interface RgbImage {
  readonly width: number;
  readonly height: number;
  /** `height * width * 3` bytes. */
  readonly data: Uint8Array | Uint8ClampedArray;
}

/** How an image is converted to the square input of a vision encoder. */
export interface PreprocessConfig {
  /** Side of the result in pixels. */
  readonly size: number;
  /**
   * `crop`: shortest side to `resizeTo`, then the middle (CLIP). `squash`: both sides to `resizeTo`, then the middle (NFNet's
   * ImageNet evaluation). `pad`: longest side to `size`, centered on the mean color (Flamingo, appendix B.1.2).
   */
  readonly fit: 'crop' | 'squash' | 'pad';
  /** Side before cropping. Defaults to `size`. */
  readonly resizeTo?: number;
  /** Channel means and deviations, after division by 255. */
  readonly mean: readonly [number, number, number];
  readonly std: readonly [number, number, number];
}

/** Resizes, crops or pads, and normalizes an image: float32 `[size, size, 3]`. */
export function preprocess(image: RgbImage, config: PreprocessConfig): Float32Array {
  const { size, fit, resizeTo = size } = config;
  expectWhole('preprocess: size', size, 1);
  expectOneOf('preprocess: fit', fit, ['crop', 'squash', 'pad']);
  expectWhole('preprocess: resizeTo', resizeTo, 1);
  expectColor('preprocess: mean', config.mean);
  expectColor('preprocess: std', config.std, true);
  if (resizeTo < size) throw new Error(`preprocess: resizeTo must be at least size ${size}, got ${resizeTo}.`);
  if (fit === 'squash') return normalize(centerCrop(resizeBicubic(image, resizeTo, resizeTo), size, size), config);
  const { width, height } = image;
  if (fit === 'crop') {
    const short = Math.min(width, height);
    const side = (n: number) => (n === short ? resizeTo : Math.floor((resizeTo * n) / short));
    return normalize(centerCrop(resizeBicubic(image, side(width), side(height)), size, size), config);
  }
  const long = Math.max(width, height);
  const side = (n: number) => Math.max(1, Math.round((size * n) / long));
  return padSquare(resizeBicubic(image, side(width), side(height)), size, config);
}

/**
 * Bicubic resize like Pillow's: antialiased when reducing, rounded to bytes after each of the two passes. Published encoders
 * were trained on images resized this way.
 */
export function resizeBicubic(image: RgbImage, width: number, height: number): RgbImage {
  checkBytes(image);
  if (!(Number.isInteger(width) && Number.isInteger(height) && width >= 1 && height >= 1)) {
    throw new Error(`resizeBicubic: the new size must be at least 1 x 1 in whole pixels, got ${width} x ${height}.`);
  }
  const row = { lines: image.height, step: 3, lineStep: image.width * 3, outStep: 3, outLineStep: width * 3 };
  const narrow = resizeAxis(image.data, image.width, width, row, width * image.height * 3);
  const column = { lines: width, step: width * 3, lineStep: 3, outStep: width * 3, outLineStep: 3 };
  return { width, height, data: resizeAxis(narrow, image.height, height, column, width * height * 3) };
}

/** Crops to the center. Rounds odd offsets half to even, like torchvision. */
export function centerCrop(image: RgbImage, width: number, height: number): RgbImage {
  const left = roundHalfEven((image.width - width) / 2);
  const top = roundHalfEven((image.height - height) / 2);
  if (left < 0 || top < 0) {
    throw new Error(
      `centerCrop: the image is ${image.width} x ${image.height}, smaller than the crop of ${width} x ${height}. Resize it first.`,
    );
  }
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    const from = ((top + y) * image.width + left) * 3;
    data.set(image.data.subarray(from, from + width * 3), y * width * 3);
  }
  return { width, height, data };
}

/** Converts bytes to `(v / 255 - mean) / std`: float32 `[height, width, 3]`. */
export function normalize(image: RgbImage, { mean, std }: Pick<PreprocessConfig, 'mean' | 'std'>): Float32Array {
  // A table per channel is faster than arithmetic per byte.
  const tables = mean.map((m, c) => Float32Array.from({ length: 256 }, (_, v) => (v / 255 - m) / std[c]!));
  const [red, green, blue] = tables as [Float32Array, Float32Array, Float32Array];
  const { data } = image;
  const out = new Float32Array(data.length);
  for (let i = 0; i < data.length; i += 3) {
    out[i] = red[data[i]!]!;
    out[i + 1] = green[data[i + 1]!]!;
    out[i + 2] = blue[data[i + 2]!]!;
  }
  return out;
}

/** Normalizes and centers on a square of zeros, which is the mean color after normalization. */
function padSquare(image: RgbImage, size: number, config: PreprocessConfig): Float32Array {
  const values = normalize(image, config);
  const out = new Float32Array(size * size * 3);
  const left = Math.floor((size - image.width) / 2);
  const top = Math.floor((size - image.height) / 2);
  const line = image.width * 3;
  for (let y = 0; y < image.height; y++) {
    out.set(values.subarray(y * line, (y + 1) * line), ((top + y) * size + left) * 3);
  }
  return out;
}

/** Memory layout of a pass: distances in bytes along the resized axis and between lines across it. */
interface Layout {
  readonly lines: number;
  readonly step: number;
  readonly lineStep: number;
  readonly outStep: number;
  readonly outLineStep: number;
}

function resizeAxis(data: RgbImage['data'], from: number, to: number, at: Layout, bytes: number): RgbImage['data'] {
  if (from === to) return data;
  const { starts, counts, weights, taps } = bicubicWeights(from, to);
  const out = new Uint8ClampedArray(bytes);
  for (let i = 0; i < to; i++) {
    const first = starts[i]! * at.step;
    const count = counts[i]!;
    for (let line = 0; line < at.lines; line++) {
      let source = line * at.lineStep + first;
      let [r, g, b] = [0.5, 0.5, 0.5];
      for (let k = 0; k < count; k++, source += at.step) {
        const w = weights[i * taps + k]!;
        r += w * data[source]!;
        g += w * data[source + 1]!;
        b += w * data[source + 2]!;
      }
      // Floor of v + 0.5 is Pillow's rounding. The clamped array clips, but would round half to even.
      const target = line * at.outLineStep + i * at.outStep;
      out[target] = Math.floor(r);
      out[target + 1] = Math.floor(g);
      out[target + 2] = Math.floor(b);
    }
  }
  return out;
}

/** The input pixels of every output pixel, and their weights, which sum to 1. */
function bicubicWeights(from: number, to: number) {
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const support = 2 * stretch;
  const taps = Math.ceil(support) * 2 + 1;
  const starts = new Int32Array(to);
  const counts = new Int32Array(to);
  const weights = new Float64Array(to * taps);
  for (let i = 0; i < to; i++) {
    const center = (i + 0.5) * scale;
    const start = Math.max(0, Math.floor(center - support + 0.5));
    const count = Math.min(from, Math.floor(center + support + 0.5)) - start;
    let total = 0;
    for (let k = 0; k < count; k++) total += weights[i * taps + k] = bicubic((start + k - center + 0.5) / stretch);
    for (let k = 0; k < count; k++) weights[i * taps + k]! /= total;
    starts[i] = start;
    counts[i] = count;
  }
  return { starts, counts, weights, taps };
}

/** Keys' cubic with a = -0.5. */
function bicubic(x: number): number {
  const d = Math.abs(x);
  if (d < 1) return (1.5 * d - 2.5) * d * d + 1;
  return d < 2 ? ((-0.5 * d + 2.5) * d - 4) * d + 2 : 0;
}

function roundHalfEven(v: number): number {
  const floor = Math.floor(v);
  return v - floor === 0.5 ? floor + (floor % 2) : Math.round(v);
}

function checkBytes({ width, height, data }: RgbImage): void {
  if (data.length !== width * height * 3) {
    throw new Error(
      `resizeBicubic: an image of ${width} x ${height} must hold ${width * height * 3} RGB bytes, got ${data.length}. ` +
        'Drop the alpha channel first.',
    );
  }
}
