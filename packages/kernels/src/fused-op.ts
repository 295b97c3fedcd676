import * as tf from '@tensorflow/tfjs-core';
import './register-gradients';

/** Named input tensors of a fused operation, without absent optional inputs. */
export type OpInputs = Record<string, tf.Tensor>;

/** An attribute that every kernel gets in addition to its own. */
export interface Taped {
  /** Whether a gradient needs the outputs after the first; otherwise a kernel may return the first alone. */
  readonly taped: boolean;
}

/**
 * An operation with a composed forward that runs on any tfjs backend and a gradient. A backend that registers a kernel of
 * the same name replaces the composed forward.
 */
export interface FusedOpDefinition<Attrs extends object> {
  /** Name of the tfjs kernel; a backend that has a faster version registers it under this name. */
  readonly name: string;
  /**
   * Composed from public tfjs operations. With a gradient, the first output is the result and the others are only saved for
   * the gradient; without, every output is returned. Must not return an input itself.
   */
  readonly forward: (inputs: OpInputs, attrs: Attrs & Taped) => tf.Tensor[];
  /**
   * Names of the inputs that the gradient needs, or a function of the attributes that returns them. Absent optional inputs
   * are absent in `saved` too.
   */
  readonly saveInputs?: readonly string[] | ((attrs: Attrs) => readonly string[]);
  /** Which outputs the gradient needs, by position; outputs that the forward did not return are absent in `saved`. */
  readonly saveOutputs?: readonly boolean[];
  /**
   * Gradients by input name. Each is computed only if needed, so a frozen input costs nothing.
   * `saved` holds the saved inputs by name and the saved outputs as `out0`, `out1`, ...
   */
  readonly gradient?: (dys: tf.Tensor[], saved: OpInputs, attrs: Attrs) => Record<string, () => tf.Tensor>;
}

/** The engine's method behind `tf.customGrad`, which tfjs leaves out of its types. */
interface TapingEngine {
  runKernelFunc(op: {
    forwardFunc: (backend: unknown, save: (tensors: tf.Tensor[]) => void) => tf.Tensor;
    backwardsFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => Record<string, () => tf.Tensor>;
    inputs: OpInputs;
  }): tf.Tensor;
}

/** Every fused operation by kernel name, for backends and tests. */
const definitions = new Map<string, FusedOpDefinition<never>>();

/** Kernel names of all fused operations. */
export function fusedOpNames(): string[] {
  return [...definitions.keys()];
}

/**
 * Defines a fused operation and returns the function that runs it.
 *
 * The first use on a backend registers the composed forward as its kernel. The engine then records one tape node per call,
 * frees intermediates at once and skips gradients that are not needed. The tape node has one output, so saved outputs do
 * not receive zero gradients, as they would with `tf.registerGradient`.
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

/** Registers the composed forward as the current backend's kernel unless the backend has its own. */
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
