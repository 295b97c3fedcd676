import { ClipViT, clipViTConfig, clipViTShapes } from '@flamingo-ts/clip-vit';
import { Flamingo, initFlamingo, type FlamingoBatch, type FlamingoPrompt } from '@flamingo-ts/flamingo';
import {
  Random,
  variables,
  valueAndGrads,
  type FilterPrecision,
  type FrozenPrecision,
  type StateTensor,
} from '@flamingo-ts/kernels';
import { DecodingSession } from '@flamingo-ts/lm-core';
import { initFrozenCausalLM } from '@flamingo-ts/lm-hf';
import { NFNet, nfnetConfig, nfnetFlops, nfnetShapes } from '@flamingo-ts/nfnet';
import { adamW } from '@flamingo-ts/optim';
import * as tf from '@tensorflow/tfjs-core';
import { clipFlops, decodeFlops, jointConfigOf, trainFlops } from './flops';
import type { DecodeSpec, ModelSpec, TrainSpec, VisionSpec, WorkloadSpec } from './spec';

/** Work that is repeated to measure its speed. */
export interface Workload {
  readonly metric: 'tokens_per_second' | 'new_tokens_per_second' | 'images_per_second';
  /** What the metric counts, per step. */
  readonly unitsPerStep: number;
  readonly flopsPerStep: number;
  step(): Promise<void>;
  /** Seconds of each part of the last step, if steps have parts. */
  parts?(): Record<string, number>;
}

/** Creates a workload with random weights and inputs. */
export async function createWorkload(spec: WorkloadSpec, precision: FrozenPrecision): Promise<Workload> {
  if (precision === 'int8' && spec.kind !== 'decode') {
    throw new Error(`bench: int8 requires a decode workload, got ${spec.kind}. Use fp32 or bf16.`);
  }
  if (spec.kind === 'vision') return visionWorkload(spec, precision as FilterPrecision);
  return spec.kind === 'train' ? trainWorkload(spec, precision) : decodeWorkload(spec, precision);
}

async function createModel(spec: ModelSpec, precision: FrozenPrecision): Promise<Flamingo> {
  const { layers, hidden, heads, vocab, positions } = spec.lm;
  const gpt2 = {
    model_type: 'gpt2',
    n_layer: layers,
    n_embd: hidden,
    n_head: heads,
    vocab_size: vocab,
    n_positions: positions,
  };
  const lm = await initFrozenCausalLM(gpt2, new Random(0), precision);
  const config = { ...jointConfigOf(spec), tokens: { image: 0, endOfChunk: 1 } };
  const params = initFlamingo(config, layers, new Random(1));
  // With gates at 0, no gradient would reach the gated layers in the first step.
  for (const block of params.xattn.blocks) {
    for (const gate of [block.attnGate, block.mlpGate]) tf.tidy(() => gate.assign(tf.fill(gate.shape, 0.5)));
  }
  return new Flamingo(config, params, { lm });
}

/** Images at regular intervals, text everywhere else. */
function inputs({ lm, vision, batch, tokens, images }: ModelSpec) {
  const random = new Random(2);
  const row = () =>
    Array.from({ length: tokens }, (_, t) =>
      t % Math.floor(tokens / images) === 0 && t < images * Math.floor(tokens / images)
        ? 0
        : 2 + Math.floor(random.uniform() * (lm.vocab - 2)),
    );
  const rows = Array.from({ length: batch }, row);
  const features = Float32Array.from(
    { length: batch * images * vision.frames * vision.positions * vision.dim },
    () => 2 * random.uniform() - 1,
  );
  return { rows, features };
}

async function trainWorkload(spec: TrainSpec, precision: FrozenPrecision): Promise<Workload> {
  const model = await createModel(spec, precision);
  const { batch: size, tokens: text, images, vision } = spec;
  const { rows, features } = inputs(spec);
  let seen = 0;
  const mediaIndex = rows.flatMap((row) => {
    seen = 0;
    return row.map((token) => (token === 0 ? ++seen : seen));
  });
  const batch: FlamingoBatch = {
    size,
    text,
    tokens: Int32Array.from(rows.flat()),
    lossMask: rows.flat().map((token) => (token === 0 ? 0 : 1)),
    mediaIndex,
    visual: {
      kind: 'features',
      shape: [size, images, vision.frames, vision.positions, vision.dim],
      data: features,
    },
  };
  // The embeddings of the special tokens are not trained, as the peer trains no embeddings.
  const params = variables({ resampler: model.params.resampler, xattn: model.params.xattn });
  const optimizer = adamW({ learningRate: () => 1e-4, weightDecay: 0.1, clipNorm: 1 });
  const state = optimizer.init(params);
  return {
    metric: 'tokens_per_second',
    unitsPerStep: size * text,
    flopsPerStep: trainFlops(spec),
    async step() {
      const { value, grads } = valueAndGrads(() => model.loss(batch), params);
      optimizer.update(grads, state, params);
      value.dataSync();
      tf.dispose([value, grads]);
    },
  };
}

