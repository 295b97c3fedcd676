import { checkConfig, crossEntropy, expectShape, rule, type ConfigRules } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';

/** Initial value of CLIP's log inverse temperature, and its upper bound in training (CLIP, section 2.5). */
export const LOG_SCALE_START = Math.log(1 / 0.07);
export const LOG_SCALE_MAX = Math.log(100);

export interface ContrastiveOptions {
  /** Fraction of the target that is spread over all pairs of the batch. Flamingo's encoder was trained with 0.1. Defaults to 0. */
  readonly labelSmoothing?: number;
  /** Averages image-to-text and text-to-image losses (CLIP, the default), or adds them (Flamingo, appendix B.1.3). */
  readonly directions?: 'mean' | 'sum';
}

const RULES: ConfigRules<ContrastiveOptions> = {
  labelSmoothing: rule.optional(rule.number({ min: 0, below: 1 })),
  directions: rule.optional(rule.oneOf(['mean', 'sum'])),
};

/**
 * Two-way contrastive loss of a batch of pairs: classifies the text of every image among all texts of the batch, and the
 * image of every text.
 *
 * @param images   float32 [pairs, d], not normalized
 * @param texts    float32 [pairs, d], not normalized; row i is the text of image i
 * @param logScale float32 scalar, the log of the inverse temperature, usually learned
 */
export function contrastiveLoss(
  images: tf.Tensor2D,
  texts: tf.Tensor2D,
  logScale: tf.Scalar,
  options: ContrastiveOptions = {},
): tf.Scalar {
  checkConfig('contrastiveLoss', options, RULES);
  const { labelSmoothing = 0, directions = 'mean' } = options;
  const [n, d] = images.shape;
  expectShape('contrastiveLoss: texts', texts, [n, d], 'Pass one text per image, both projected to one width.');
  return tf.tidy(() => {
    const logits = contrastiveLogits(images, texts, logScale); // [pairs, pairs]
    const matching = tf.range(0, n, 1, 'int32') as tf.Tensor1D;
    const loss = tf.add(
      crossEntropy(logits, matching, { labelSmoothing }),
      crossEntropy(tf.transpose(logits), matching, { labelSmoothing }),
    );
    return (directions === 'mean' ? tf.mul(loss, 0.5) : loss) as tf.Scalar;
  });
}

/** Cosine similarity of every image and every text, times the inverse temperature: float32 [images, texts]. */
export function contrastiveLogits(images: tf.Tensor2D, texts: tf.Tensor2D, logScale: tf.Scalar): tf.Tensor2D {
  expectShape(
    'contrastiveLogits: texts',
    texts,
    ['texts', images.shape[1]],
    `Project images and texts to one width; the images have ${images.shape[1]}.`,
  );
  return tf.tidy(() => {
    // Scales the narrow factor, not the square of the batch.
    const scaled = tf.mul(l2Normalize(images), tf.exp(logScale)) as tf.Tensor2D;
    return tf.matMul(scaled, l2Normalize(texts), false, true);
  });
}

/** Divides every row by its Euclidean norm, or by 1e-12 if that is larger: float32 [..., d]. */
export function l2Normalize<T extends tf.Tensor>(x: T): T {
  return tf.customGrad((x, save) => {
    const norm = tf.maximum(tf.sqrt(tf.sum(tf.square(x as tf.Tensor), -1, true)), 1e-12);
    const y = tf.div(x as tf.Tensor, norm);
    (save as tf.GradSaveFunc)([y, norm]);
    return {
      value: y,
      // The component of dy along the row does not change the row's direction.
      gradFunc: (dy: tf.Tensor, [y, norm]: tf.Tensor[]) =>
        tf.div(tf.sub(dy, tf.mul(y!, tf.sum(tf.mul(dy, y!), -1, true))), norm!),
    };
  })(x) as T;
}
