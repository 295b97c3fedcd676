import * as tf from '@tensorflow/tfjs-core';
import { activation as activate, activationGrad, ACTIVATIONS, type Activation } from './activation';
import { checkValue, rule } from './check-config';
import { FrozenMatrix } from './frozen-matrix';
import { fusedOp } from './fused-op';
import {
  expectLinear,
  innerLinear,
  inputGradient,
  linear,
  linearAdd,
  weightGradient,
  type LinearParams,
} from './linear';
import { expectShape } from './shape';
import { sumRows } from './sum-rows';

/** Parameters of a feed-forward layer, y = activation(x up^T + b) down^T + c. */
export interface MLPParams {
  /** `[inner, in]` */
  readonly up: LinearParams;
  /** `[out, inner]` */
  readonly down: LinearParams;
}

interface MLPAttrs {
  readonly activation: Activation;
  /** Replace the inputs of these names: held by the backend, without gradients. */
  readonly frozenUp?: FrozenMatrix;
  readonly frozenDown?: FrozenMatrix;
}

/**
 * `{x [..., in], up? [inner, in], upBias?, down? [out, inner], downBias?, residual? [..., out]}` -> `[y [..., out], z [..., inner]]`;
 * z, the value before the activation, only if taped. The gradient recomputes the activation, because storing it would take as
 * much memory as z.
 */
const mlpOp = fusedOp<MLPAttrs>({
  name: 'FlamingoMLP',
  forward: ({ x, up, upBias, down, downBias, residual }, { activation, frozenUp, frozenDown, taped }) => {
    const first = paramsOf(up, upBias, frozenUp);
    const second = paramsOf(down, downBias, frozenDown);
    const z = taped ? innerLinear(x!, first) : undefined;
    const inner = z ? activate(z, activation) : innerLinear(x!, first, activation);
    const y = residual ? linearAdd(inner, second, residual) : linear(inner, second);
    return z ? [y, z] : [y];
  },
  saveInputs: ({ frozenUp, frozenDown }) => [...(frozenUp ? [] : ['x', 'up']), ...(frozenDown ? [] : ['down'])],
  saveOutputs: [false, true],
  gradient: ([dy], { x, up, down, out1: z }, { activation, frozenUp, frozenDown }) => {
    const dinner = inputGradient(dy!, frozenDown ?? down!, true);
    const dz = activationGrad(dinner, z!, activation);
    dinner.dispose();
    return {
      x: () => inputGradient(dz, frozenUp ?? up!),
      up: () => weightGradient(dz, x!),
      upBias: () => sumRows(dz),
      down: () => weightGradient(dy!, activate(z!, activation)),
      downBias: () => sumRows(dy!),
      residual: () => tf.clone(dy!),
    };
  },
});

function paramsOf(weight: tf.Tensor | undefined, bias: tf.Tensor | undefined, frozen?: FrozenMatrix): LinearParams {
  return { weight: frozen ?? (weight as tf.Tensor2D), bias: bias as tf.Tensor1D | undefined };
}

/**
 * A feed-forward layer: two linear layers with an activation between them.
 *
 * @param x        float32 `[..., in]`
 * @param p        weights `[inner, in]` and `[out, inner]` (frozen ones get no gradient) and biases
 * @param residual float32 `[..., out]`, added to the result
 * @returns        float32 `[..., out]`
 */
export function mlp(x: tf.Tensor, p: MLPParams, activation: Activation, residual?: tf.Tensor): tf.Tensor {
  expectLinear('mlp: up', x.shape, p.up);
  expectLinear('mlp: down', [p.up.weight.shape[0]], p.down);
  checkValue('mlp', 'activation', activation, rule.oneOf(ACTIVATIONS));
  if (residual) {
    const want = [...x.shape.slice(0, -1), p.down.weight.shape[0]];
    expectShape('mlp: residual', residual, want, 'It must have the shape of the result.');
  }
  const [up, frozenUp] = split(p.up);
  const [down, frozenDown] = split(p.down);
  const inputs = { x, up, upBias: p.up.bias, down, downBias: p.down.bias, residual };
  return mlpOp(inputs, { activation, frozenUp, frozenDown })[0]!;
}

function split({ weight }: LinearParams): [tf.Tensor2D | undefined, FrozenMatrix | undefined] {
  return weight instanceof FrozenMatrix ? [undefined, weight] : [weight, undefined];
}
