import * as tf from '@tensorflow/tfjs-core';

/** What Flamingo requires of an image encoder; NFNet and CLIP's vision tower have this form. */
export interface VisionEncoder {
  /** Width of its features. */
  readonly featureDim: number;
  /** Side of the images it was made for, in pixels. */
  readonly imageSize: number;
  /** Channel means and standard deviations, on a scale of 0 to 1, by which its input is normalized. */
  readonly mean: readonly [number, number, number];
  readonly std: readonly [number, number, number];
  /** float32 `[images, height, width, 3]` to float32 `[images, patches, featureDim]` */
  encode(images: tf.Tensor4D): tf.Tensor3D;
}

/** Images as plain numbers: normalized pixels, or the features that an encoder made of them. */
export interface Visual {
  readonly kind: 'frames' | 'features';
  /** `[batch, media, frames, height, width, 3]` for frames, `[batch, media, frames, patches, featureDim]` for features. */
  readonly shape: readonly number[];
  /** Row-major; zeros where a row has fewer images than others. */
  readonly data: Float32Array;
}

const AXES = {
  frames: ['media', 'frames', 'height', 'width', '3'],
  features: ['media', 'frames', 'patches', 'featureDim'],
} as const;

/**
 * @param what    the caller, named in errors
 * @param leading axes in front of `media`
 * @throws Error if the kind is unknown, or the shape does not fit the kind or the data
 */
export function expectVisual(what: string, { kind, shape, data }: Visual, leading: readonly string[]): void {
  if (!Object.hasOwn(AXES, kind)) {
    throw new Error(`${what}: visual.kind must be one of ${Object.keys(AXES).join(', ')}, got ${kind}.`);
  }
  const axes = [...leading, ...AXES[kind]];
  const size = shape.reduce((a, b) => a * b, 1);
  const whole = shape.every((n) => Number.isInteger(n) && n >= 0);
  if (shape.length !== axes.length || !whole || (kind === 'frames' && shape.at(-1) !== 3)) {
    throw new Error(`${what}: visual of kind ${kind} must be [${axes.join(', ')}], got [${shape.join(', ')}].`);
  }
  if (data.length !== size) {
    throw new Error(
      `${what}: visual of shape [${shape.join(', ')}] must hold ${size} numbers, got ${data.length}. ` +
        'Pad rows that have fewer images with zeros.',
    );
  }
}

/**
 * Features of images, encoded if necessary; the encoder gets no gradient.
 *
 * @returns float32 `[batch, media, frames, patches, featureDim]`
 */
export function visualFeatures(visual: Visual, vision: VisionEncoder | undefined): tf.Tensor5D {
  expectVisual('Flamingo', visual, ['batch']);
  const { kind, shape, data } = visual;
  if (kind === 'features') return tf.tensor5d(data, shape as [number, number, number, number, number]);
  if (!vision) {
    throw new Error(
      'Flamingo: visual holds frames, but this model has no vision encoder. Pass `vision` to the model, or encode images beforehand.',
    );
  }
  const [batch, media, frames, height, width, channels] = shape as [number, number, number, number, number, number];
  return tf.tidy(() => {
    const images = tf.tensor4d(data, [batch * media * frames, height, width, channels]);
    const features = withoutGradient((x: tf.Tensor4D) => vision.encode(x), images);
    return tf.reshape(features, [batch, media, frames, features.shape[1], features.shape[2]]);
  });
}

/** Runs a function without recording it for the gradient, so that none of its intermediate results are kept. */
function withoutGradient<X extends tf.Tensor, Y extends tf.Tensor>(f: (x: X) => Y, x: X): Y {
  return tf.customGrad((...args) => ({
    value: f(args[0] as X),
    gradFunc: (dy: tf.Tensor) => tf.zerosLike(dy),
  }))(x) as Y;
}