async function decodeWorkload(spec: DecodeSpec, precision: FrozenPrecision): Promise<Workload> {
  const model = await (await createModel(spec, precision)).freeze(precision);
  const { images, vision, new_tokens: count } = spec;
  const { rows, features } = inputs(spec);
  const each = features.length / rows.length;
  const prompts = rows.map((tokens, i): FlamingoPrompt => ({
    tokens,
    visual: {
      kind: 'features',
      shape: [images, vision.frames, vision.positions, vision.dim],
      data: features.subarray(i * each, (i + 1) * each),
    },
  }));
  const flops = decodeFlops(spec);
  const seconds = { prefill_seconds: 0, token_seconds: 0 };
  return {
    metric: 'new_tokens_per_second',
    unitsPerStep: rows.length * count,
    flopsPerStep: flops.prefill + (count - 1) * flops.token,
    async step() {
      const started = performance.now();
      const media = model.prepare(prompts);
      const session = DecodingSession.open(model.lm, rows, media.context);
      let logits = await session.start();
      const read = performance.now();
      for (let i = 1; i < count; i++) {
        logits = await session.next(
          rows.map((_, row) => row),
          logits.map((row) => largest(row)),
        );
      }
      seconds.prefill_seconds = (read - started) / 1000;
      seconds.token_seconds = (performance.now() - read) / 1000 / (count - 1);
      session.dispose();
      media.dispose();
    },
    parts: () => seconds,
  };
}

function largest(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}

/** A backend that packs weights copies tensors of this size and above. */
const COPIED = 1 << 16;

/** Random weights that preserve the scale of their inputs. They are drawn when read, so they are never all in memory as float32. */
function randomState(shapes: Readonly<Record<string, readonly number[]>>, random: Random): Record<string, StateTensor> {
  const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
  // One array for all large tensors, because garbage collection would leave many of them in memory.
  const packs = 'packMatrix' in tf.backend();
  const shared = new Float32Array(packs ? Math.max(...Object.values(shapes).map(sizeOf)) : 0);
  const draw = (name: string, shape: readonly number[]): Float32Array => {
    const n = sizeOf(shape);
    const values = packs && n >= COPIED ? shared.subarray(0, n) : new Float32Array(n);
    if (shape.length < 2) return values.fill(name.endsWith('.bias') ? 0 : 1);
    const deviation = (n / shape[0]!) ** -0.5;
    for (let i = 0; i < n; i++) values[i] = deviation * random.normal();
    return values;
  };
  return Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => {
      const tensor = {
        shape,
        get data() {
          return draw(name, shape);
        },
      };
      return [name, tensor];
    }),
  );
}

async function visionWorkload(spec: VisionSpec, precision: FilterPrecision): Promise<Workload> {
  const { batch, size } = spec;
  const random = new Random(0);
  const pixels = Float32Array.from({ length: batch * size * size * 3 }, () => 2 * random.uniform() - 1);
  const images = tf.tensor4d(pixels, [batch, size, size, 3]);
  let encoder: { encode(images: tf.Tensor4D): tf.Tensor3D };
  let flops: number;
  if (spec.model === 'nfnet-f0') {
    const config = nfnetConfig({ variant: 'F0', imageSize: size });
    encoder = NFNet.fromState(config, randomState(nfnetShapes(config), random), { freeze: precision });
    flops = nfnetFlops(config);
  } else {
    const config = clipViTConfig({ variant: 'B/16', imageSize: size });
    encoder = ClipViT.fromState(config, randomState(clipViTShapes(config), random), { freeze: precision });
    flops = clipFlops(config);
  }
  return {
    metric: 'images_per_second',
    unitsPerStep: batch,
    flopsPerStep: batch * flops,
    async step() {
      // Reading one number waits for the result without copying all of it.
      tf.tidy(() => tf.slice(encoder.encode(images), [0, 0, 0], [1, 1, 1]).dataSync());
    },
  };
}
