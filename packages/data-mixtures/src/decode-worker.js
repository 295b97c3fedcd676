// Decodes images for ImageDecoder, one after the other. Plain JavaScript, because a worker does not inherit the parent's
// TypeScript loader: this file runs unchanged from the sources (under a test runner or tsx) and from dist.
import { readFile, stat } from 'node:fs/promises';
import { clearInterval, setInterval } from 'node:timers';
import { parentPort, workerData } from 'node:worker_threads';

/** Images of training data are far smaller. */
const MAX_FILE_BYTES = 256 * 2 ** 20;
/** 8192 x 8192. Without a limit, a malicious file of a few kilobytes could decompress to gigabytes. */
const MAX_PIXELS = 2 ** 26;
/**
 * An image that takes longer is broken or malicious, and the parent replaces this worker. The worker counts the seconds:
 * the parent may be busy for longer, and counted ticks do not include time that the machine sleeps.
 */
const MAX_SECONDS = 30;

const { size, fit, mean, std } = workerData;
const border = mean.map((m) => Math.round(m * 255));
const scales = mean.map((m, c) => Float32Array.from({ length: 256 }, (_, v) => (v / 255 - m) / std[c]));

import('sharp').then(
  ({ default: sharp }) => {
    // One thread per image: the number of workers determines how many cores decode.
    sharp.concurrency(1);
    sharp.cache(false);
    let latest = Promise.resolve();
    parentPort.on('message', (job) => (latest = latest.then(() => answer(sharp, job))));
  },
  (error) => parentPort.postMessage({ fatal: String(error?.message ?? error) }),
);

async function answer(sharp, { image, normalized, augmentation }) {
  let seconds = 0;
  const clock = setInterval(() => {
    if (++seconds === MAX_SECONDS) parentPort.postMessage({ stuck: `no answer within ${MAX_SECONDS} s` });
  }, 1000);
  try {
    const input = typeof image === 'string' ? await readImage(image) : image;
    const pixels = await decode(sharp, input, normalized, augmentation);
    parentPort.postMessage({ pixels }, [pixels.buffer]);
  } catch (error) {
    parentPort.postMessage({ error: String(error?.message ?? error) });
  } finally {
    clearInterval(clock);
  }
}

/** Reads a regular file of limited size. Rejects pipes, because opening one can block forever. */
async function readImage(path) {
  const info = await stat(path);
  if (!info.isFile()) throw new Error('not a regular file');
  if (info.size > MAX_FILE_BYTES)
    throw new Error(`the file has ${info.size} bytes, more than the limit of ${MAX_FILE_BYTES}`);
  return readFile(path);
}

/** RGB [size, size, 3]: transparency on white, EXIF orientation applied, first frame of an animation. */
async function decode(sharp, input, normalized, augmentation) {
  const options = { limitInputPixels: MAX_PIXELS, failOn: 'error' };
  const oriented = sharp(input, options).autoOrient();
  const isCropped = augmentation && (augmentation.crop.width < 1 || augmentation.crop.height < 1);
  const cropped = isCropped ? oriented.extract(await cropOf(sharp(input, options), augmentation)) : oriented;
  const { data, info } = await cropped
    .flatten({ background: '#ffffff' })
    .toColorspace('srgb')
    .resize({ width: size, height: size, fit: fit === 'pad' ? 'inside' : 'cover', kernel: 'cubic' })
    .raw({ depth: 'uchar' })
    .toBuffer({ resolveWithObject: true });
  if (info.channels !== 3) throw new Error(`${info.channels} channels after conversion to RGB`);
  if (augmentation?.flip) mirror(data, info.width);
  if (augmentation) recolor(data, augmentation);
  return place(data, info.width, info.height, normalized);
}

/** The part of an image to keep, in pixels after its EXIF orientation is applied. */
async function cropOf(image, { crop }) {
  const { width, height } = (await image.metadata()).autoOrient;
  const [w, h] = [Math.max(1, Math.round(crop.width * width)), Math.max(1, Math.round(crop.height * height))];
  const start = (share, all, kept) => Math.min(Math.round(share * all), all - kept);
  return { left: start(crop.left, width, w), top: start(crop.top, height, h), width: w, height: h };
}

function mirror(data, width) {
  for (let row = 0; row < data.length; row += width * 3) {
    for (let a = row, b = row + (width - 1) * 3; a < b; a += 3, b -= 3) {
      for (let c = 0; c < 3; c++) [data[a + c], data[b + c]] = [data[b + c], data[a + c]];
    }
  }
}

/** Brightness, then contrast around the mean gray of the image, then saturation around the gray of each pixel. */
function recolor(data, { brightness, contrast, saturation }) {
  const gray = (i) => 0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2];
  let sum = 0;
  for (let i = 0; i < data.length; i += 3) sum += gray(i);
  const mean = (brightness * sum) / (data.length / 3);
  for (let i = 0; i < data.length; i += 3) {
    const own = mean + contrast * (brightness * gray(i) - mean);
    for (let c = 0; c < 3; c++) {
      const value = mean + contrast * (brightness * data[i + c] - mean);
      data[i + c] = Math.round(Math.max(0, Math.min(255, own + saturation * (value - own))));
    }
  }
}

/** Centers the image on a square of the mean color, which is 0 after normalization. */
function place(data, width, height, normalized) {
  const pixels = new (normalized ? Float32Array : Uint8Array)(size * size * 3);
  if (!normalized) for (let i = 0; i < pixels.length; i++) pixels[i] = border[i % 3];
  const left = (size - width) >> 1;
  const top = (size - height) >> 1;
  for (let y = 0; y < height; y++) {
    let to = ((top + y) * size + left) * 3;
    for (let from = y * width * 3; from < (y + 1) * width * 3; from++, to++) {
      pixels[to] = normalized ? scales[from % 3][data[from]] : data[from];
    }
  }
  return pixels;
}
