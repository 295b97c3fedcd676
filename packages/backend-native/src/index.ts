import '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';
import { activationKernels } from './kernels/activation';
import { attentionKernels } from './kernels/attention';
import { binaryKernels } from './kernels/binary';
import { convKernels } from './kernels/conv';
import { eltwiseKernels } from './kernels/eltwise';
import { gatedSumKernels } from './kernels/gated-sum';
import { linearKernels } from './kernels/linear';
import { lossKernels } from './kernels/loss';
import { matmulKernels } from './kernels/matmul';
import { mediaAttentionKernels } from './kernels/media-attention';
import { moveKernels } from './kernels/move';
import { normKernels } from './kernels/norm';
import { poolingKernels } from './kernels/pooling';
import { reduceKernels } from './kernels/reduce';
import { rotaryKernels } from './kernels/rotary';
import { relativeScoresKernels } from './kernels/relative-scores';
import { softmaxKernels } from './kernels/softmax';
import { weightKernels } from './kernels/weights';
import { loadLibrary, nativeThreads, setThreads, type NativeLibrary } from './onednn/library';
import { NativeBackend } from './native-backend';
import { oneDnn } from './onednn/onednn';
import { multipliesBfloat16 } from './frozen/blocks';
import { registerPooledBackend } from './shared/pooled-backend';

const KERNELS = {
  ...matmulKernels,
  ...convKernels,
  ...gatedSumKernels,
  ...binaryKernels,
  ...eltwiseKernels,
  ...reduceKernels,
  ...softmaxKernels,
  ...moveKernels,
  ...poolingKernels,
  ...activationKernels,
  ...linearKernels,
  ...normKernels,
  ...attentionKernels,
  ...relativeScoresKernels,
  ...mediaAttentionKernels,
  ...rotaryKernels,
  ...lossKernels,
  ...weightKernels,
};

/** tfjs chooses the backend with the highest priority by default. This is above its CPU and WASM backends, below TensorFlow's. */
const PRIORITY = 3;

/**
 * Registers the tfjs backend `native`; `tf.setBackend('native')` then chooses it.
 *
 * @throws Error if oneDNN is not found, saying where it was searched for and how to install it
 */
export function registerNativeBackend(): void {
  loadLibrary();
  registerPooledBackend('native', () => new NativeBackend(), KERNELS, PRIORITY);
}

/**
 * Path, version, threads and instruction set of oneDNN.
 *
 * @throws Error like `registerNativeBackend`
 */
export function nativeLibrary(): NativeLibrary {
  const { path, version } = loadLibrary();
  return { path, version: version.join('.'), threads: nativeThreads(), cpuIsa: oneDnn().cpuIsa() };
}

/**
 * Sets the number of threads for all later operations. The default is `OMP_NUM_THREADS`, read when the library loads.
 *
 * @throws Error if it is not a whole number of at least 1, or oneDNN does not run on OpenMP
 */
export function setNativeThreads(threads: number): void {
  setThreads(threads);
  if (tf.findBackendFactory('native')) (tf.findBackend('native') as NativeBackend).recompile();
}

/**
 * Sets the precision of later products of float32 tensors. With `bfloat16` the factors of large products are rounded first,
 * and sums are float32, as in automatic mixed precision. Results used only by products (`innerLinear`, attention) are held in
 * bfloat16; everything else stays float32.
 *
 * @throws Error if the processor has no bfloat16 instructions
 */
export function setNativePrecision(precision: 'float32' | 'bfloat16'): void {
  if (precision === 'bfloat16' && !multipliesBfloat16(oneDnn())) {
    throw new Error(
      `setNativePrecision: bfloat16 requires a processor with bfloat16 instructions, but oneDNN uses ${oneDnn().cpuIsa()}. Use float32.`,
    );
  }
  (tf.findBackend('native') as NativeBackend).precision = precision;
}

export { NativeBackend, type NativeLibrary };
