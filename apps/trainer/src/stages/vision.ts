import { contrastiveLogits, contrastiveLoss } from '@flamingo-ts/clip-vit';
import { normalize } from '@flamingo-ts/data-mixtures';
import {
  constantVariable,
  disposeParams,
  linear,
  loadState,
  normalVariable,
  Random,
  retire,
  variables,
  type StateTensor,
} from '@flamingo-ts/kernels';
import { initNFNet, NFNet, nfnetConfig, type NFNetConfig } from '@flamingo-ts/nfnet';
import * as tf from '@tensorflow/tfjs-core';
import type { Config } from '../config/config';
import { recall, type ValidationMetrics } from './metrics';
import type { Objective } from './stage';
import { TextTower } from './text-tower';
import type { CaptionedImage, MediaKey, TrainingData, ViewKeys } from '../data/training-data';

/** Initial value and upper bound of the inverse temperature. */
const SCALE_START = 14;
const SCALE_MAX = 100;
/** Factor by which the temperature learns faster than the weights: it is stored divided by this. */
const SCALE_RATE = 5;
/** Images encoded at a time. The number is fixed so that features do not depend on the other images of a request. */
const ENCODE_BATCH = 32;
/** Number of training images that the statistics of the features are measured on. */
const STATISTICS_IMAGES = 2048;

/** The vision encoder, and the statistics that normalize its features to mean 0 and variance 1. */
export class VisionTower {
  constructor(
    readonly encoder: NFNet,
    /** Projection to the joint space of images and texts: `[jointSize, featureDim]`. */
    readonly head: { readonly weight: tf.Variable<tf.Rank.R2> },
    /** Per channel, `[featureDim]`; identity until measured. */
    readonly statistics: { readonly mean: tf.Variable<tf.Rank.R1>; readonly deviation: tf.Variable<tf.Rank.R1> },
  ) {}

  static create(model: Config['vision']['model'], jointSize: number, random: Random): VisionTower {
    const config = visionConfig(model);
    const encoder = new NFNet(config, initNFNet(config, random.fork('nfnet')));
    const d = encoder.featureDim;
    return new VisionTower(
      encoder,
      { weight: normalVariable(random.fork('head'), [jointSize, d], d ** -0.5) as tf.Variable<tf.Rank.R2> },
      {
        mean: constantVariable([d], 0) as tf.Variable<tf.Rank.R1>,
        deviation: constantVariable([d], 1) as tf.Variable<tf.Rank.R1>,
      },
    );
  }

  /** Number of positions in the feature map. */
  get patches(): number {
    const { stemStrides, strides, imageSize } = this.encoder.config;
    const side = [...stemStrides, ...strides].reduce((n, stride) => Math.ceil(n / stride), imageSize);
    return side * side;
  }

  get params() {
    return { encoder: this.encoder.params, head: this.head, statistics: this.statistics };
  }

  load(state: Readonly<Record<string, StateTensor>>, what: string): void {
    loadState(this.params, state, { what });
  }

  /** A copy for inference, with standardized kernels. Any further use of this tower throws. */
  async freeze(): Promise<VisionTower> {
    const frozen = new VisionTower(await this.encoder.freeze(), this.head, this.statistics);
    retire(this, 'VisionTower');
    return frozen;
  }

  dispose(): void {
    disposeParams(this.params);
  }

  /** Converts RGB bytes of images to the encoder's input, float32 [images, side, side, 3]. */
  normalize(images: readonly Uint8Array[]): tf.Tensor4D {
    const { imageSize, mean, std } = this.encoder;
    const size = imageSize * imageSize * 3;
    const values = new Float32Array(images.length * size);
    images.forEach((bytes, i) => {
      if (bytes.length !== size) {
        throw new Error(
          `VisionTower: an image must be ${imageSize} x ${imageSize} RGB (${size} bytes), got ${bytes.length} bytes. ` +
            'Resize it to the imageSize of the vision configuration.',
        );
      }
      values.set(normalize({ width: imageSize, height: imageSize, data: bytes }, { mean, std }), i * size);
    });
    return tf.tensor4d(values, [images.length, imageSize, imageSize, 3]);
  }

