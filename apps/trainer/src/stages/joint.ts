import {
  Mixture,
  type Batch,
  type MediaLoader,
  type MixtureCursor,
  type TextTokenizer,
} from '@flamingo-ts/data-mixtures';
import { Flamingo, initFlamingo, type FlamingoConfig } from '@flamingo-ts/flamingo';
import { Random, variables } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';
import type { Config } from '../config/config';
import { FeatureStore } from './features';
import type { LanguageModel } from './lm';
import type { Objective } from './stage';
import { datasetNames, type DatasetName, type ImageSource, type TrainingData } from '../data/training-data';
import type { VisionTower } from './vision';

/** The two frozen models and what joins them, with the features of all images seen so far. */
export class JointModel {
  readonly flamingo: Flamingo;
  readonly features: FeatureStore;

  constructor(
    readonly config: Config,
    readonly tower: VisionTower,
    readonly language: LanguageModel,
    readonly images: ImageSource,
  ) {
    const joint = flamingoConfig(config, language);
    const random = new Random(config.seed).fork('flamingo');
    const params = initFlamingo(joint, language.lm.blocks.length, random);
    this.flamingo = new Flamingo(joint, params, { lm: language.lm });
    this.features = new FeatureStore(tower, images);
  }

  /** The tokenizer as data and prompts want it. */
  get tokenizer(): TextTokenizer {
    const { tokenizer, special } = this.language;
    return { encode: (text) => tokenizer.encode(text), special };
  }

  /** Both gates of every gated block, after tanh. */
  gates(): Record<string, number> {
    const found: Record<string, number> = {};
    this.flamingo.params.xattn.blocks.forEach((block, i) => {
      found[`attn ${i}`] = Math.tanh(block.attnGate.dataSync()[0]!);
      found[`mlp ${i}`] = Math.tanh(block.mlpGate.dataSync()[0]!);
    });
    return found;
  }
}

/** The paper's Flamingo at the configured sizes, with a final norm in the resampler, which the paper's figure does not show. */
export function flamingoConfig(config: Config, language: LanguageModel): FlamingoConfig {
  const { resampler, xattn } = config.flamingo;
  const { hiddenSize } = language.lm;
  const { image, endOfChunk } = language.special;
  const inputSize = config.vision.model.finalWidth;
  return {
    resampler: {
      ...resampler,
      ...(inputSize !== resampler.visualSize && { inputSize }),
      intermediateSize: 4 * resampler.visualSize,
      activation: 'squared-relu',
      numFrames: config.flamingo.framesPerClip,
      finalNorm: true,
    },
    xattn: {
      ...xattn,
      hiddenSize,
      visualSize: resampler.visualSize,
      intermediateSize: 4 * hiddenSize,
      activation: 'squared-relu',
      normMedia: true,
      placement: 'paper',
    },
    tokens: { image, endOfChunk },
    ...('separateHeadInput' in language.lm && { separateHead: true }),
  };
}

/** Carries an image's number in the store through the mixture: its features are computed when the step's turn has come. */
function numberLoader(features: FeatureStore): MediaLoader {
  return {
    kind: 'features',
    shape: [1],
    async load(media) {
      if (!('key' in media)) throw new Error('train: expected media named by key, got files or bytes.');
      const number = await features.fetch(media.key);
      return number === undefined ? undefined : Float32Array.of(number);
    },
  };
}

/** The features of a batch's numbers, in their place; zero where there is no medium. */
function withFeatures(batch: Batch, features: FeatureStore, shape: readonly number[]): Batch {
  const { kind, data: numbers } = batch.visual;
  const each = shape.reduce((a, b) => a * b, 1);
  const data = new Float32Array(numbers.length * each);
  numbers.forEach((number, i) => number > 0 && data.set(features.features(number), i * each));
  return { ...batch, visual: { kind, shape: [batch.size, batch.media, ...shape], data } };
}

/** Learns what joins the frozen models from a weighted mixture. */
export function jointObjective(model: JointModel, config: Config, data: TrainingData): Objective {
  const { datasets, gateWalk, framesPerClip, strategy } = config.flamingo;
  const { flamingo, features } = model;
  const [patches, width] = [model.tower.patches, model.tower.encoder.featureDim];
  const media = numberLoader(features);
  const sources = datasetNames.flatMap((name) => {
    const settings = datasets[name];
    if (!settings) return [];
    const { batch, weight, maxTokens, maxMedia, pNext, leadingSpace } = settings;
    const source = data.documents(name, config.seed, batch);
    if (!source) throw new Error(missing(name));
    return [{ name, weight, batchSize: batch, source, media, maxTokens, maxMedia, pNext, leadingSpace }];
  });
  const mixtureConfig = { seed: config.seed, tokenizer: model.tokenizer, datasets: sources, strategy };
  let mixture = new Mixture(mixtureConfig);

  const gates = flamingo.params.xattn.blocks.flatMap((b) => [b.attnGate, b.mlpGate]);
  return {
    params: variables(flamingo.params),
    decays: (name, shape) => name.startsWith('xattn.') && shape.length > 1,
    resume(cursor) {
      mixture = new Mixture(mixtureConfig, cursor as MixtureCursor);
    },
    async prepare() {
      const { batches, cursor } = await mixture.next();
      const losses = () => {
        features.encode(batches.flatMap(({ batch }) => Array.from(batch.visual.data).filter((number) => number > 0)));
        return batches.map(({ name, weight, batch }) => {
          const frames = name === 'clips' ? framesPerClip : 1;
          const seen = withFeatures(batch, features, [frames, patches, width]);
          return { name, weight, loss: () => flamingo.loss(seen) };
        });
      };
      return { losses, cursor };
    },
    settled: () => data.settled(),
    afterUpdate(step) {
      if (step >= gateWalk.steps) return;
      tf.tidy(() => gates.forEach((gate) => gate.assign(tf.add(gate, gateWalk.by))));
    },
    figures: () => model.gates(),
    measure: () => {
      const sets = Object.entries(mixture.report()).filter(([, { epochs }]) => epochs > 0);
      return Promise.resolve(Object.fromEntries(sets.map(([name, { epochs }]) => [`epochs of ${name}`, epochs])));
    },
  };
}

/** @throws Error naming a set of the mixture that the data do not have, or that cannot be merged with the others */
export function expectDatasets(config: Config, data: TrainingData): void {
  const { datasets, framesPerClip, strategy } = config.flamingo;
  const name = datasetNames.find((n) => datasets[n] && !data.documents(n, config.seed, datasets[n].batch));
  if (name) throw new Error(missing(name));
  // The mixture carries numbers in place of features, and cannot see that they differ in shape.
  if (strategy === 'merged' && datasets.clips && framesPerClip > 1) {
    throw new Error(
      `train: flamingo.strategy merged makes one batch of images and clips, whose ${framesPerClip} frames do not fit. ` +
        'Set flamingo.framesPerClip to 1, remove flamingo.datasets.clips, or take another strategy.',
    );
  }
}

function missing(name: DatasetName): string {
  return `train: the data have no set "${name}". Add it to the data or remove flamingo.datasets.${name} from the configuration.`;
}
