import * as tf from '@tensorflow/tfjs-core';
import './register-gradients';

/** Named input tensors of a fused operation; an absent optional input is simply not there. */
export type OpInputs = Record<string, tf.Tensor>;

/**
 * An operation made of one call: a composed forward that runs on any tfjs backend, a gradient, and, where a backend
 * registers a kernel of the same name, that kernel instead of the composed forward.
 */
export interface FusedOpDefinition<Attrs extends object> {
  /** Name of the tfjs kernel; a backend that has a faster version registers it under this name. */
  readonly name: string;
  /** Composed from public tfjs operations; returns every output, the first being the result. */
  readonly forward: (inputs: OpInputs, attrs: Attrs) => tf.Tensor[];
  /** Names of the inputs the gradient needs; they must always be present. */
  readonly saveInputs?: readonly string[];
  /** Which outputs the gradient needs, by position. */
  readonly saveOutputs?: readonly boolean[];
  /**
   * Gradients by input name, each computed only when asked for: a frozen input costs nothing.
   * `saved` holds the saved inputs by name and the saved outputs as `out0`, `out1`, ...
   */
  readonly gradient?: (dys: tf.Tensor[], saved: OpInputs, attrs: Attrs) => Record<string, () => tf.Tensor>;
}

/** Every fused operation by kernel name, so that backends and tests can list what exists. */
const definitions = new Map<string, FusedOpDefinition<never>>();

/** Kernel names of all fused operations. */
export function fusedOpNames(): string[] {
  return [...definitions.keys()];
}

/**
 * Defines a fused operation and returns the function that runs it.
 *
 * The composed forward is registered with tfjs as the kernel of a backend on first use there, so the engine records one
 * tape node per call, frees the intermediates at once, and prunes gradients nobody asked for.
 */
export function fusedOp<Attrs extends object>(
  definition: FusedOpDefinition<Attrs>,
): (inputs: Record<string, tf.Tensor | undefined>, attrs: Attrs) => tf.Tensor[] {
  const { name, forward, saveInputs = [], saveOutputs = [], gradient } = definition;
  definitions.set(name, definition as unknown as FusedOpDefinition<never>);
  tf.registerGradient({
    kernelName: name,
    inputsToSave: [...saveInputs],
    outputsToSave: [...saveOutputs],
    gradFunc: (dy, saved, attrs) => {
      if (!gradient) throw new Error(`${name} has no gradient: it is for use outside tf.grad and tf.variableGrads.`);
      const named: OpInputs = {};
      let i = 0;
      for (const input of saveInputs) named[input] = saved[i++]!;
      saveOutputs.forEach((keep, o) => {
        if (keep) named[`out${o}`] = saved[i++]!;
      });
      return gradient(Array.isArray(dy) ? dy : [dy], named, attrs as unknown as Attrs) as never;
    },
  });
  return (inputs, attrs) => {
    const backend = tf.getBackend();
    if (!tf.getKernel(name, backend)) {
      tf.registerKernel({
        kernelName: name,
        backendName: backend,
        kernelFunc: ({ inputs, attrs }) =>
          tf.tidy(() => forward(inputs as unknown as OpInputs, attrs as unknown as Attrs)) as tf.TensorInfo[],
      });
    }
    const present: OpInputs = {};
    for (const [key, value] of Object.entries(inputs)) if (value !== undefined) present[key] = value;
    const out = tf.engine().runKernel(name, present as never, attrs as never) as tf.Tensor | tf.Tensor[];
    return Array.isArray(out) ? out : [out];
  };
}
