import {
  Mixture,
  type Batch,
  type MediaLoader,
  type MixtureCursor,
  type TextTokenizer,
} from '@flamingo-ts/data-mixtures';
import { rankCandidates } from '@flamingo-ts/evaluation';
import { Flamingo, initFlamingo, type FlamingoConfig } from '@flamingo-ts/flamingo';
import { Random, variables } from '@flamingo-ts/kernels';
import * as tf from '@tensorflow/tfjs-core';
import type { Config } from '../config/config';
import { FeatureStore } from './features';
import { recall, type ValidationMetrics } from './metrics';
import type { LanguageModel } from './lm';
import type { Objective } from './stage';
import {
  datasetNames,
  type CaptionedImage,
  type DatasetName,
  type ImageSource,
  type TrainingData,
} from '../data/training-data';
import type { VisionTower } from './vision';

/** The two frozen models and the trained layers between them, with the features of recently seen images. */
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
    this.features = new FeatureStore(tower, images, config.flamingo.featureCacheMiB * 2 ** 20);
  }

  /** The tokenizer in the form that data and prompts require. */
  get tokenizer(): TextTokenizer {
    const { tokenizer, special } = this.language;
    return { encode: (text) => tokenizer.encode(text), special };
  }

  /** Tanh of both gates of every gated block, by name. */
  gates(): Record<string, number> {
    const gates: Record<string, number> = {};
    this.flamingo.params.xattn.blocks.forEach((block, i) => {
      gates[`attn ${i}`] = Math.tanh(block.attnGate.dataSync()[0]!);
      gates[`mlp ${i}`] = Math.tanh(block.mlpGate.dataSync()[0]!);
    });
    return gates;
  }
}

/** The paper's Flamingo at the configured sizes, plus a final norm in the resampler, which the paper's figure does not show. */
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

/** Passes numbers of images in the store through the mixture. Their features are computed when the step begins. */
function numberLoader(features: FeatureStore, isAugmented: boolean): MediaLoader {
  return {
    kind: 'features',
    shape: [1],
    async load(media, sample = []) {
      if (!('key' in media)) throw new Error('train: expected media named by key, got files or bytes.');
      const number = await features.fetch(media.key, isAugmented ? [...sample, media.key] : undefined);
      return number === undefined ? undefined : Float32Array.of(number);
    },
  };
}

/** Replaces the numbers in a batch by features; zero where there is no image or clip. */
function withFeatures(batch: Batch, features: FeatureStore, shape: readonly number[]): Batch {
  const { kind, data: numbers } = batch.visual;
  const each = shape.reduce((a, b) => a * b, 1);
  const data = new Float32Array(numbers.length * each);
  numbers.forEach((number, i) => number > 0 && data.set(features.features(number), i * each));
  return { ...batch, visual: { kind, shape: [batch.size, batch.media, ...shape], data } };
}

