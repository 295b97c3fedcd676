import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import {
  activation,
  adamWStep,
  attention,
  avgPool2d,
  conv2d,
  conv2dSequence,
  crossEntropy,
  embedding,
  fusedOpNames,
  gatherRows,
  globalNorm,
  layerNorm,
  linear,
  mediaCrossAttention,
  mlp,
  MediaSegments,
  relativeScores,
  rmsNorm,
  rotary,
  useBackend,
  weightStandardizedConv2d,
  writeRows,
  type Activation,
} from '@flamingo-ts/kernels';
import { beforeAll, describe, expect, it } from 'vitest';
import { normal, toTensor } from './check-op';

/** Copied from tfjs-backend-webgpu 4.22.0, which cannot run under Node; look up a new name there before adding it. */
const WEBGPU = [
  ...['Add', 'AddN', 'AvgPool', 'BatchMatMul', 'Cast', 'Concat', 'Conv2D', 'Erf', 'Exp'],
  ...['ExpandDims', 'Fill', 'GatherV2', 'Identity', 'Log', 'Max', 'Mean', 'Multiply', 'NotEqual', 'OnesLike', 'Pack'],
  ...['PadV2', 'RealDiv', 'Relu', 'Reshape', 'Rsqrt', 'ScatterNd', 'Select', 'Sigmoid', 'Slice', 'Softmax', 'SplitV'],
  ...['Sqrt', 'Square', 'Step', 'Sub', 'Sum', 'Tanh', 'Tile', 'Transpose', 'ZerosLike'],
];

const random = (...shape: number[]): tf.Tensor => toTensor(normal(shape.length, shape));

/** Every operation with every option that changes what it calls, forward and backward. */
function runEverything(): void {
  const backward = (f: (...inputs: tf.Tensor[]) => tf.Tensor, ...inputs: tf.Tensor[]) => void tf.grads(f)(inputs);
  const forwardAndBackward: typeof backward = (f, ...inputs) => {
    f(...inputs);
    backward(f, ...inputs);
  };
  const ids = tf.tensor1d([0, 2, 2], 'int32');

  for (const kind of ['relu', 'gelu', 'scaled-gelu-tanh', 'quick-gelu', 'squared-relu'] as Activation[]) {
    forwardAndBackward((x) => activation(x!, kind), random(2, 3));
  }
  forwardAndBackward(
    (x, weight, bias) => linear(x!, { weight: weight as tf.Tensor2D, bias: bias as tf.Tensor1D }, 'gelu'),
    random(2, 2, 3),
    random(4, 3),
    random(4),
  );
  forwardAndBackward(
    (x, up, down) => mlp(x!, { up: { weight: up as tf.Tensor2D }, down: { weight: down as tf.Tensor2D } }, 'gelu', x),
    random(2, 3),
    random(4, 3),
    random(3, 4),
  );
  writeRows(random(2, 4, 3) as tf.Tensor3D, random(2, 1, 3) as tf.Tensor3D, 2);
  forwardAndBackward(
    (x, weight, bias) => layerNorm(x!, { weight: weight as tf.Tensor1D, bias: bias as tf.Tensor1D }),
    random(2, 3),
    random(3),
    random(3),
  );
  forwardAndBackward((x, weight) => rmsNorm(x!, { weight: weight as tf.Tensor1D }), random(2, 3), random(3));

  const keyMask = tf.tensor2d([1, 1, 0, 0, 0, 0], [2, 3]);
  for (const emptyRows of ['zero', 'uniform'] as const) {
    forwardAndBackward(
      (q, k, v, bias) =>
        attention(q!, k!, v!, { numHeads: 2, causal: true, keyMask, emptyRows, bias: bias as tf.Tensor4D }),
      random(2, 3, 4),
      random(2, 3, 4),
      random(2, 3, 4),
      random(1, 2, 3, 3),
    );
  }
  forwardAndBackward((q, r) => relativeScores(q!, r!, 2), random(2, 3, 4), random(3, 4));
  forwardAndBackward((x) => rotary(x!, random(1, 3, 2), 4), random(2, 3, 8));
  for (const index of [
    [0, 1, 2, 2, 1, 1],
    [0, 0, 0, 0, 0, 0],
  ]) {
    const segments = new MediaSegments(index, 2, 3, 2);
    forwardAndBackward(
      (q, k, v) => mediaCrossAttention(q!, k!, v!, segments, { numHeads: 2 }),
      random(2, 3, 4),
      random(2, 2, 3, 4),
      random(2, 2, 3, 4),
    );
  }

  for (const [standardization, stride] of [
    ['timm', 1],
    ['deepmind', 2],
  ] as const) {
    forwardAndBackward(
      (x, weight, gain, bias) =>
        weightStandardizedConv2d(
          x!,
          { weight: weight!, gain: gain as tf.Tensor1D, bias: bias as tf.Tensor1D },
          { standardization, stride, eps: 1e-4, groups: 2, padding: 'same' },
        ),
      random(1, 5, 4, 4),
      random(4, 2, 3, 3),
      random(4),
      random(4),
    );
  }
  for (const how of [{}, { activation: 'scaled-gelu-tanh' as Activation }]) {
    const layer = { stride: 1, padding: 'valid' as const, ...how };
    forwardAndBackward(
      (x, w) =>
        conv2dSequence(x!, [
          { params: { weight: w! }, ...layer },
          { params: { weight: random(2, 3, 1, 1) }, ...layer },
        ]),
      random(1, 4, 4, 2),
      random(3, 2, 3, 3),
    );
    forwardAndBackward((x, w) => conv2d(x!, { weight: w! }, layer), random(1, 4, 4, 2), random(3, 2, 3, 3));
  }
  forwardAndBackward((x) => avgPool2d(x!), random(1, 3, 4, 2));
  forwardAndBackward((x) => gatherRows(x!, ids), random(3, 4));
  forwardAndBackward((table) => embedding(table!, ids), random(3, 4));
  forwardAndBackward(
    (logits) => crossEntropy(logits!, ids, { weights: tf.tensor1d([1, 0, 2]), labelSmoothing: 0.1 }),
    random(3, 4),
  );
  forwardAndBackward((logits) => crossEntropy(logits!, ids), random(3, 4));

  const [p, m, v] = [1, 2, 3].map(() => tf.variable(random(3))) as [tf.Variable, tf.Variable, tf.Variable];
  const o = { learningRate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: [0.1], step: 1 };
  adamWStep([p], [random(3)], [m], [v], o);
  globalNorm([p, m]);
}

