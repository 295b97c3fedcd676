import { expectShape, MediaSegments } from '@flamingo-ts/kernels';
import type { LMContext } from '@flamingo-ts/lm-core';
import type * as tf from '@tensorflow/tfjs-core';

/** Keys and values of all images for one gated layer, each float32 `[batch, media, latents, inner]`. */
export interface MediaKeysValues {
  readonly keys: tf.Tensor4D;
  readonly values: tf.Tensor4D;
}

/** Optional parts of a media context. */
export interface MediaContextOptions {
  /**
   * For each row of text, the batch entry that holds its images. Defaults to entry i for row i. During decoding it lets
   * several beams or candidates share the images of their prompt without a copy.
   */
  readonly owners?: readonly number[];
  /** Keys and values by gated layer, from `InterleavedLM.mediaKeysValues`. By default every layer projects the latents. */
  readonly keysValues?: readonly MediaKeysValues[];
  /**
   * Accepts an index above the number of images, as OpenFlamingo does for text with more `<image>` tokens than images.
   * Such a token sees no image; see `emptyRows`. Defaults to false: such an index is an error.
   */
  readonly allowMissingImages?: boolean;
}

/** The images available to one call of the model, and the image that each text token belongs to. */
export class MediaContext {
  /** Rows of text. */
  readonly rows: number;
  readonly owners: readonly number[] | undefined;
  readonly keysValues: readonly MediaKeysValues[] | undefined;
  /** Text tokens grouped by image, over all rows: `[1, rows x text]` against `[1, batch x media]`. */
  readonly segments: MediaSegments;

  /**
   * @param latents    float32 `[batch, media, latents, visualSize]`
   * @param mediaIndex row-major `[rows, text]`: the number of the token's image in its sequence, from 1; 0: none
   * @param text       tokens per row in this call of the model
   * @throws Error if the index does not fit the text or the images
   */
  constructor(
    readonly latents: tf.Tensor4D,
    readonly mediaIndex: ArrayLike<number>,
    readonly text: number,
    { owners, keysValues, allowMissingImages = false }: MediaContextOptions = {},
  ) {
    expectShape(
      'MediaContext: latents',
      latents,
      ['batch', 'media', 'latents', 'visualSize'],
      'Pass the output of the resampler; text without images needs no MediaContext.',
    );
    const [batch, media] = latents.shape;
    this.owners = owners;
    this.keysValues = keysValues;
    this.rows = owners?.length ?? batch;
    if (mediaIndex.length !== this.rows * text) {
      throw new Error(
        `MediaContext: mediaIndex must hold ${this.rows} rows x ${text} tokens = ${this.rows * text} entries, got ${mediaIndex.length}. ` +
          'Pass one entry for each text token of the call, padding included.',
      );
    }
    const stray = owners?.find((owner) => !Number.isInteger(owner) || owner < 0 || owner >= batch);
    if (stray !== undefined) {
      throw new Error(`MediaContext: owners must be entries of a batch of ${batch}, got ${stray}. Count from 0.`);
    }
    expectMediaIndex('MediaContext', mediaIndex, allowMissingImages ? Infinity : media);
    // All images form one list, in which the images of a row start where those of its owner do.
    const flat = Int32Array.from(mediaIndex, (index, i) =>
      index === 0 || index > media ? 0 : this.owner(Math.floor(i / text)) * media + index,
    );
    this.segments = new MediaSegments(flat, 1, flat.length, batch * media);
  }

  /** The batch entry that holds the images of a row of text. */
  owner(row: number): number {
    return this.owners?.[row] ?? row;
  }
}

/**
 * Checks the image number of every text token.
 *
 * @param what  the caller, named in the error
 * @param media number of images
 * @throws Error naming the first entry that is not a whole number from 0 (no image) to `media`
 */
export function expectMediaIndex(what: string, mediaIndex: ArrayLike<number>, media: number): void {
  for (let i = 0; i < mediaIndex.length; i++) {
    const index = mediaIndex[i]!;
    if (Number.isInteger(index) && index >= 0 && index <= media) continue;
    throw new Error(
      `${what}: mediaIndex must hold whole numbers from 0 (no image) to ${media} (the number of images), got ${index} at position ${i}. ` +
        'Pass one image for each <image> token.',
    );
  }
}

/** Context of a language model with gated layers. */
export type MediaLMContext<C extends LMContext = LMContext> = C & {
  /** Absent for text alone: no token sees an image. */
  readonly media?: MediaContext;
};
