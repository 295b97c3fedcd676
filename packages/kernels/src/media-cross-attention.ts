import * as tf from '@tensorflow/tfjs-core';
import { checkValue, rule } from './check-config';
import { fusedOp } from './fused-op';
import { mergeHeads, splitHeads } from './heads';
import type { MediaSegments } from './media-segments';
import { expectShape } from './shape';

/** Options of `mediaCrossAttention`. */
export interface MediaCrossAttentionOptions {
  readonly numHeads: number;
  /** Factor on the scores; `headDim ** -0.5` by default. */
  readonly scale?: number;
}

interface MediaAttentionAttrs {
  readonly numHeads: number;
  readonly scale: number;
  readonly segments: MediaSegments;
}

/** Text rows to tiles, `[b, t, w] -> [tiles, tileLength, w]`; unused places hold zeros. */
function toTiles(x: tf.Tensor, { rowOfPlace, tiles, tileLength }: MediaSegments): tf.Tensor3D {
  return tf.reshape(gatherOrZero(x, rowOfPlace), [tiles, tileLength, x.shape[2]!]);
}

/** Tiles to text rows, `[tiles, tileLength, w] -> [b, t, w]`; rows that see no image hold zeros. */
function toRows(x: tf.Tensor, { placeOfRow, batch, text }: MediaSegments): tf.Tensor3D {
  return tf.reshape(gatherOrZero(x, placeOfRow), [batch, text, x.shape[2]!]);
}

/** Rows of `[..., w]` by index; the index after the last row selects zeros. */
function gatherOrZero(x: tf.Tensor, rows: Int32Array): tf.Tensor2D {
  const width = x.shape[x.rank - 1]!;
  const flat = tf.reshape(x, [x.size / width, width]);
  const source = rows.includes(flat.shape[0]!) ? tf.concat([flat, tf.zeros([1, width])], 0) : flat;
  return tf.gather(source, tf.tensor1d(rows, 'int32')) as tf.Tensor2D;
}

/** Each tile's image: `[b, media, latents, w] -> [tiles, latents, w]`. */
function ofTiles(x: tf.Tensor, { imageOfTile }: MediaSegments): tf.Tensor3D {
  const [b, media, latents, width] = x.shape as [number, number, number, number];
  const flat = tf.reshape(x, [b * media, latents, width]);
  const inOrder = imageOfTile.length === b * media && imageOfTile.every((image, i) => image === i);
  return (inOrder ? flat : tf.gather(flat, tf.tensor1d(imageOfTile, 'int32'))) as tf.Tensor3D;
}

/** Sums the tiles of each image: `[tiles, latents, w] -> shape`. */
function toImages(x: tf.Tensor3D, { imageOfTile }: MediaSegments, shape: number[]): tf.Tensor {
  const [b, media, latents, width] = shape as [number, number, number, number];
  const indices = tf.tensor2d(imageOfTile, [imageOfTile.length, 1], 'int32');
  const flat = tf.reshape(x, [imageOfTile.length, latents * width]);
  return tf.reshape(tf.scatterND(indices, flat, [b * media, latents * width]), shape);
}

/**
 * `{q [b, t, h*d], k [b, media, latents, h*d], v}` -> `[y [b, t, h*d], weights [tiles, h, tileLength, latents]]`.
 * `weights` is an input of 'FlamingoMediaCrossAttentionGrad' of the same backend.
 */
const mediaAttentionOp = fusedOp<MediaAttentionAttrs>({
  name: 'FlamingoMediaCrossAttention',
  forward: ({ q, k, v }, { numHeads, scale, segments }) => {
    if (segments.tiles === 0) return [tf.zerosLike(q!), tf.zeros([0])];
    const queries = splitHeads(toTiles(q!, segments), numHeads); // [tiles, h, tileLength, d]
    const keys = splitHeads(ofTiles(k!, segments), numHeads); //    [tiles, h, latents, d]
    const values = splitHeads(ofTiles(v!, segments), numHeads);
    const weights = tf.softmax(tf.mul(tf.matMul(queries, keys, false, true), scale));
    return [toRows(mergeHeads(tf.matMul(weights, values)), segments), weights];
  },
  saveInputs: ['q', 'k', 'v'],
  saveOutputs: [false, true],
  gradient: ([dy], { q, k, v, out1: weights }, attrs) => {
    const [dq, dk, dv] = mediaAttentionGradOp({ dy, q, k, v, weights }, attrs);
    return { q: () => dq!, k: () => dk!, v: () => dv! };
  },
});

/** `{dy, q, k, v, weights}` -> `[dq, dk, dv]` */
const mediaAttentionGradOp = fusedOp<MediaAttentionAttrs>({
  name: 'FlamingoMediaCrossAttentionGrad',
  forward: ({ dy, q, k, v, weights }, { numHeads, scale, segments }) => {
    if (segments.tiles === 0) return [tf.zerosLike(q!), tf.zerosLike(k!), tf.zerosLike(v!)];
    const queries = splitHeads(toTiles(q!, segments), numHeads);
    const keys = splitHeads(ofTiles(k!, segments), numHeads);
    const values = splitHeads(ofTiles(v!, segments), numHeads);
    const dys = splitHeads(toTiles(dy!, segments), numHeads);
    const along = tf.mul(tf.matMul(dys, values, false, true), weights!);
    const dscores = tf.mul(tf.sub(along, tf.mul(weights!, tf.sum(along, -1, true))), scale);
    return [
      toRows(mergeHeads(tf.matMul(dscores, keys)), segments),
      toImages(mergeHeads(tf.matMul(dscores, queries, true)), segments, k!.shape),
      toImages(mergeHeads(tf.matMul(weights!, dys, true)), segments, v!.shape),
    ];
  },
});

/**
 * Attention of each text position to the latents of the image that its media index names (paper section 3.1.3).
 *
 * Computed image by image, without scores against other images. A position with index 0, or above the number of images,
 * gets exact zeros.
 *
 * @param q        float32 `[b, t, h*d]`
 * @param k        float32 `[b, media, latents, h*d]`
 * @param v        float32 `[b, media, latents, h*d]`
 * @param segments which position attends to which image
 * @returns        float32 `[b, t, h*d]`
 */
export function mediaCrossAttention(
  q: tf.Tensor,
  k: tf.Tensor,
  v: tf.Tensor,
  segments: MediaSegments,
  o: MediaCrossAttentionOptions,
): tf.Tensor3D {
  const { batch, text, media } = segments;
  checkValue('mediaCrossAttention', 'numHeads', o.numHeads, rule.size);
  expectShape('mediaCrossAttention: q', q, [batch, text, 'heads*headDim'], 'Create the segments for this batch.');
  const width = q.shape[2]!;
  expectShape('mediaCrossAttention: k', k, [batch, media, 'latents', width], 'Project the latents to the width of q.');
  expectShape('mediaCrossAttention: v', v, k.shape, 'Pass one value per key.');
  if (width % o.numHeads !== 0) {
    throw new Error(`mediaCrossAttention: the width ${width} of q must be a multiple of numHeads, got ${o.numHeads}.`);
  }
  const scale = o.scale ?? (width / o.numHeads) ** -0.5;
  return mediaAttentionOp({ q, k, v }, { numHeads: o.numHeads, scale, segments })[0] as tf.Tensor3D;
}
