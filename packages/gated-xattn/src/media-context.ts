import { expectShape, MediaSegments } from '@flamingo-ts/kernels';
import type { LMContext } from '@flamingo-ts/lm-core';
import type * as tf from '@tensorflow/tfjs-core';

/** Keys and values of all images for one gated layer, each float32 `[batch, media, latents, inner]`. */
export interface MediaKeysValues {
  readonly keys: tf.Tensor4D;
  readonly values: tf.Tensor4D;
}

/** What a media context may bring besides the latents and the index. */
export interface MediaContextOptions {
  /**
   * For each row of text the batch entry whose images it is about. Absent: row i belongs to entry i. While decoding,
   * several beams or candidates share the images of their prompt this way, without a copy.
   */
  readonly owners?: readonly number[];
  /** Keys and values by gated layer, from `InterleavedLM.mediaKeysValues`; absent: every layer projects the latents. */
  readonly keysValues?: readonly MediaKeysValues[];
}

/** The images that a call of the model may look at, and which text token belongs to which of them. */
export class MediaContext {
  /** Rows of text. */
  readonly rows: number;
  readonly owners: readonly number[] | undefined;
  readonly keysValues: readonly MediaKeysValues[] | undefined;
  /** Text tokens grouped by image, over all rows: `[1, rows x text]` against `[1, batch x media]`. */
  readonly segments: MediaSegments;

  /**
   * @param latents    float32 `[batch, media, latents, visualSize]`
   * @param mediaIndex row-major `[rows, text]`: the number of the token's image in its sequence, 1 for the first; 0: none
   * @param text       tokens per row in this call of the model
   */
  constructor(
    readonly latents: tf.Tensor4D,
    readonly mediaIndex: ArrayLike<number>,
    readonly text: number,
    options: MediaContextOptions = {},
  ) {
    expectShape(
      'MediaContext: latents',
      latents,
      ['batch', 'media', 'latents', 'visualSize'],
      'Pass what the resampler gives; text without any image needs no MediaContext.',
    );
    const [batch, media] = latents.shape;
    this.owners = options.owners;
    this.keysValues = options.keysValues;
    this.rows = this.owners?.length ?? batch;
    if (mediaIndex.length !== this.rows * text) {
      throw new Error(
        `MediaContext: mediaIndex must hold ${this.rows} rows x ${text} tokens = ${this.rows * text} entries, got ${mediaIndex.length}. ` +
          'Give one entry for each text token of the call, padding included.',
      );
    }
    const stray = this.owners?.find((owner) => !Number.isInteger(owner) || owner < 0 || owner >= batch);
    if (stray !== undefined) {
      throw new Error(`MediaContext: owners must be entries of a batch of ${batch}, got ${stray}. Count from 0.`);
    }
    // One list of all images: a row's images start where its owner's do, and an index beyond them sees nothing.
    const flat = Int32Array.from(mediaIndex, (index, i) => {
      if (index < 1) return 0;
      return index > media ? batch * media + 1 : this.owner(Math.floor(i / text)) * media + index;
    });
    this.segments = new MediaSegments(flat, 1, flat.length, batch * media);
  }

  /** The batch entry whose images a row of text is about. */
  owner(row: number): number {
    return this.owners?.[row] ?? row;
  }
}

/** What the context of a language model with gated layers holds besides its own. */
export interface MediaAware {
  /** Absent: text alone; no token sees an image. */
  readonly media?: MediaContext;
}

/** Context of a language model with gated layers. */
export type MediaLMContext<C extends LMContext = LMContext> = C & MediaAware;
