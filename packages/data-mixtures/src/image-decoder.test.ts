import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { deflateSync } from 'node:zlib';
import sharp from 'sharp';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { seededStream } from '@flamingo-ts/random';
import { drawAugmentation, type Augmentation } from './augmentation';
import { ImageDecoder, type ImageFormat } from './image-decoder';
import { featureLoader, imageLoader } from './media';

const format: ImageFormat = { size: 8, fit: 'pad', mean: [0.4, 0.5, 0.6], std: [0.2, 0.25, 0.5] };
const folder = mkdtempSync(join(tmpdir(), 'images-'));
const at = (name: string) => join(folder, name);
const decoder = new ImageDecoder(format, { workers: 2 });

const plain = (width: number, height: number, color: string) =>
  sharp({ create: { width, height, channels: 3, background: color } });
const svg = (inner: string, size = 'width="40" height="20"') =>
  Buffer.from(`<svg xmlns="http://www.w3.org/2000/svg" ${size}>${inner}</svg>`);
const red = svg('<rect width="40" height="20" fill="#ff0000"/>');

/** A PNG that declares 60000 x 60000 pixels and contains almost no data. */
function bomb(): Buffer {
  const crcTable = Array.from({ length: 256 }, (_, n) => {
    let c = n;
    for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
    return c >>> 0;
  });
  const chunk = (type: string, data: Buffer) => {
    const body = Buffer.concat([Buffer.from(type), data]);
    const crc = ~body.reduce((c, byte) => crcTable[(c ^ byte) & 255]! ^ (c >>> 8), ~0) >>> 0;
    const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(data.length);
    sum.writeUInt32BE(crc);
    return Buffer.concat([length, body, sum]);
  };
  const header = Buffer.alloc(13);
  header.writeUInt32BE(60_000, 0);
  header.writeUInt32BE(60_000, 4);
  header.set([8, 2, 0, 0, 0], 8);
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  return Buffer.concat([
    signature,
    chunk('IHDR', header),
    chunk('IDAT', deflateSync(Buffer.alloc(1000))),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}

beforeAll(async () => {
  const noise = Buffer.from(Uint8Array.from({ length: 64 * 64 * 3 }, (_, i) => Math.imul(i, 2654435761) >>> 24));
  const jpeg = await sharp(noise, { raw: { width: 64, height: 64, channels: 3 } })
    .jpeg()
    .toBuffer();
  const png = await plain(64, 64, '#00ff00').png().toBuffer();
  writeFileSync(at('whole.jpg'), jpeg);
  writeFileSync(at('truncated.jpg'), jpeg.subarray(0, jpeg.length / 2));
  writeFileSync(at('broken.png'), Buffer.concat([png.subarray(0, 50), Buffer.alloc(20, 7), png.subarray(70)]));
  writeFileSync(at('bomb.png'), bomb());
  writeFileSync(at('text.png'), 'not an image');
  writeFileSync(at('empty.png'), '');
  execFileSync('mkfifo', [at('pipe.png')]);
});

afterAll(async () => {
  await decoder.close();
  rmSync(folder, { recursive: true });
});

const pixel = (pixels: ArrayLike<number>, x: number, y: number) =>
  Array.from({ length: 3 }, (_, c) => pixels[(y * 8 + x) * 3 + c]!);

describe('an image', () => {
  it('keeps its aspect ratio, centered on the mean color and normalized', async () => {
    const pixels = (await decoder.decode(red))!;
    expect(pixels).toHaveLength(8 * 8 * 3);
    // 40 x 20 becomes 8 x 4: two rows above and below are mean, exactly 0.
    expect(pixel(pixels, 4, 1)).toEqual([0, 0, 0]);
    expect(pixel(pixels, 4, 6)).toEqual([0, 0, 0]);
    const expected = [(1 - 0.4) / 0.2, -0.5 / 0.25, -0.6 / 0.5];
    pixel(pixels, 4, 3).forEach((v, c) => expect(v).toBeCloseTo(expected[c]!, 5));
  });

  it('has a border of the rounded mean color as bytes', async () => {
    const pixels = (await decoder.decodeBytes(red))!;
    expect(pixels).toBeInstanceOf(Uint8Array);
    expect(pixel(pixels, 0, 0)).toEqual([102, 128, 153]);
    expect(pixel(pixels, 0, 4)).toEqual([255, 0, 0]);
  });

  it('is cropped to a square with fit crop', async () => {
    const cropping = new ImageDecoder({ ...format, fit: 'crop' }, { workers: 1 });
    const halves = svg(
      '<rect width="10" height="20" fill="#0000ff"/><rect x="10" width="20" height="20" fill="#ff0000"/>',
    );
    const pixels = (await cropping.decodeBytes(halves))!;
    for (const [x, y] of [
      [0, 0],
      [7, 0],
      [0, 7],
      [7, 7],
    ] as const)
      expect(pixel(pixels, x, y)[0]).toBeGreaterThan(200);
    await cropping.close();
  });

  it.each([
    ['gray', () => plain(8, 8, '#808080').grayscale().png().toBuffer(), [128, 128, 128]],
    ['16 bits', () => plain(8, 8, '#804020').toColorspace('rgb16').png().toBuffer(), [128, 64, 32]],
    [
      'transparent',
      () =>
        sharp({ create: { width: 8, height: 8, channels: 4, background: '#00000000' } })
          .png()
          .toBuffer(),
      [255, 255, 255],
    ],
    ['one pixel', () => plain(1, 1, '#804020').gif().toBuffer(), [128, 64, 32]],
  ])('becomes RGB on white: %s', async (_kind, make, expected) => {
    const pixels = (await decoder.decodeBytes(await make()))!;
    pixel(pixels, 4, 4).forEach((v, c) => expect(Math.abs(v - expected[c]!)).toBeLessThanOrEqual(1));
  });

  it('is rotated by its EXIF orientation', async () => {
    const sideways = await sharp(red).jpeg().withMetadata({ orientation: 6 }).toBuffer();
    const pixels = (await decoder.decodeBytes(sideways))!;
    expect(pixel(pixels, 0, 4)).toEqual([102, 128, 153]);
    expect(pixel(pixels, 4, 0)[0]).toBeGreaterThan(240);
  });

  it('does not detach the bytes of the caller', async () => {
    const bytes = new Uint8Array(red);
    await decoder.decode(bytes);
    expect(bytes).toEqual(new Uint8Array(red));
  });
});

describe('an unreadable image', () => {
  it('is counted, named and skipped, whatever the reason', async () => {
    const own = new ImageDecoder(format, { workers: 1 });
    const names = ['truncated.jpg', 'broken.png', 'bomb.png', 'text.png', 'empty.png', 'missing.png', 'pipe.png', '.'];
    const results = await Promise.all(['whole.jpg', ...names].map((name) => own.decode(at(name))));
    expect(results.map((r) => r !== undefined)).toEqual([true, ...names.map(() => false)]);
    const { decoded, unreadable, failures } = own.report();
    expect([decoded, unreadable]).toEqual([1, names.length]);
    expect(failures.map((f) => f.name)).toEqual(names.map(at));
    expect(failures[2]!.reason).toContain('pixel limit');
    expect(failures[6]!.reason).toBe('not a regular file');
    await own.close();
  });

  it('includes SVG files that expand entities or load other files', async () => {
    const laughs = Array.from({ length: 12 }, (_, i) => `<!ENTITY e${i + 1} "${`&e${i};`.repeat(10)}">`).join('');
    const entities = Buffer.from(
      `<!DOCTYPE svg [<!ENTITY e0 "ha">${laughs}]><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><text>&e12;</text></svg>`,
    );
    expect(await decoder.decode(entities, 'entities')).toBeUndefined();
    expect(await decoder.decode(svg('<rect/>', 'width="90000" height="90000"'), 'huge drawing')).toBeUndefined();
    // A drawing that links to a file is accepted, but the file is not read.
    const linked = svg(`<image href="file://${at('whole.jpg')}" width="40" height="20"/>`);
    const pixels = (await decoder.decodeBytes(linked))!;
    expect(pixel(pixels, 4, 4)).toEqual([255, 255, 255]);
  });
});

describe('the worker pool', () => {
  afterEach(() => void vi.restoreAllMocks());
  /** Records every image that is sent to a worker. */
  const recordMessages = () => vi.spyOn(Worker.prototype, 'postMessage');

  it('sends all images to workers at once, so that they continue while this thread computes', async () => {
    const own = new ImageDecoder(format, { workers: 2 });
    const { mock } = recordMessages();
    const pixels = Array.from({ length: 30 }, () => own.decodeBytes(red));
    // Nothing has been awaited, so no reply has arrived.
    expect(mock.contexts).toHaveLength(30);
    const [first, second] = [...new Set(mock.contexts)].map((w) => mock.contexts.filter((c) => c === w).length);
    expect([first, second]).toEqual([15, 15]);
    for (const p of await Promise.all(pixels)) expect(pixel(p!, 0, 4)).toEqual([255, 0, 0]);
    await own.close();
  });

  it('replaces a worker that fails and loses only its current image', async () => {
    const own = new ImageDecoder(format, { workers: 1 });
    const { mock } = recordMessages();
    const pixels = ['first', 'second', 'third'].map((name) => own.decodeBytes(red, name));
    (mock.contexts[0] as Worker).emit('error', new Error('out of memory'));
    expect((await Promise.all(pixels)).map((p) => p !== undefined)).toEqual([false, true, true]);
    expect(own.report()).toEqual({
      decoded: 2,
      unreadable: 1,
      failures: [{ name: 'first', reason: 'the worker failed: out of memory' }],
    });
    await own.close();
    expect(new Set(mock.contexts).size).toBe(2);
    // A thread that has ended has the id -1.
    for (const worker of mock.contexts as Worker[]) await vi.waitFor(() => expect(worker.threadId).toBe(-1));
  });

  it('leaves no thread running after close()', async () => {
    const own = new ImageDecoder(format, { workers: 3 });
    const { mock } = recordMessages();
    const refused = Array.from({ length: 50 }, () => own.decode(at('whole.jpg')).catch((e: Error) => e.message));
    await own.close();
    expect(new Set(await Promise.all(refused))).toEqual(
      new Set([`ImageDecoder: closed while ${at('whole.jpg')} was waiting.`]),
    );
    expect(new Set(mock.contexts).size).toBe(3);
    for (const worker of mock.contexts as Worker[]) expect(worker.threadId).toBe(-1);
  });

  it('returns each of many concurrent images to its caller', async () => {
    const colors = Array.from({ length: 40 }, (_, i) => i * 6);
    const bytes = await Promise.all(colors.map((v) => plain(4, 4, `rgb(${v}, 0, 0)`).png().toBuffer()));
    const pixels = await Promise.all(bytes.map((b) => decoder.decodeBytes(b)));
    expect(pixels.map((p) => p![0])).toEqual(colors);
  });

  it('rejects images during and after close()', async () => {
    const own = new ImageDecoder(format, { workers: 1 });
    const waiting = [own.decode(red, 'first'), own.decode(red, 'second')].map((p) => p.catch((e: Error) => e.message));
    await own.close();
    expect(await Promise.all(waiting)).toEqual([
      'ImageDecoder: closed while first was waiting.',
      'ImageDecoder: closed while second was waiting.',
    ]);
    await expect(own.decode(red, 'late')).rejects.toThrow('late was requested after close()');
  });

  it('names a wrong argument', () => {
    expect(() => new ImageDecoder({ ...format, size: 0 })).toThrow('size must be a whole number of at least 1, got 0');
    expect(() => new ImageDecoder({ ...format, std: [1, 0, 1] })).toThrow(
      'std must be three numbers above 0, got [1,0,1]',
    );
    expect(() => new ImageDecoder({ ...format, mean: [0, NaN, 0] })).toThrow(
      'mean must be three numbers, got [0,null,0]',
    );
    expect(() => new ImageDecoder({ ...format, mean: 0.5 as never })).toThrow('mean must be three numbers, got 0.5');
    expect(() => new ImageDecoder({ ...format, fit: 'squash' as never })).toThrow(
      'fit must be one of pad, crop, got squash',
    );
    expect(() => new ImageDecoder({ ...format, size: '8' as never })).toThrow(
      'size must be a whole number of at least 1, got 8',
    );
    expect(() => imageLoader(decoder, NaN)).toThrow(
      'imageLoader: frames must be a whole number of at least 1, got NaN',
    );
    expect(() => featureLoader([1, 2.5, 4], () => undefined)).toThrow(
      'shape[1] must be a whole number of at least 1, got 2.5',
    );
    expect(() => new ImageDecoder(format, { workers: 0 })).toThrow(
      'workers must be a whole number of at least 1, got 0',
    );
  });
});

describe('a changed image', () => {
  const whole = { left: 0, top: 0, width: 1, height: 1 };
  const none: Augmentation = { crop: whole, flip: false, brightness: 1, contrast: 1, saturation: 1 };
  const decode = async (image: string | Uint8Array, augmentation: Partial<Augmentation> = {}) =>
    (await decoder.decodeBytes(image, 'image', { ...none, ...augmentation }))!;

  it('is the image itself if nothing is augmented', async () => {
    for (const image of [red, at('whole.jpg')]) {
      expect(await decode(image)).toEqual(await decoder.decodeBytes(image));
    }
  });

  it('is cropped after its orientation is applied, and mirrored', async () => {
    // Stored lying down: its left half is red. Turned by 90 degrees, the upper half is.
    const lying = await plain(16, 8, 'blue')
      .composite([{ input: await plain(8, 8, 'red').png().toBuffer(), left: 0, top: 0 }])
      .withMetadata({ orientation: 6 })
      .png()
      .toBuffer();
    const lower = await decode(lying, { crop: { left: 0, top: 0.5, width: 1, height: 0.5 } });
    expect([pixel(lower, 0, 0), pixel(lower, 7, 7)]).toEqual([
      [0, 0, 255],
      [0, 0, 255],
    ]);
    const half = await decode(svg('<rect width="20" height="40" fill="#ff0000"/>', 'width="40" height="40"'));
    const mirrored = await decode(svg('<rect width="20" height="40" fill="#ff0000"/>', 'width="40" height="40"'), {
      flip: true,
    });
    expect(pixel(half, 0, 4)).toEqual(pixel(mirrored, 7, 4));
    expect(pixel(half, 7, 4)).toEqual(pixel(mirrored, 0, 4));
    expect(pixel(half, 0, 4)).not.toEqual(pixel(half, 7, 4));
  });

  it('is recolored, but not its border', async () => {
    const border = [102, 128, 153];
    const changed = async (augmentation: Partial<Augmentation>) => {
      const pixels = await decode(svg('<rect width="40" height="20" fill="#64c832"/>'), augmentation);
      expect(pixel(pixels, 4, 0)).toEqual(border);
      return pixel(pixels, 4, 4);
    };
    // The gray of (100, 200, 50) is 153.
    expect(await changed({ brightness: 0.5 })).toEqual([50, 100, 25]);
    expect(await changed({ brightness: 2 })).toEqual([200, 255, 100]);
    expect(await changed({ contrast: 0 })).toEqual([153, 153, 153]);
    expect(await changed({ saturation: 0 })).toEqual([153, 153, 153]);
    expect(await changed({ saturation: 0.4 })).toEqual([132, 172, 112]);
  });

  it('is drawn within the limits of the configuration, equal for equal keys', () => {
    const config = { crop: 0.5, color: 0.2, flip: 0.5 };
    const draw = (key: number, more = {}) => drawAugmentation({ ...config, ...more }, seededStream(key));
    const changes = Array.from({ length: 500 }, (_, key) => draw(key));
    expect(draw(3)).toEqual(changes[3]);
    expect(draw(4)).not.toEqual(changes[3]);
    for (const { crop, brightness, contrast, saturation } of changes) {
      expect(crop.width * crop.height).toBeGreaterThan(0.42);
      expect(Math.max(crop.left + crop.width, crop.top + crop.height)).toBeLessThanOrEqual(1);
      for (const factor of [brightness, contrast, saturation]) expect(Math.abs(factor - 1)).toBeLessThanOrEqual(0.2);
    }
    const flipped = changes.filter(({ flip }) => flip).length;
    expect(Math.abs(flipped / 500 - 0.5)).toBeLessThan(0.1);
    // One key does not affect the draws of the others.
    expect(draw(5, { crop: undefined })).toEqual({ ...changes[5], crop: whole });
    expect(drawAugmentation({}, seededStream(1))).toEqual(none);
  });
});

describe('clips', () => {
  const frame = (v: number) => plain(8, 8, `rgb(${v}, ${v}, ${v})`).png().toBuffer();
  const firstValues = (pixels: Float32Array) =>
    Array.from({ length: pixels.length / 192 }, (_, f) => Math.round((pixels[f * 192]! * 0.2 + 0.4) * 255));

  it('give evenly spaced frames, or repeat the last one', async () => {
    const frames = await Promise.all([0, 10, 20, 30, 40].map(frame));
    const loader = imageLoader(decoder, 3);
    expect(loader.shape).toEqual([3, 8, 8, 3]);
    expect(firstValues((await loader.load({ frames }))!)).toEqual([0, 20, 40]);
    expect(firstValues((await loader.load({ frames: frames.slice(1, 3) }))!)).toEqual([10, 20, 20]);
    expect(firstValues((await imageLoader(decoder).load({ frames }))!)).toEqual([20]);
  });

  it('with a broken frame are unreadable, and the frame is named', async () => {
    const clip = { frames: [await frame(1), Buffer.from('x')], name: 'film' };
    expect(await imageLoader(decoder, 2).load(clip)).toBeUndefined();
    expect(decoder.report().failures.map((f) => f.name)).toContain('film frame 1');
    expect(await imageLoader(decoder, 2).load({ frames: [] })).toBeUndefined();
  });

  it('are rejected if they are keys', async () => {
    await expect(imageLoader(decoder).load({ key: 3 })).rejects.toThrow(
      'expected a file or bytes, got key 3. Use featureLoader',
    );
  });
});
