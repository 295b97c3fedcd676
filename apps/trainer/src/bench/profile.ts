import * as tf from '@tensorflow/tfjs-core';

/** Time and calls of one kernel. */
export interface KernelProfile {
  readonly kernel: string;
  readonly calls: number;
  /** Without the kernels that it calls itself. */
  readonly seconds: number;
  /** Calls that fell back to a JavaScript kernel of tfjs. */
  readonly inJavaScript: number;
}

/** Time of some work by kernel. */
export interface Profile {
  readonly seconds: number;
  readonly kernels: readonly KernelProfile[];
  /** Seconds outside kernels: the tape, shapes, garbage collection. */
  readonly outside: number;
}

/** A backend that counts the calls that its fast kernels do not support. */
interface CountingBackend {
  readonly fallbacks?: ReadonlyMap<string, number>;
}

/**
 * Times every kernel of the current backend while `work` runs. Run `work` once before, because the first use registers
 * kernels and compiles operations.
 */
export async function profile(work: () => Promise<void>): Promise<Profile> {
  const byKernel = new Map<string, { calls: number; seconds: number }>();
  const backend = tf.backend() as CountingBackend;
  const before = new Map(backend.fallbacks);
  // For each running kernel, the time of the kernels that it called.
  const inner: number[] = [];
  const restore = tf.getKernelsForBackend(tf.getBackend()).map((config) => {
    const original = config.kernelFunc;
    const record = { calls: 0, seconds: 0 };
    byKernel.set(config.kernelName, record);
    config.kernelFunc = (call) => {
      inner.push(0);
      const from = performance.now();
      try {
        return original(call);
      } finally {
        const took = (performance.now() - from) / 1000;
        record.calls++;
        record.seconds += took - inner.pop()!;
        if (inner.length) inner[inner.length - 1]! += took;
      }
    };
    return () => (config.kernelFunc = original);
  });
  const from = performance.now();
  try {
    await work();
  } finally {
    restore.forEach((undo) => undo());
  }
  const seconds = (performance.now() - from) / 1000;
  const kernels = [...byKernel]
    .filter(([, { calls }]) => calls > 0)
    .map(([kernel, record]) => ({
      kernel,
      ...record,
      inJavaScript: (backend.fallbacks?.get(kernel) ?? 0) - (before.get(kernel) ?? 0),
    }))
    .sort((a, b) => b.seconds - a.seconds);
  return { seconds, kernels, outside: seconds - kernels.reduce((sum, k) => sum + k.seconds, 0) };
}

/** The profile as a table. */
export function formatProfile({ seconds, kernels, outside }: Profile): string {
  const share = (s: number) => `${((100 * s) / seconds).toFixed(1).padStart(5)} %`;
  const lines = kernels.map(
    (k) =>
      `  ${k.kernel.padEnd(36)} ${String(k.calls).padStart(6)} calls ${(1000 * k.seconds).toFixed(2).padStart(10)} ms ${share(k.seconds)}` +
      (k.inJavaScript ? `  ${k.inJavaScript} in JavaScript` : ''),
  );
  const calls = kernels.reduce((sum, k) => sum + k.calls, 0);
  return [
    `${(1000 * seconds).toFixed(1)} ms in total, ${calls} kernel calls`,
    ...lines,
    `  ${'outside kernels'.padEnd(49)} ${(1000 * outside).toFixed(2).padStart(10)} ms ${share(outside)}`,
  ].join('\n');
}