  /** Projects images to the joint space, without normalization: float32 [images, jointSize]. */
  embed(images: tf.Tensor4D): tf.Tensor2D {
    return tf.tidy(() => linear(this.encoder.pooled(images), this.head) as tf.Tensor2D);
  }

  /**
   * Normalized features of images, each `[patches * featureDim]`. All batches have one fixed size, so the features of an
   * image do not depend on the others.
   */
  features(images: readonly Uint8Array[]): Float32Array[] {
    const out: Float32Array[] = [];
    for (let start = 0; start < images.length; start += ENCODE_BATCH) {
      const chunk = images.slice(start, start + ENCODE_BATCH);
      const full = [...chunk];
      while (full.length < ENCODE_BATCH) full.push(chunk[0]!);
      const features = tf.tidy(() => {
        const raw = this.encoder.encode(this.normalize(full));
        return tf.div(tf.sub(raw, this.statistics.mean), this.statistics.deviation);
      });
      const values = features.dataSync() as Float32Array;
      features.dispose();
      const size = values.length / ENCODE_BATCH;
      for (let i = 0; i < chunk.length; i++) out.push(values.slice(i * size, (i + 1) * size));
    }
    return out;
  }

  /** Measures the statistics of the features on training images and stores them. */
  async measureStatistics(data: TrainingData, seed: number): Promise<void> {
    const random = new Random(seed).fork('feature statistics');
    const keys = Array.from({ length: STATISTICS_IMAGES }, () => data.trainingImage(random));
    // Few images are drawn several times, but read and encoded once.
    const distinct = [...new Set(keys)];
    const pixels = await data.frames(distinct);
    const readable = distinct.filter((_, i) => pixels[i]);
    const d = this.encoder.featureDim;
    const sum = new Float64Array(d);
    const squares = new Float64Array(d);
    tf.tidy(() => {
      this.statistics.mean.assign(tf.zeros([d]));
      this.statistics.deviation.assign(tf.ones([d]));
    });
    let count = 0;
    const features = this.features(pixels.filter((image) => image !== undefined));
    const byKey = new Map(readable.map((key, i) => [key, features[i]!]));
    for (const feature of keys.flatMap((key) => byKey.get(key) ?? [])) {
      for (let i = 0; i < feature.length; i++) {
        sum[i % d]! += feature[i]!;
        squares[i % d]! += feature[i]! ** 2;
      }
      count += feature.length / d;
    }
    const mean = Float32Array.from(sum, (s) => s / count);
    const deviation = Float32Array.from(squares, (q, i) =>
      Math.max(1e-6, Math.sqrt(Math.max(0, q / count - mean[i]! ** 2))),
    );
    tf.tidy(() => {
      this.statistics.mean.assign(tf.tensor1d(mean));
      this.statistics.deviation.assign(tf.tensor1d(deviation));
    });
  }
}

/** The encoder's configuration: images map to about -2..2, and residual branches contribute from the first step. */
export function visionConfig(model: Config['vision']['model']): NFNetConfig {
  return nfnetConfig({
    ...model,
    mean: [0.5, 0.5, 0.5],
    std: [0.25, 0.25, 0.25],
    initialSkipGain: 1,
  });
}

