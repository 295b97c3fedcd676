import * as tf from '@tensorflow/tfjs-core';
import type { Gradients, Params } from './transform';

/**
 * A loss and its gradients under the parameters' own names. A parameter that the loss does not depend on has none.
 *
 * @param loss   computes the loss; called once
 * @param params only these get gradients: what is frozen is simply not among them
 */
export function valueAndGrads(loss: () => tf.Scalar, params: Params): { value: tf.Scalar; grads: Gradients } {
  const { value, grads } = tf.variableGrads(loss, Object.values(params));
  const named = Object.entries(params).flatMap(([name, p]) => (grads[p.name] ? [[name, grads[p.name]!] as const] : []));
  return { value, grads: Object.fromEntries(named) };
}
