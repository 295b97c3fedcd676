import type * as tf from '@tensorflow/tfjs-core';
import type { OneDnnBackend, NativeKernel } from '../onednn/onednn-backend';
import { sizeOf } from '../shared/pooled-backend';
import { dense, heads, swapped, type Sizes } from './heads';
import { gatherRows } from './move';
import { product } from '../onednn/product';
import { softmaxGradient, softmaxRows } from './softmax';

/** `MediaSegments` of `@flamingo-ts/kernels`, as far as it is used here: the place of each row of text in the tiles. */
interface Segments {
  readonly batch: number;
  readonly text: number;
  readonly media: number;
  readonly tiles: number;
  readonly tileLength: number;
  /** Tiles of one image follow each other. */
  readonly imageOfTile: Int32Array;
  /** The row at each place; `batch * text` where there is none. */
  readonly rowOfPlace: Int32Array;
}

interface Attrs {
  readonly numHeads: number;
  readonly scale: number;
  readonly segments: Segments;
}

/** Rows that follow each other in the text and in the tiles alike: they are copied together. */
interface Run {
  readonly row: number;
  readonly place: number;
  count: number;
}

function runsOf({ rowOfPlace, batch, text }: Segments): Run[] {
  const runs: Run[] = [];
  let last: Run | undefined;
  for (let place = 0; place < rowOfPlace.length; place++) {
    const row = rowOfPlace[place]!;
    if (row === batch * text) continue;
    if (last && row === last.row + last.count && place === last.place + last.count) last.count++;
    else runs.push((last = { row, place, count: 1 }));
  }
  return runs;
}

/**
 * Converts text and images of one call to tiles, and back. Data in the order of the tiles is used in place; other data is
 * copied to buffers that `release` frees.
 */
class Tiles {
  private readonly runs: readonly Run[];
  /** The tiles are the text, row by row. */
  private readonly rowsInPlace: boolean;
  /** The tiles' images are all images, one by one. */
  private readonly imagesInPlace: boolean;
  private readonly taken: Float32Array[] = [];

  constructor(
    private readonly backend: OneDnnBackend,
    private readonly segments: Segments,
  ) {
    const { batch, text, media, imageOfTile, rowOfPlace } = segments;
    this.runs = runsOf(segments);
    this.rowsInPlace =
      this.runs.length === 1 && this.runs[0]!.count === batch * text && rowOfPlace.length === batch * text;
    this.imagesInPlace = imageOfTile.length === batch * media && imageOfTile.every((image, i) => image === i);
  }

  /** Text `[b, t, w]` as `[tiles, tileLength, w]`, zeros at empty places. */
  ofRows(x: tf.TensorInfo): number {
    if (this.rowsInPlace) return this.backend.address(x);
    const width = x.shape[2]!;
    const from = this.backend.values(x);
    const to = this.take(this.segments.rowOfPlace.length * width);
    let end = 0;
    for (const { row, place, count } of this.runs) {
      to.fill(0, end, place * width);
      end = (place + count) * width;
      to.set(from.subarray(row * width, (row + count) * width), place * width);
    }
    to.fill(0, end);
    return this.backend.pool.address(to);
  }

  /** Images `[b, media, latents, w]` as `[tiles, latents, w]`. */
  ofImages(x: tf.TensorInfo): number {
    if (this.imagesInPlace) return this.backend.address(x);
    const { imageOfTile } = this.segments;
    const each = x.shape[2]! * x.shape[3]!;
    const to = this.take(imageOfTile.length * each);
    gatherRows(this.backend.values(x), imageOfTile, each, to);
    return this.backend.pool.address(to);
  }

  /** Text of this shape from tiles that `compute` writes; rows that see no image are zeros. */
  toRows(shape: readonly number[], compute: (tiles: number) => void): tf.TensorInfo {
    const out = this.backend.output(shape);
    if (this.rowsInPlace) {
      compute(this.backend.address(out));
      return out;
    }
    const width = shape[2]!;
    const tiles = this.take(this.segments.rowOfPlace.length * width);
    compute(this.backend.pool.address(tiles));
    const to = this.backend.values(out).fill(0);
    for (const { row, place, count } of this.runs) {
      to.set(tiles.subarray(place * width, (place + count) * width), row * width);
    }
    return out;
  }