/** Trains the resampler and gated cross-attention on a weighted mixture. */
export function jointObjective(model: JointModel, config: Config, data: TrainingData): Objective {
  const { datasets, gateWalk, framesPerClip, strategy } = config.flamingo;
  const { flamingo, features } = model;
  const [patches, width] = [model.tower.patches, model.tower.encoder.featureDim];
  const media = numberLoader(features, config.augmentation !== undefined);
  const sources = datasetNames.flatMap((name) => {
    const datasetConfig = datasets[name];
    if (!datasetConfig) return [];
    const { batch, weight, maxTokens, maxMedia, pNext, leadingSpace } = datasetConfig;
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
    async prepare(step) {
      features.beginStep(step);
      const { batches, cursor } = await mixture.next();
      const losses = () => {
        features.encode(batches.flatMap(({ batch }) => Array.from(batch.visual.data).filter((number) => number > 0)));
        const parts = batches.map(({ name, weight, batch }) => {
          const frames = name === 'clips' ? framesPerClip : 1;
          const withImages = withFeatures(batch, features, [frames, patches, width]);
          return { name, weight, loss: () => flamingo.loss(withImages) };
        });
        features.endStep(step);
        return parts;
      };
      return { losses, cursor };
    },
    whenDispatched: () => data.whenDispatched(),
    afterUpdate(step) {
      if (step >= gateWalk.steps) return;
      tf.tidy(() => gates.forEach((gate) => gate.assign(tf.add(gate, gateWalk.by))));
    },
    figures: () => model.gates(),
    ...(data.validation && { validate: () => validateCaptions(model, config.flamingo, data.validation!.pairs) }),
    measure: () => {
      const used = Object.entries(mixture.report()).filter(([, { epochs }]) => epochs > 0);
      return Promise.resolve(Object.fromEntries(used.map(([name, { epochs }]) => [`epochs of ${name}`, epochs])));
    },
  };
}

/** Pairs that `validateCaptions` ranks together. */
const GROUP = 8;

/**
 * The loss per token of captions, and the retrieval of each image's caption among those of its group. Ranks a caption by
 * how much likelier the image makes it than the images of the group do on average, because short captions are likelier
 * than long ones whatever the image.
 */
async function validateCaptions(
  { flamingo, features, tokenizer, tower }: JointModel,
  { datasets }: Config['flamingo'],
  pairs: readonly CaptionedImage[],
): Promise<ValidationMetrics> {
  const { maxTokens, leadingSpace } = (datasets.pairs ?? datasets.descriptions)!;
  const { bos, image, endOfChunk, eos } = tokenizer.special;
  const start = bos === undefined ? [image] : [bos, image];
  const lead = leadingSpace > 0.5 ? ' ' : '';
  let [negative, tokens, images, right, chance] = [0, 0, 0, 0, 0];
  const groups = Math.ceil(pairs.length / GROUP);
  for (let group = 0; group < groups; group++) {
    const bound = (i: number) => Math.floor((i * pairs.length) / groups);
    const all = pairs.slice(bound(group), bound(group + 1));
    const found = await features.get(all.map(({ key }) => key));
    const own = all.filter((_, i) => found[i]);
    const prompts = found.flatMap((data) => {
      const shape = [1, 1, tower.patches, tower.encoder.featureDim];
      return data ? [{ tokens: start, visual: { kind: 'features' as const, shape, data } }] : [];
    });
    if (own.length === 0) continue;
    const captions = own.map(({ text }) =>
      [...Array.from(tokenizer.encode(lead + text)), endOfChunk, eos].slice(0, maxTokens - start.length),
    );
    const scored = await flamingo.score(
      prompts,
      prompts.map(() => captions),
    );
    const scores = scored.map((row) => row.map(({ sum }) => sum)); // [image][caption]
    const average = captions.map((_, c) => logMeanExp(scores.map((row) => row[c]!)));
    const best = scores.map((row) => rankCandidates(row.map((score, c) => score - average[c]!)).order[0]!);
    const { retrieval, chance: byChance } = recall(
      best,
      own.map(({ text }) => text),
    );
    negative -= scores.reduce((sum, row, i) => sum + row[i]!, 0);
    tokens += captions.reduce((sum, caption) => sum + caption.length, 0);
    images += own.length;
    right += retrieval * own.length;
    chance += byChance * own.length;
  }
  if (images === 0) {
    throw new Error(`train: none of the ${pairs.length} validation images can be read. Check their paths in the data.`);
  }
  return { loss: negative / tokens, retrieval: right / images, chance: chance / images };
}

function logMeanExp(values: readonly number[]): number {
  const most = Math.max(...values);
  return most + Math.log(values.reduce((sum, value) => sum + Math.exp(value - most), 0) / values.length);
}

/** @throws Error naming a dataset of the mixture that the data lacks, or that cannot be merged with the others */
export function expectDatasets(config: Config, data: TrainingData): void {
  const { datasets, framesPerClip, strategy } = config.flamingo;
  const name = datasetNames.find((n) => datasets[n] && !data.documents(n, config.seed, datasets[n].batch));
  if (name) throw new Error(missing(name));
  // The mixture carries numbers instead of features and cannot check their shapes.
  if (strategy === 'merged' && datasets.clips && framesPerClip > 1) {
    throw new Error(
      `train: flamingo.strategy merged puts images and clips into one batch, but clips have ${framesPerClip} frames. ` +
        'Set flamingo.framesPerClip to 1, remove flamingo.datasets.clips, or choose another strategy.',
    );
  }
}

function missing(name: DatasetName): string {
  return `Config: the data has no dataset "${name}". Add it to the data or remove flamingo.datasets.${name} from the configuration.`;
}
