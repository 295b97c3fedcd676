import { expectClose, loadReference } from '@flamingo-ts/testing';
import { describe, expect, it } from 'vitest';
import { centerCrop, normalize, preprocess, resizeBicubic, type RgbImage } from './resize';

const MEAN = [0.5, 0.25, 0] as const;
const STD = [0.5, 0.25, 1] as const;

/** An image with a fixed pattern of bytes. */
function madeImage(width: number, height: number): RgbImage {
  const data = Uint8Array.from({ length: width * height * 3 }, (_, i) => (i * 37 + (i >> 3) * 11) % 256);
  return { width, height, data };
}

// Bytes resized by Pillow, and the evaluation pipelines of CLIP (torchvision) and NFNet (timm).
const reference = loadReference(new URL('../test/reference/image_preprocess', import.meta.url));

describe('against Pillow, torchvision and timm', () => {
  const { bicubic_down: down, bicubic_up: up, clip, dm } = reference.meta.hyperparameters;
  const stored = reference.tensors['image']!;
  const image: RgbImage = {
    width: stored.shape[1]!,
    height: stored.shape[0]!,
    data: Uint8Array.from(stored.data as Float32Array),
  };
  /** `[size, size, 3]` to channels first, as the reference has them. */
  const channelsFirst = (x: Float32Array) =>
    Float32Array.from(x, (_, i) => x[(i % (x.length / 3)) * 3 + Math.floor(i / (x.length / 3))]!);

  it('resizes to the same bytes, smaller and larger', () => {
    expectClose(resizeBicubic(image, down.width, down.height).data, reference.tensors['out.bicubic_down']!, {
      atol: 0,
    });
    expectClose(resizeBicubic(image, up.width, up.height).data, reference.tensors['out.bicubic_up']!, { atol: 0 });
  });

  it('matches CLIP: shortest side, center crop, normalized', () => {
    const out = preprocess(image, { size: 16, fit: 'crop', mean: clip.mean, std: clip.std });
    expectClose(channelsFirst(out), reference.tensors['out.clip_final']!.data as Float32Array, { atol: 1e-6 });
  });

  it('matches timm for NFNet: squashed, center crop, normalized', () => {
    const out = preprocess(image, {
      size: 16,
      fit: 'squash',
      resizeTo: dm.resize_both_sides_to,
      mean: dm.mean,
      std: dm.std,
    });
    expectClose(channelsFirst(out), reference.tensors['out.dm_final']!.data as Float32Array, { atol: 1e-6 });
  });
});

describe('resizeBicubic', () => {
  it('does not change an image of the same size', () => {
    const image = madeImage(5, 4);
    expect(resizeBicubic(image, 5, 4).data).toEqual(image.data);
  });

  it('preserves a uniform color when enlarging and reducing', () => {
    const plain: RgbImage = { width: 9, height: 7, data: new Uint8Array(9 * 7 * 3).fill(201) };
    for (const [w, h] of [
      [4, 3],
      [20, 15],
      [1, 1],
    ] as const) {
      expect([...new Set(resizeBicubic(plain, w, h).data)]).toEqual([201]);
    }
  });

  it('clips overshoot at an edge', () => {
    const edge: RgbImage = {
      width: 4,
      height: 1,
      data: Uint8Array.from([0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255]),
    };
    const { data } = resizeBicubic(edge, 16, 1);
    expect(Math.min(...data)).toBe(0);
    expect(Math.max(...data)).toBe(255);
  });

  it('commutes with transposing the image', () => {
    const image = madeImage(6, 11);
    const turn = ({ width, height, data }: RgbImage): RgbImage => {
      const out = new Uint8Array(data.length);
      for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++)
          for (let c = 0; c < 3; c++) out[(x * height + y) * 3 + c] = data[(y * width + x) * 3 + c]!;
      return { width: height, height: width, data: out };
    };
    const straight = turn(resizeBicubic(image, 4, 5)).data;
    const turned = resizeBicubic(turn(image), 5, 4).data;
    // The passes round in another order, so a byte may differ by one.
    straight.forEach((v, i) => expect(Math.abs(v - turned[i]!)).toBeLessThanOrEqual(1));
  });

  it('names the expected number of bytes', () => {
    expect(() => resizeBicubic({ width: 2, height: 2, data: new Uint8Array(16) }, 1, 1)).toThrow(
      /hold 12 RGB bytes, got 16/,
    );
  });
});

describe('preprocess', () => {
  it('normalizes by channel', () => {
    const image: RgbImage = { width: 1, height: 1, data: Uint8Array.from([255, 0, 51]) };
    expect([...normalize(image, { mean: MEAN, std: STD })]).toEqual([1, -1, Math.fround(0.2)]);
  });

  it('crops the center, with offsets rounded half to even', () => {
    const image = madeImage(5, 7);
    expect([...centerCrop(image, 2, 4).data.subarray(0, 3)]).toEqual([
      ...image.data.subarray((2 * 5 + 2) * 3, (2 * 5 + 2) * 3 + 3),
    ]);
    expect(() => centerCrop(image, 6, 6)).toThrow(/5 x 7, smaller than the crop of 6 x 6/);
  });

  it('returns a square for any image and fit', () => {
    for (const fit of ['crop', 'squash', 'pad'] as const) {
      for (const image of [madeImage(13, 5), madeImage(5, 13), madeImage(8, 8), madeImage(300, 1)]) {
        const out = preprocess(image, { size: 8, fit, mean: MEAN, std: STD });
        expect(out.length).toBe(8 * 8 * 3);
        expect(out.every(Number.isFinite)).toBe(true);
      }
    }
  });

  it('pads with the mean color, which is 0', () => {
    const white: RgbImage = { width: 8, height: 4, data: new Uint8Array(8 * 4 * 3).fill(255) };
    const out = preprocess(white, { size: 8, fit: 'pad', mean: MEAN, std: STD });
    const rows = Array.from({ length: 8 }, (_, y) => [...out.subarray(y * 24, y * 24 + 3)]);
    expect(rows.map((r) => r[0])).toEqual([0, 0, 1, 1, 1, 1, 0, 0]);
    expect(rows[2]).toEqual([1, 3, 1]);
  });

  it('names a wrong argument', () => {
    const config = { size: 8, fit: 'pad', mean: MEAN, std: STD } as const;
    const prepare = (more: object) => () => preprocess(madeImage(9, 9), { ...config, ...more });
    expect(prepare({ size: 1.5 })).toThrow('preprocess: size must be a whole number of at least 1, got 1.5');
    expect(prepare({ fit: 'inside' })).toThrow('preprocess: fit must be one of crop, squash, pad, got inside');
    expect(prepare({ resizeTo: NaN })).toThrow('preprocess: resizeTo must be');
    expect(prepare({ std: [1, 1] })).toThrow('preprocess: std must be three numbers above 0, got [1,1]');
    expect(() => resizeBicubic(madeImage(9, 9), 3.5, 3)).toThrow('at least 1 x 1 in whole pixels, got 3.5 x 3');
  });

  it('rejects a crop larger than the resized image', () => {
    expect(() => preprocess(madeImage(9, 9), { size: 8, resizeTo: 7, fit: 'crop', mean: MEAN, std: STD })).toThrow(
      /resizeTo must be at least size 8, got 7/,
    );
  });
});
