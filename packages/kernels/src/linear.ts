import * as tf from '@tensorflow/tfjs-core';
import { activation as activate, activationGrad, type Activation } from './activation';
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
  /** Instead of the input `weight`: held by the backend, without gradient. */
  readonly frozen?: FrozenMatrix;
}

/** `{x [..., in], weight? [out, in], bias? [out]}` -> `[y [..., out], z]`; z, before the activation, only if there is one and it is taped. */
const linearOp = fusedOp<LinearAttrs>({
  name: 'FlamingoLinear',
  forward: ({ x, weight, bias }, { activation, frozen, taped }) => {
    const rows = flatten(x!);
    // Not tf.fused.matMul: with a bias, one of the backends of tfjs 4.22 adds it to the wrong places.
    let z: tf.Tensor = frozen ? frozen.multiply(rows) : matMul(rows, weight as tf.Tensor2D, false, true);
    if (bias) z = tf.add(z, bias);
    z = tf.reshape(z, [...x!.shape.slice(0, -1), lastAxis(z)]);
    if (!activation) return [z];
    const y = activate(z, activation);
    return taped ? [y, z] : [y];
  },
  saveInputs: ['x', 'weight'],
  saveOutputs: [false, true],
  gradient: ([dy], { x, weight, out1: z }, { activation, frozen }) => {
    const dz = activation ? activationGrad(dy!, z!, activation) : dy!;
    return {
      x: () => {
        const rows = frozen ? frozen.multiply(flatten(dz), true) : matMul(flatten(dz), weight as tf.Tensor2D);
        return tf.reshape(rows, x!.shape);
      },
      weight: () => matMul(flatten(dz), flatten(x!), true),
      bias: () => sumRows(dz),
    };
  },
});

/** `[..., d] -> [rows, d]` */
function flatten(x: tf.Tensor): tf.Tensor2D {
  return tf.reshape(x, asRows(x));
}

/**
 * A linear layer, with an activation if one is named.
 *
 * @param x          float32 `[..., in]`
 * @param p          weight `[out, in]` (a frozen one gets no gradient) and bias `[out]`
 * @param activation applied to the result
 * @returns          float32 `[..., out]`
 */
export function linear(x: tf.Tensor, p: LinearParams, activation?: Activation): tf.Tensor {
  const [, width] = p.weight.shape;
  if (lastAxis(x) !== width) {
    throw new Error(
      `linear: x must be [..., ${width}] to fit the weight [${p.weight.shape.join(', ')}], got [${x.shape.join(', ')}]. ` +
        'Weights are [out, in]: transpose one that came as [in, out].',
    );
  }
  if (p.bias) expectShape('linear: bias', p.bias, [p.weight.shape[0]], 'Give one bias per output.');
  const frozen = p.weight instanceof FrozenMatrix ? p.weight : undefined;
  const weight = frozen ? undefined : (p.weight as tf.Tensor2D);
  return linearOp({ x, weight, bias: p.bias }, { activation, frozen })[0]!;
}