/** Names of all kernels that run while f does. */
function kernelsOf(f: () => void): Set<string> {
  const engine = tf.engine();
  const names = new Set<string>();
  const original = engine.runKernel;
  engine.runKernel = function (name, inputs, attrs) {
    names.add(name);
    return original.call(engine, name, inputs, attrs) as never;
  };
  try {
    tf.tidy(f);
  } finally {
    engine.runKernel = original;
  }
  return names;
}

describe('kernels that our operations call on tfjs', () => {
  let called: Set<string>;
  beforeAll(async () => {
    await useBackend('wasm');
    called = kernelsOf(runEverything);
  });

  it('are those of every fused operation, forward and backward', () => {
    expect(fusedOpNames().filter((name) => !called.has(name))).toEqual([]);
  });

  it('are exactly those in the table of the README', () => {
    const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
    const listed = [...readme.matchAll(/^\| `(Flamingo\w+)`/gm)].map(([, name]) => name);
    expect(listed.sort()).toEqual(fusedOpNames().sort());
  });

  it('are registered by wasm', () => {
    const registered = new Set(tf.getKernelsForBackend('wasm').map(({ kernelName }) => kernelName));
    expect([...called].filter((name) => !registered.has(name))).toEqual([]);
  });

  it('are registered by tfjs-node-gpu (this test does not need its addon)', () => {
    const root = createRequire(import.meta.url).resolve('@tensorflow/tfjs-node-gpu/package.json');
    const files = new Set(readdirSync(join(root, '../dist/kernels')));
    const fused = new Set(fusedOpNames());
    expect([...called].filter((name) => !fused.has(name) && !files.has(`${name}.js`))).toEqual([]);
  });

  it('are among those that tfjs-backend-webgpu registers', () => {
    const known = new Set([...WEBGPU, ...fusedOpNames()]);
    expect([...called].filter((name) => !known.has(name))).toEqual([]);
  });
});
