/**
 * One package in a plain TensorFlow.js program: a Perceiver Resampler learns, with TensorFlow.js' own Adam, which of four
 * colors most patches of an image have.
 *
 *   npm install @flamingo-ts/perceiver-resampler @flamingo-ts/kernels @tensorflow/tfjs-core@4.22.0 \
 *     @tensorflow/tfjs-backend-cpu@4.22.0
 */
import '@tensorflow/tfjs-backend-cpu';
import { Random, variables } from '@flamingo-ts/kernels';
import { initResampler, PerceiverResampler, type ResamplerConfig } from '@flamingo-ts/perceiver-resampler';
import * as tf from '@tensorflow/tfjs-core';

const [COLORS, PATCHES, BATCH, STEPS] = [4, 9, 32, 60];

const config: ResamplerConfig = {
  visualSize: 16,
  inputSize: COLORS,
  numLayers: 1,
  numHeads: 2,
  headDim: 8,
  numLatents: 2,
  intermediateSize: 32,
  activation: 'gelu',
  finalNorm: true,
};

await tf.setBackend('cpu');
const random = new Random(0);
const resampler = new PerceiverResampler(config, initResampler(config, random));
const head = tf.variable(tf.randomNormal([config.visualSize, COLORS], 0, 0.2, 'float32', 1));
const params = [...Object.values(variables(resampler.params)), head];

/** Images of one-hot patches, float32 [batch, 1, 1, patches, colors], and the color that most patches have. */
function drawBatch(): { patches: tf.Tensor5D; labels: number[] } {
  const colors: number[] = [];
  const labels = Array.from({ length: BATCH }, () => {
    const common = random.int(COLORS);
    for (let i = 0; i < PATCHES; i++) colors.push(i < 5 ? common : random.int(COLORS));
    return common;
  });
  const patches = tf.oneHot(tf.tensor1d(colors, 'int32'), COLORS);
  return { patches: tf.cast(tf.reshape(patches, [BATCH, 1, 1, PATCHES, COLORS]), 'float32'), labels };
}

function classify(patches: tf.Tensor5D): tf.Tensor2D {
  const latents = resampler.apply(patches); // [batch, 1, latents, visualSize]
  return tf.matMul(tf.mean(tf.squeeze(latents, [1]), 1) as tf.Tensor2D, head as tf.Tensor2D);
}

const optimizer = tf.train.adam(0.01);
for (let step = 0; step < STEPS; step++) {
  tf.tidy(() => {
    const { patches, labels } = drawBatch();
    const targets = tf.oneHot(tf.tensor1d(labels, 'int32'), COLORS);
    const loss = optimizer.minimize(
      () => tf.neg(tf.mean(tf.sum(tf.mul(targets, tf.logSoftmax(classify(patches))), -1))) as tf.Scalar,
      true,
      params,
    );
    if (step % 20 === 0) console.log(`step ${step}: loss ${loss!.dataSync()[0]!.toFixed(3)}`);
  });
}

const accuracy = tf.tidy(() => {
  const { patches, labels } = drawBatch();
  const answers = tf.argMax(classify(patches), -1).dataSync();
  return labels.filter((label, i) => label === answers[i]).length / BATCH;
});
console.log(`accuracy on new images: ${accuracy.toFixed(2)} (chance ${1 / COLORS})`);