  /** Images of this shape from tiles that `compute` writes: each is the sum of its tiles, zeros if it has none. */
  toImages(shape: readonly number[], compute: (tiles: number) => void): tf.TensorInfo {
    const out = this.backend.output(shape);
    if (this.imagesInPlace) {
      compute(this.backend.address(out));
      return out;
    }
    const { imageOfTile } = this.segments;
    const each = shape[2]! * shape[3]!;
    const tiles = this.take(imageOfTile.length * each);
    compute(this.backend.pool.address(tiles));
    const to = this.backend.values(out).fill(0);
    imageOfTile.forEach((image, tile) => {
      const [from, at] = [tile * each, image * each];
      if (image !== imageOfTile[tile - 1]) to.set(tiles.subarray(from, from + each), at);
      else for (let i = 0; i < each; i++) to[at + i]! += tiles[from + i]!;
    });
    return out;
  }

  release(): void {
    for (const buffer of this.taken) this.backend.pool.release(buffer);
  }

  private take(n: number): Float32Array {
    const buffer = this.backend.pool.allocate(n);
    this.taken.push(buffer);
    return buffer;
  }
}

/** One tile is one example: its places are the queries, the latents of its image the keys. */
function sizesOf(k: tf.TensorInfo, { numHeads: h, segments }: Attrs): Sizes {
  const [, , s, width] = k.shape as [number, number, number, number];
  return { b: segments.tiles, h, t: segments.tileLength, s, d: width / h };
}

const isEmpty = ({ b, h, t, s, d }: Sizes): boolean => sizeOf([b, h, t, s, d]) === 0;

/** `{q [b, t, h*d], k [b, media, latents, h*d], v}` -> `[y [b, t, h*d], weights [tiles, h, tileLength, latents]]` */
const mediaAttention: NativeKernel = ({ q, k, v }, attributes, backend) => {
  const attrs = attributes as unknown as Attrs;
  const z = sizesOf(k!, attrs);
  const { b, h, t, s } = z;
  const weights = backend.output([b, h, t, s]);
  if (isEmpty(z)) return [backend.zeroOutput(q!.shape), weights];
  const [scores, keys, queries] = [dense(z), heads(z, s), heads(z, t)];
  const tiles = new Tiles(backend, attrs.segments);
  const at = backend.address(weights);
  product(backend, [tiles.ofRows(q!), queries], [tiles.ofImages(k!), swapped(keys)], [at, scores], {
    scale: attrs.scale,
  });
  const values = backend.values(weights);
  softmaxRows(backend, 'softmax', values, values, b * h * t, s);
  const y = tiles.toRows(q!.shape, (out) => product(backend, [at, scores], [tiles.ofImages(v!), keys], [out, queries]));
  tiles.release();
  return [y, weights];
};

/** `{dy, q, k, v, weights}` -> `[dq, dk, dv]` */
const mediaAttentionGradient: NativeKernel = ({ dy, q, k, v, weights }, attributes, backend) => {
  const attrs = attributes as unknown as Attrs;
  const z = sizesOf(k!, attrs);
  const { b, h, t, s } = z;
  if (isEmpty(z)) return [q!, k!, v!].map((x) => backend.zeroOutput(x.shape));
  const [scores, keys, queries] = [dense(z), heads(z, s), heads(z, t)];
  const tiles = new Tiles(backend, attrs.segments);
  const dscores = backend.output([b, h, t, s]);
  const [w, ds] = [backend.address(weights!), backend.address(dscores)];
  const dys = tiles.ofRows(dy!);
  product(backend, [dys, queries], [tiles.ofImages(v!), swapped(keys)], [ds, scores]);
  softmaxGradient(backend, weights!, dscores, b * h * t, s);
  const dq = tiles.toRows(q!.shape, (out) =>
    product(backend, [ds, scores], [tiles.ofImages(k!), keys], [out, queries], { scale: attrs.scale }),
  );
  const dk = tiles.toImages(k!.shape, (out) =>
    product(backend, [ds, swapped(scores)], [tiles.ofRows(q!), queries], [out, keys], { scale: attrs.scale }),
  );
  const dv = tiles.toImages(v!.shape, (out) => product(backend, [w, swapped(scores)], [dys, queries], [out, keys]));
  backend.disposeData(dscores.dataId);
  tiles.release();
  return [dq, dk, dv];
};

export const mediaAttentionKernels: Record<string, NativeKernel> = {
  FlamingoMediaCrossAttention: mediaAttention,
  FlamingoMediaCrossAttentionGrad: mediaAttentionGradient,
};
