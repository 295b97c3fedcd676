// Decodes images for ImageDecoder: it may be given many, and decodes one after the other. Plain JavaScript: this file runs as it stands, from the sources
// (under a test runner or tsx) and from dist alike, because a worker does not inherit the parent's TypeScript loader.
import { readFile, stat } from 'node:fs/promises';
import { clearInterval, setInterval } from 'node:timers';
import { parentPort, workerData } from 'node:worker_threads';

/** A file larger than this is no image of a training set. */
const MAX_FILE_BYTES = 256 * 2 ** 20;
/** 8192 x 8192: beyond it a few kilobytes of a hostile file would unfold to gigabytes. */
const MAX_PIXELS = 2 ** 26;
/**
 * An image that takes so many seconds is hostile or broken, and this worker is to be replaced. They are counted here one
 * by one: the thread that asked may compute for longer and hear of nothing, and a machine that sleeps loses no image.
 */
const MAX_SECONDS = 30;

const { size, fit, mean, std } = workerData;
const border = mean.map((m) => Math.round(m * 255));
const scales = mean.map((m, c) => Float32Array.from({ length: 256 }, (_, v) => (v / 255 - m) / std[c]));

import('sharp').then(
  ({ default: sharp }) => {
    // One thread an image: the pool's size is what decides how many cores decode.
    sharp.concurrency(1);
    sharp.cache(false);
    let latest = Promise.resolve();
    parentPort.on('message', (job) => (latest = latest.then(() => answer(sharp, job))));
  },
  (error) => parentPort.postMessage({ fatal: String(error?.message ?? error) }),
);

async function answer(sharp, { image, normalised }) {
  let seconds = 0;
  const clock = setInterval(() => {
    if (++seconds === MAX_SECONDS) parentPort.postMessage({ stuck: `no answer within ${MAX_SECONDS} s` });
  }, 1000);
  try {
    const input = typeof image === 'string' ? await readImage(image) : image;
    const pixels = await decode(sharp, input, normalised);
    parentPort.postMessage({ pixels }, [pixels.buffer]);
  } catch (error) {
    parentPort.postMessage({ error: String(error?.message ?? error) });
  } finally {
    clearInterval(clock);
  }
}

/** Reads a regular file of sane size; opening a pipe would block for ever. */
async function readImage(path) {
  const info = await stat(path);
  if (!info.isFile()) throw new Error('not a regular file');
  if (info.size > MAX_FILE_BYTES) throw new Error(`${info.size} bytes are more than ${MAX_FILE_BYTES}`);
  return readFile(path);
}

/** RGB [size, size, 3]: transparency on white, turned as the camera says, first frame of an animation. */
async function decode(sharp, input, normalised) {
  const { data, info } = await sharp(input, { limitInputPixels: MAX_PIXELS, failOn: 'error' })
    .autoOrient()
    .flatten({ background: '#ffffff' })
    .toColourspace('srgb')
    .resize({ width: size, height: size, fit: fit === 'pad' ? 'inside' : 'cover', kernel: 'cubic' })
    .raw({ depth: 'uchar' })
    .toBuffer({ resolveWithObject: true });
  if (info.channels !== 3) throw new Error(`${info.channels} channels after conversion to RGB`);
  return place(data, info.width, info.height, normalised);
}

/** Sets the image in the middle of a square of the mean colour, which is 0 after normalisation. */
function place(data, width, height, normalised) {
  const pixels = new (normalised ? Float32Array : Uint8Array)(size * size * 3);
  if (!normalised) for (let i = 0; i < pixels.length; i++) pixels[i] = border[i % 3];
  const left = (size - width) >> 1;
  const top = (size - height) >> 1;
  for (let y = 0; y < height; y++) {
    let to = ((top + y) * size + left) * 3;
    for (let from = y * width * 3; from < (y + 1) * width * 3; from++, to++) {
      pixels[to] = normalised ? scales[from % 3][data[from]] : data[from];
    }
  }
  return pixels;
}
