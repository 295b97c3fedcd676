import { ClipViT, clipViTConfig, initClipViT } from '@flamingo-ts/clip-vit';
import { Random, useBackend } from '@flamingo-ts/kernels';
import { initResampler, PerceiverResampler } from '@flamingo-ts/perceiver-resampler';
import { setWasmPaths } from '@tensorflow/tfjs-backend-wasm';
// Vite does not find the .wasm files by itself. Import each as a URL and tell TensorFlow.js where they are.
import wasm from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm.wasm?url';
import wasmSimd from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm?url';
import wasmThreads from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-threaded-simd.wasm?url';
import * as tf from '@tensorflow/tfjs-core';

const SIZE = 96;
const element = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;
const canvas = element<HTMLCanvasElement>('image');
const context = canvas.getContext('2d', { willReadFrequently: true })!;

setWasmPaths({
  'tfjs-backend-wasm.wasm': wasm,
  'tfjs-backend-wasm-simd.wasm': wasmSimd,
  'tfjs-backend-wasm-threaded-simd.wasm': wasmThreads,
});
const backend = await useBackend('wasm');

const encoderConfig = clipViTConfig({
  imageSize: SIZE,
  patchSize: 16,
  visualSize: 64,
  numLayers: 2,
  numHeads: 4,
  embeddingSize: 32,
});
const encoder = new ClipViT(encoderConfig, initClipViT(encoderConfig, new Random(0)));
const resamplerConfig = {
  visualSize: 64,
  numLayers: 2,
  numHeads: 4,
  headDim: 16,
  numLatents: 16,
  intermediateSize: 256,
  activation: 'gelu',
  finalNorm: true,
} as const;
const resampler = new PerceiverResampler(resamplerConfig, initResampler(resamplerConfig, new Random(1)));

/** Latents of the image on the canvas, float32 [latents, visualSize]. */
function latentsOfCanvas(): tf.Tensor2D {
  return tf.tidy(() => {
    const pixels = tf.div(tf.cast(tf.browser.fromPixels(canvas), 'float32'), 255);
    const normalized = tf.div(tf.sub(pixels, encoderConfig.mean), encoderConfig.std);
    const features = encoder.encode(tf.expandDims(normalized, 0) as tf.Tensor4D); // [1, patches, visualSize]
    const [, patches, visualSize] = features.shape;
    const latents = resampler.apply(tf.reshape(features, [1, 1, 1, patches, visualSize])); // [1, 1, latents, visualSize]
    return tf.reshape(latents, [resamplerConfig.numLatents, resamplerConfig.visualSize]) as tf.Tensor2D;
  });
}

async function show(): Promise<void> {
  const started = performance.now();
  const latents = latentsOfCanvas();
  const values = await latents.data();
  const milliseconds = performance.now() - started;
  const shades = tf.tidy(() => {
    const lowest = tf.min(latents);
    return tf.div(tf.sub(latents, lowest), tf.sub(tf.max(latents), lowest)) as tf.Tensor2D;
  });
  await tf.browser.toPixels(shades, element<HTMLCanvasElement>('latents'));
  tf.dispose([latents, shades]);
  const finite = values.every(Number.isFinite);
  element('status').textContent =
    `${backend.name}: ${latents.shape.join(' x ')} latents in ${milliseconds.toFixed(0)} ms, ` +
    (finite ? 'all finite' : 'not all finite');
}

const gradient = context.createLinearGradient(0, 0, SIZE, SIZE);
gradient.addColorStop(0, 'tomato');
gradient.addColorStop(1, 'royalblue');
context.fillStyle = gradient;
context.fillRect(0, 0, SIZE, SIZE);
await show();

element<HTMLInputElement>('file').addEventListener('change', async ({ target }) => {
  const [file] = (target as HTMLInputElement).files ?? [];
  if (!file) return;
  context.drawImage(await createImageBitmap(file), 0, 0, SIZE, SIZE);
  await show();
});
