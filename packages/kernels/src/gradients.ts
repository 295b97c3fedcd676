import * as tf from '@tensorflow/tfjs-core';

/** One operation as tfjs recorded it. */
interface TapeNode {
  readonly kernelName: string;
  readonly inputs: Readonly<Record<string, tf.Tensor>>;
  readonly outputs: readonly tf.Tensor[];
  /** Gradients by input name from those of the outputs; null for an output that the loss does not depend on. */
  readonly gradient: ((dys: readonly (tf.Tensor | null)[]) => Record<string, () => tf.Tensor>) | null;
  saved: readonly tf.Tensor[];
}

/** The engine's tape, which tfjs leaves out of its types. */
interface TapeEngine {
  readonly state: { activeTape: TapeNode[] | null; gradientDepth: number };
  startTape(): void;
  endTape(): void;
}

/**
 * A loss and its gradients by parameter name. A parameter that the loss does not depend on has no gradient.
 *
 * May be called while another gradient is recorded; that gradient treats the results as constants.
 *
 * Frees the saved tensors and the incoming gradient of each operation as soon as the backward pass has used them.
 * `tf.variableGrads` keeps both to the end and needs several times the memory.
 *
 * @param loss   computes the loss; called once
 * @param params the parameters to differentiate; omit frozen ones
 */
export function valueAndGrads(
  loss: () => tf.Scalar,
  params: Readonly<Record<string, tf.Tensor>>,
): { value: tf.Scalar; grads: Readonly<Record<string, tf.Tensor>> } {
  const engine = tf.engine() as unknown as TapeEngine;
  const { state } = engine;
  // Hide the loss and the backward pass from a gradient that is being recorded.
  const { activeTape, gradientDepth } = state;
  state.gradientDepth = 0;
  let tape: TapeNode[] = [];
  try {
    engine.startTape();
    let value: tf.Scalar;
    try {
      value = tf.tidy(loss);
    } finally {
      engine.endTape();
      tape = state.activeTape ?? [];
    }
    if (value.size !== 1) {
      throw new Error(
        `valueAndGrads: the loss must be a single number, got [${value.shape.join(', ')}]. Take its mean.`,
      );
    }
    return { value, grads: tf.tidy(() => backwardPass(tape, value, params)) };
  } finally {
    state.activeTape = activeTape;
    state.gradientDepth = gradientDepth;
    for (const node of tape) tf.dispose(node.saved as tf.Tensor[]);
  }
}

/** The backward pass: walks the tape back from the loss. */
function backwardPass(
  tape: readonly TapeNode[],
  value: tf.Scalar,
  params: Readonly<Record<string, tf.Tensor>>,
): Record<string, tf.Tensor> {
  const wanted = new Set(Object.values(params).map((p) => p.id));
  const reached = new Set(wanted);
  const nodes = tape.filter(({ inputs, outputs, saved }) => {
    const depends = Object.values(inputs).some((x) => reached.has(x.id));
    if (depends) for (const y of outputs) reached.add(y.id);
    else tf.dispose(saved as tf.Tensor[]);
    return depends;
  });
  const gradients = new Map<number, tf.Tensor>([[value.id, tf.onesLike(value)]]);
  for (const node of nodes.reverse()) {
    const dys = node.outputs.map((y) => gradients.get(y.id) ?? null);
    if (dys.some((dy) => dy !== null)) {
      const names = Object.keys(node.inputs).filter((name) => reached.has(node.inputs[name]!.id));
      inputGradients(node, dys, names).forEach((dx, i) => accumulate(gradients, node.inputs[names[i]!]!, dx));
    }
    tf.dispose(node.saved as tf.Tensor[]);
    for (const y of node.outputs) {
      if (wanted.has(y.id)) continue;
      gradients.get(y.id)?.dispose();
      gradients.delete(y.id);
    }
  }
  const named = Object.entries(params).flatMap(([name, { id }]) => {
    const gradient = gradients.get(id);
    return gradient ? [[name, gradient] as const] : [];
  });
  return Object.fromEntries(named);
}

/** The gradients of the inputs of these names, each a separate tensor. */
function inputGradients(node: TapeNode, dys: readonly (tf.Tensor | null)[], names: readonly string[]): tf.Tensor[] {
  const { kernelName, gradient, inputs } = node;
  if (!gradient) throw new Error(`valueAndGrads: tfjs has no gradient for ${kernelName}. Build the loss without it.`);
  return tf.tidy(() => {
    const gradients = gradient(dys);
    const given = new Set<tf.Tensor | null>(dys);
    return names.map((name) => {
      const make = gradients[name];
      if (!make) throw new Error(`valueAndGrads: ${kernelName} has no gradient for its input '${name}'.`);
      const dx = make();
      if (!tf.util.arraysEqual(dx.shape, inputs[name]!.shape)) {
        throw new Error(
          `valueAndGrads: the gradient of ${kernelName} for its input '${name}' must be [${inputs[name]!.shape.join(', ')}] like the input, ` +
            `got [${dx.shape.join(', ')}].`,
        );
      }
      // A gradient that is passed on unchanged needs its own tensor, because the incoming one is disposed.
      if (given.has(dx)) return tf.clone(dx);
      given.add(dx);
      return dx;
    });
  });
}

function accumulate(gradients: Map<number, tf.Tensor>, x: tf.Tensor, dx: tf.Tensor): void {
  const before = gradients.get(x.id);
  gradients.set(x.id, before ? tf.add(before, dx) : dx);
  if (before) tf.dispose([before, dx]);
}