/** Contrastive pretraining: matches images and alt texts within a batch. */
export function contrastiveObjective(tower: VisionTower, config: Config, data: TrainingData): Objective {
  const { textHiddenSize, jointSize, batch, labelSmoothing } = config.vision;
  const random = new Random(config.seed);
  const text = TextTower.create(data.altTextVocabulary(), textHiddenSize, jointSize, random.fork('text tower'));
  const scale = constantVariable([], Math.log(SCALE_START) / SCALE_RATE);
  const logScale = () => tf.mul(scale, SCALE_RATE) as tf.Scalar;

  /** Reads the images of pairs and leaves out those that cannot be read. */
  const read = async (pairs: readonly { key: MediaKey; words: readonly string[] }[], views?: readonly ViewKeys[]) => {
    const frames = await data.frames(
      pairs.map((p) => p.key),
      views,
    );
    return pairs.flatMap((p, i) => (frames[i] ? [{ words: p.words, image: frames[i] }] : []));
  };

  const draw = async (name: string, isAugmented: boolean) => {
    const stepRandom = random.fork(name);
    const pairs = Array.from({ length: batch }, () => data.altTextPair(stepRandom));
    const views = isAugmented ? pairs.map((_, i) => [config.seed, name, i]) : undefined;
    const kept = await read(pairs, views);
    if (kept.length === 0) {
      throw new Error(
        `pretrain-vision: none of the ${batch} images of a step could be read, expected most of them. ` +
          `The first: ${data.skipped[0]}. Check the paths in the data: they are relative to the data folder.`,
      );
    }
    return { words: kept.map((k) => k.words), images: kept.map((k) => k.image) };
  };

  /** For each image, the index of the nearest text. */
  const nearestTexts = (images: tf.Tensor2D, texts: tf.Tensor2D) =>
    Array.from(tf.argMax(contrastiveLogits(images, texts, logScale()), 1).dataSync());

  /** The loss and the retrieval among all of the pairs. */
  const validate = async (pairs: readonly CaptionedImage[]): Promise<ValidationMetrics> => {
    const embedded: tf.Tensor2D[] = [];
    const words: (readonly string[])[] = [];
    for (let start = 0; start < pairs.length; start += ENCODE_BATCH) {
      const kept = await read(pairs.slice(start, start + ENCODE_BATCH));
      if (kept.length === 0) continue;
      embedded.push(tf.tidy(() => tower.embed(tower.normalize(kept.map(({ image }) => image)))));
      words.push(...kept.map((k) => k.words));
    }
    if (words.length < 2) {
      throw new Error(
        `pretrain-vision: at least 2 validation images must be readable, got ${words.length} of ${pairs.length}. Check their paths.`,
      );
    }
    const [loss, nearest] = tf.tidy(() => {
      const images = tf.concat(embedded) as tf.Tensor2D;
      const texts = text.apply(words);
      const loss = contrastiveLoss(images, texts, logScale(), { labelSmoothing });
      return [loss.dataSync()[0]!, nearestTexts(images, texts)];
    });
    tf.dispose(embedded);
    return {
      loss,
      ...recall(
        nearest,
        words.map((own) => own.join(' ')),
      ),
    };
  };

  return {
    params: variables({ encoder: tower.encoder.params, head: tower.head, text: text.params, scale }),
    decays: (name, shape) => shape.length > 1 && name !== 'text.words',
    async prepare(step) {
      const { words, images } = await draw(`vision ${step}`, true);
      const loss = () =>
        contrastiveLoss(tower.embed(tower.normalize(images)), text.apply(words), logScale(), { labelSmoothing });
      return { losses: () => [{ name: 'contrastive', weight: 1, loss }] };
    },
    whenDispatched: () => data.whenDispatched(),
    afterUpdate() {
      tf.tidy(() => scale.assign(tf.minimum(scale, Math.log(SCALE_MAX) / SCALE_RATE) as tf.Scalar));
    },
    ...(data.validation && { validate: () => validate(data.validation!.pairs) }),
    async measure() {
      const { words, images } = await draw('retrieval', false);
      const nearest = tf.tidy(() => nearestTexts(tower.embed(tower.normalize(images)), text.apply(words)));
      const right = nearest.filter((best, i) => best === i).length;
      return { retrieval: right / images.length };
    },
  };
}
