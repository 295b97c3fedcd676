import { Flamingo, initFlamingo, type FlamingoBatch } from '@flamingo-ts/flamingo';
import { Random, variables, valueAndGrads } from '@flamingo-ts/kernels';
import { initFrozenCausalLM } from '@flamingo-ts/lm-hf';
import { adamW } from '@flamingo-ts/optim';
import { startsNative } from '@flamingo-ts/testing';
import * as tf from '@tensorflow/tfjs-core';
import { afterAll, expect, it } from 'vitest';

const STEPS = 200;
const [BATCHES, ROWS, TEXT, MEDIA, PATCHES, WIDTH, VOCAB] = [10, 8, 32, 2, 9, 128, 256];

/** Pages of random text and random image features, which the model can memorise. */
function batches(): FlamingoBatch[] {
  const random = new Random(5);
  return Array.from({ length: BATCHES }, () => {
    const tokens = Int32Array.from({ length: ROWS * TEXT }, (_, i) =>
      i % (TEXT / MEDIA) === 0 ? 0 : 2 + Math.floor(random.uniform() * (VOCAB - 2)),
    );
    return {
      size: ROWS,
      text: TEXT,
      tokens,
      lossMask: Array.from(tokens, (token) => (token === 0 ? 0 : 1)),
      mediaIndex: Array.from(tokens, (_, i) => 1 + Math.floor((i % TEXT) / (TEXT / MEDIA))),
      visual: {
        kind: 'features' as const,
        shape: [ROWS, MEDIA, 1, PATCHES, WIDTH],
        data: Float32Array.from({ length: ROWS * MEDIA * PATCHES * WIDTH }, () => random.normal()),
      },
    };
  });
}

/** Loss of each step of a Flamingo with everything in one precision. */
async function losses(precision: 'float32' | 'bfloat16'): Promise<number[]> {
  const { setNativePrecision } = await import('@flamingo-ts/backend-native');
  setNativePrecision(precision);
  const json = { model_type: 'gpt2', n_layer: 2, n_embd: WIDTH, n_head: 4, vocab_size: VOCAB, n_positions: TEXT };
  const lm = await initFrozenCausalLM(json, new Random(0), precision);
  const shared = {
    visualSize: WIDTH,
    numHeads: 4,
    headDim: 32,
    intermediateSize: 4 * WIDTH,
    activation: 'gelu' as const,
  };
  const config = {
    resampler: { ...shared, numLayers: 1, numLatents: 16, finalNorm: true },
    xattn: { ...shared, hiddenSize: WIDTH, normMedia: true, every: 1, placement: 'paper' as const },
    tokens: { image: 0, endOfChunk: 1 },
  };
  const model = new Flamingo(config, initFlamingo(config, 2, new Random(1)), { lm });
  for (const { attnGate, mlpGate } of model.params.xattn.blocks) {
    for (const gate of [attnGate, mlpGate]) tf.tidy(() => gate.assign(tf.fill(gate.shape, 0.5)));
  }
  const params = variables(model.params);
  const optimizer = adamW({ learningRate: 1e-3, weightDecay: 0.1, clipNorm: 1 });
  const state = optimizer.init(params);
  const data = batches();
  return Array.from({ length: STEPS }, (_, step) => {
    const { value, grads } = valueAndGrads(() => model.loss(data[step % BATCHES]!), params);
    optimizer.update(grads, state, params);
    const loss = value.dataSync()[0]!;
    tf.dispose([value, grads]);
    return loss;
  });
}

const isa = (await startsNative()) ? (await import('@flamingo-ts/backend-native')).nativeLibrary().cpuIsa : '';
const multiplies = /bf16|amx|fp16/.test(isa);

afterAll(async () => {
  if (multiplies) (await import('@flamingo-ts/backend-native')).setNativePrecision('float32');
});

it.runIf(multiplies)(
  'two hundred steps in bfloat16 have the losses of float32 within one percent',
  { timeout: 240_000 },
  async () => {
    const [exact, rounded] = [await losses('float32'), await losses('bfloat16')];
    const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
    expect(mean(exact.slice(-BATCHES))).toBeLessThan(0.9 * mean(exact.slice(0, BATCHES)));
    for (let from = 0; from < STEPS; from += BATCHES) {
      const [a, b] = [exact, rounded].map((all) => mean(all.slice(from, from + BATCHES))) as [number, number];
      expect(Math.abs(b / a - 1), `steps from ${from}: ${a} and ${b}`).toBeLessThan(0.01);
    }
  },
);
