import * as tf from '@tensorflow/tfjs-core';

/** What Flamingo needs of an image encoder; NFNet and CLIP's vision tower are of this shape. */
export interface VisionEncoder {
  /** Width of its features. */
  readonly featureDim: number;
  /** Side of the images it was made for. */
  readonly imageSize: number;
  /** Channel means and deviations, after division by 255, that images are normalised with before they come here. */
  readonly mean: readonly [number, number, number];
  readonly std: readonly [number, number, number];
  /** float32 `[images, height, width, 3]` to float32 `[images, patches, featureDim]` */
  encode(images: tf.Tensor4D): tf.Tensor3D;
}

/** Images as plain numbers: pixels for the encoder, or what it has made of them already. */
export interface Visual {
  readonly kind: 'frames' | 'features';
  /** `[batch, media, frames, height, width, 3]` for frames, `[batch, media, frames, patches, featureDim]` for features. */
  readonly shape: readonly number[];
  /** Row-major; zeros where a row has fewer images than others. */
  readonly data: Float32Array;
}

/** Features `[batch, media, frames, patches, featureDim]` of images, encoded if need be; the encoder gets no gradient. */
export function visualFeatures(visual: Visual, vision: VisionEncoder | undefined): tf.Tensor5D {
  const { kind, shape, data } = visual;
  if (kind === 'features') {
    checkShape(visual, 5, '[batch, media, frames, patches, featureDim]');
    return tf.tensor5d(data, shape as [number, number, number, number, number]);
  }
  checkShape(visual, 6, '[batch, media, frames, height, width, 3]');
  if (!vision) {
    throw new Error(
      'Flamingo: visual holds frames, but this model has no vision encoder. Give it one, or encode images beforehand.',
    );
  }
  const [batch, media, frames, height, width, channels] = shape as [number, number, number, number, number, number];
  return tf.tidy(() => {
    const images = tf.tensor4d(data, [batch * media * frames, height, width, channels]);
    const features = unrecorded((x: tf.Tensor4D) => vision.encode(x), images);
    return tf.reshape(features, [batch, media, frames, features.shape[1], features.shape[2]]);
  });
}

function checkShape({ kind, shape, data }: Visual, rank: number, want: string): void {
  const size = shape.reduce((a, b) => a * b, 1);
  if (shape.length !== rank || size !== data.length) {
    throw new Error(
      `Flamingo: visual of kind ${kind} must be ${want} with as many numbers, got [${shape.join(', ')}] and ${data.length} numbers. ` +
        'Pad rows that have fewer images with zeros.',
    );
  }
}

/** Runs a function off the tape: a frozen encoder needs no gradient, so nothing it makes on the way has to be kept. */
function unrecorded<X extends tf.Tensor, Y extends tf.Tensor>(f: (x: X) => Y, x: X): Y {
  return tf.customGrad((...args) => ({
    value: f(args[0] as X),
    gradFunc: (dy: tf.Tensor) => tf.zerosLike(dy),
  }))(x) as Y;
}
