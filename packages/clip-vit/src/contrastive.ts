import { crossEntropy, expectShape } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';

/** Where CLIP's log of the inverse temperature starts, and the bound above which it may not grow (CLIP, section 2.5). */
export const LOG_SCALE_START = Math.log(1 / 0.07);
export const LOG_SCALE_MAX = Math.log(100);

export interface ContrastiveOptions {
  /** Share of the target spread over all pairs of the batch; Flamingo's encoder was trained with 0.1. Default 0. */
  readonly labelSmoothing?: number;
  /** Image-to-text and text-to-image losses averaged (CLIP, the default) or added (Flamingo, appendix B.1.3). */
  readonly directions?: 'mean' | 'sum';
}

/**
 * Two-way contrastive loss of a batch of pairs: every image picks its text among all of the batch, and the reverse.
 *
 * @param images   float32 [pairs, d], not normalised
 * @param texts    float32 [pairs, d], not normalised; row i belongs to image i
 * @param logScale float32 scalar, the log of the inverse temperature, usually learned
 */
export function contrastiveLoss(
  images: tf.Tensor2D,
  texts: tf.Tensor2D,
  logScale: tf.Scalar,
  { labelSmoothing = 0, directions = 'mean' }: ContrastiveOptions = {},
): tf.Scalar {
  const [n, d] = images.shape;
  expectShape('contrastiveLoss: texts', texts, [n, d], 'Give one text per image, both projected to one width.');
  return tf.tidy(() => {
    const logits = contrastiveLogits(images, texts, logScale); // [pairs, pairs]
    const own = tf.range(0, n, 1, 'int32') as tf.Tensor1D;
    const loss = tf.add(
      crossEntropy(logits, own, { labelSmoothing }),
      crossEntropy(tf.transpose(logits), own, { labelSmoothing }),
    );
    return (directions === 'mean' ? tf.mul(loss, 0.5) : loss) as tf.Scalar;
  });
}

/** Cosine of every image with every text, times the inverse temperature: float32 [images, texts]. */
export function contrastiveLogits(images: tf.Tensor2D, texts: tf.Tensor2D, logScale: tf.Scalar): tf.Tensor2D {
  expectShape(
    'contrastiveLogits: texts',
    texts,
    ['texts', images.shape[1]],
    `Project images and texts to one width; the images have ${images.shape[1]}.`,
  );
  return tf.tidy(() => {
    // The scale meets the narrow factor, not the square of the batch.
    const scaled = tf.mul(l2Normalise(images), tf.exp(logScale)) as tf.Tensor2D;
    return tf.matMul(scaled, l2Normalise(texts), false, true);
  });
}

/** Every row divided by its Euclidean norm, or by 1e-12 where that is larger: float32 [..., d]. */
export function l2Normalise<T extends tf.Tensor>(x: T): T {
  return tf.customGrad((x, save) => {
    const norm = tf.maximum(tf.sqrt(tf.sum(tf.square(x as tf.Tensor), -1, true)), 1e-12);
    const y = tf.div(x as tf.Tensor, norm);
    (save as tf.GradSaveFunc)([y, norm]);
    return {
      value: y,
      // The part of dy along the row does not change its direction.
      gradFunc: (dy: tf.Tensor, [y, norm]: tf.Tensor[]) =>
        tf.div(tf.sub(dy, tf.mul(y!, tf.sum(tf.mul(dy, y!), -1, true))), norm!),
    };
  })(x) as T;
}
