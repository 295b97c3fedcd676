import * as tf from '@tensorflow/tfjs-core';
import './register-gradients';

/** Named input tensors of a fused operation; an absent optional input is simply not there. */
export type OpInputs = Record<string, tf.Tensor>;

/** What every kernel finds among its attributes besides its own. */
export interface Taped {
  /** Whether the outputs beyond the first are wanted for a gradient; without, a kernel may return the first alone. */
  readonly taped: boolean;
}

/**
 * An operation made of one call: a composed forward that runs on any tfjs backend, a gradient, and, where a backend
 * registers a kernel of the same name, that kernel instead of the composed forward.
 */
export interface FusedOpDefinition<Attrs extends object> {
  /** Name of the tfjs kernel; a backend that has a faster version registers it under this name. */
  readonly name: string;
  /**
   * Composed from public tfjs operations. With a gradient the first output is the result and the others exist only to be
   * saved for it; without, every output is returned. Never returns an input itself.
   */
  readonly forward: (inputs: OpInputs, attrs: Attrs & Taped) => tf.Tensor[];
  /**
   * Names of the inputs the gradient needs, where it depends on the attributes as a function of them; an optional one that
   * is absent is absent there too.
   */
  readonly saveInputs?: readonly string[] | ((attrs: Attrs) => readonly string[]);
  /** Which outputs the gradient needs, by position; one that the forward did not return is absent there too. */
  readonly saveOutputs?: readonly boolean[];
  /**
   * Gradients by input name, each computed only when asked for: a frozen input costs nothing.
   * `saved` holds the saved inputs by name and the saved outputs as `out0`, `out1`, ...
   */
  readonly gradient?: (dys: tf.Tensor[], saved: OpInputs, attrs: Attrs) => Record<string, () => tf.Tensor>;
}

/** The engine's entry for an operation with its own gradient; tfjs keeps it out of its types but `customGrad` is made of it. */
interface TapingEngine {
  runKernelFunc(op: {
    forwardFunc: (backend: unknown, save: (tensors: tf.Tensor[]) => void) => tf.Tensor;
    backwardsFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => Record<string, () => tf.Tensor>;
    inputs: OpInputs;
  }): tf.Tensor;
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
 * tape node per call, frees the intermediates at once, and prunes gradients nobody asked for. The tape node has one
 * output: what is only saved for the gradient never gets a gradient of zeros of its own, as it would by
 * `tf.registerGradient`.
 */
export function fusedOp<Attrs extends object>(
  definition: FusedOpDefinition<Attrs>,
): (inputs: Record<string, tf.Tensor | undefined>, attrs: Attrs) => tf.Tensor[] {
  const { name, saveInputs = [], saveOutputs = [], gradient } = definition;
  definitions.set(name, definition as unknown as FusedOpDefinition<never>);

  return (inputs, attrs) => {
    ensureKernel(definition);
    const present: OpInputs = {};
    for (const key in inputs) {
      const value = inputs[key];
      if (value !== undefined) present[key] = value;
    }
    const engine = tf.engine();
    const taped = gradient !== undefined && engine.isTapeOn();
    const run = (): tf.Tensor[] => {
      const out = engine.runKernel(name, present as never, { ...attrs, taped } as never);
      return Array.isArray(out) ? out : [out as tf.Tensor];
    };
    if (!gradient) return run();
    if (!taped) {
      const [result, ...rest] = run();
      for (const unneeded of rest) unneeded.dispose();
      return [result!];
    }
    const named = typeof saveInputs === 'function' ? saveInputs(attrs) : saveInputs;
    const keptInputs = named.filter((input) => present[input] !== undefined);
    let keptOutputs: number[] = [];
    const result = (engine as unknown as TapingEngine).runKernelFunc({
      inputs: present,
      forwardFunc: (_, save) => {
        const out = run();
        keptOutputs = out.flatMap((_, i) => (saveOutputs[i] ? [i] : []));
        save([...keptInputs.map((input) => present[input]!), ...keptOutputs.map((i) => out[i]!)]);
        return out[0]!;
      },
      backwardsFunc: (dy, saved) => {
        const named: OpInputs = {};
        keptInputs.forEach((input, i) => (named[input] = saved[i]!));
        keptOutputs.forEach((o, i) => (named[`out${o}`] = saved[keptInputs.length + i]!));
        return gradient([dy], named, attrs);
      },
    });
    return [result];
  };
}

/** Registers the composed forward as the current backend's kernel unless the backend has one of its own. */
function ensureKernel<Attrs extends object>({ name, forward }: FusedOpDefinition<Attrs>): void {
  const backendName = tf.getBackend();
  if (tf.getKernel(name, backendName)) return;
  tf.registerKernel({
    kernelName: name,
    backendName,
    kernelFunc: ({ inputs, attrs }) =>
      tf.tidy(() => forward(inputs as unknown as OpInputs, attrs as unknown as Attrs & Taped)) as tf.TensorInfo[],
  });
}
