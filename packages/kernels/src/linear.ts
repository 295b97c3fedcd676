import * as tf from '@tensorflow/tfjs-core';
import { activation as activate, activationGrad, expectActivation, type Activation } from './activation';
import { FrozenMatrix } from './frozen-matrix';
import { fusedOp } from './fused-op';
import { matMul } from './mat-mul';
import { asRows, expectShape, lastAxis } from './shape';
import { sumRows } from './sum-rows';

/** Parameters of a linear layer, y = x W^T + b. */
export interface LinearParams {
  /** `[out, in]` */
  readonly weight: tf.Tensor2D | FrozenMatrix;
  /** `[out]` */
  readonly bias?: tf.Tensor1D;
}

interface LinearAttrs {
  readonly activation?: Activation;
  /** Replaces the input `weight`: held by the backend, without a gradient. */
  readonly frozen?: FrozenMatrix;
  /** Whether a backend that multiplies in bfloat16 may return the result in bfloat16. */
  readonly inner?: boolean;
}

/**
 * `{x [..., in], weight? [out, in], bias? [out], residual? [..., out]}` -> `[y [..., out], z]`; z, the value before
 * the activation, only with an activation and if taped. With a residual there is no activation.
 */
const linearOp = fusedOp<LinearAttrs>({
  name: 'FlamingoLinear',
  forward: ({ x, weight, bias, residual }, { activation, frozen, taped }) => {
    const rows = flatten(x!);
    // Not tf.fused.matMul: one of the backends of tfjs 4.22 adds its bias at the wrong positions.
    let z: tf.Tensor = frozen ? frozen.multiply(rows) : matMul(rows, weight as tf.Tensor2D, false, true);
    if (bias) z = tf.add(z, bias);
    z = tf.reshape(z, [...x!.shape.slice(0, -1), lastAxis(z)]);
    if (residual) z = tf.add(z, residual);
    if (!activation) return [z];
    const y = activate(z, activation);
    return taped ? [y, z] : [y];
  },
  // The input gradient of a frozen weight does not depend on the input.
  saveInputs: ({ frozen }) => (frozen ? [] : ['x', 'weight']),
  saveOutputs: [false, true],
  gradient: ([dy], { x, weight, out1: z }, { activation, frozen }) => {
    const dz = activation ? activationGrad(dy!, z!, activation) : dy!;
    return {
      x: () => inputGradient(dz, frozen ?? weight!),
      weight: () => weightGradient(dz, x!),
      bias: () => sumRows(dz),
      residual: () => tf.clone(dz),
    };
  },
});

/** `{dz [..., out], weight? [out, in]}` -> dx `[..., in]` */
const inputGradOp = fusedOp<Pick<LinearAttrs, 'frozen' | 'inner'>>({
  name: 'FlamingoLinearGrad',
  forward: ({ dz, weight }, { frozen }) => {
    const rows = flatten(dz!);
    const dx = frozen ? frozen.multiply(rows, true) : matMul(rows, weight as tf.Tensor2D);
    return [tf.reshape(dx, [...dz!.shape.slice(0, -1), dx.shape[1]])];
  },
});

/** `{dz [..., out], x [..., in]}` -> dweight `[out, in]` */
const weightGradOp = fusedOp<object>({
  name: 'FlamingoLinearWeightGrad',
  forward: ({ dz, x }) => [matMul(flatten(dz!), flatten(x!), true)],
});

/**
 * The gradient of a layer's input, `[..., in]`, from the gradient of its result before the activation.
 *
 * @param inner whether a backend that multiplies in bfloat16 may return the gradient in bfloat16
 */
export function inputGradient(dz: tf.Tensor, weight: tf.Tensor | FrozenMatrix, inner = false): tf.Tensor {
  const frozen = weight instanceof FrozenMatrix ? weight : undefined;
  return inputGradOp({ dz, weight: frozen ? undefined : (weight as tf.Tensor2D) }, { frozen, inner })[0]!;
}

/** The gradient of a layer's weight, `[out, in]`, from the gradient of its result before the activation. */
export function weightGradient(dz: tf.Tensor, x: tf.Tensor): tf.Tensor2D {
  return weightGradOp({ dz, x }, {})[0] as tf.Tensor2D;
}

/** `[..., d] -> [rows, d]` */
function flatten(x: tf.Tensor): tf.Tensor2D {
  return tf.reshape(x, asRows(x));
}

/**
 * A linear layer with an optional activation.
 *
 * @param x          float32 `[..., in]`
 * @param p          weight `[out, in]` (a frozen one gets no gradient) and bias `[out]`
 * @param activation applied to the result
 * @returns          float32 `[..., out]`
 */
export function linear(x: tf.Tensor, p: LinearParams, activation?: Activation): tf.Tensor {
  return apply(x, p, { activation });
}

/**
 * A linear layer whose result is only used in products or an activation, as queries, keys and values are. A backend that
 * multiplies in bfloat16 may return the result in bfloat16, because the products round it anyway.
 *
 * @param x          float32 `[..., in]`
 * @param p          as for `linear`
 * @param activation applied to the result
 * @returns          float32 `[..., out]`
 */
export function innerLinear(x: tf.Tensor, p: LinearParams, activation?: Activation): tf.Tensor {
  return apply(x, p, { activation, inner: true });
}

/**
 * A linear layer plus a residual: the last step of a residual branch in one operation.
 *
 * @param x        float32 `[..., in]`
 * @param residual float32 `[..., out]`
 * @returns        float32 `[..., out]`, residual + x W^T + b
 */
export function linearAdd<T extends tf.Tensor>(x: tf.Tensor, p: LinearParams, residual: T): T {
  expectShape(
    'linearAdd: residual',
    residual,
    [...x.shape.slice(0, -1), p.weight.shape[0]],
    'It must have the shape of the result.',
  );
  return apply(x, p, { residual }) as T;
}

function apply(
  x: tf.Tensor,
  p: LinearParams,
  {
    activation,
    residual,
    inner,
  }: { readonly activation?: Activation; readonly residual?: tf.Tensor; readonly inner?: boolean },
): tf.Tensor {
  expectLinear('linear', x.shape, p);
  expectActivation('linear', activation);
  const frozen = p.weight instanceof FrozenMatrix ? p.weight : undefined;
  const weight = frozen ? undefined : (p.weight as tf.Tensor2D);
  return linearOp({ x, weight, bias: p.bias, residual }, { activation, frozen, inner })[0]!;
}

/** @throws Error unless the layer takes inputs of this shape and its bias fits its weight */
export function expectLinear(what: string, shape: readonly number[], { weight, bias }: LinearParams): void {
  const [out, width] = weight.shape;
  if (shape.at(-1) !== width) {
    throw new Error(
      `${what}: x must be [..., ${width}] to fit the weight [${weight.shape.join(', ')}], got [${shape.join(', ')}]. ` +
        'Weights are [out, in]: transpose a weight that is [in, out].',
    );
  }
  if (bias) expectShape(`${what}: bias`, bias, [out], 'Pass one bias per output.');
}
