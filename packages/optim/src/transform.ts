import * as tf from '@tensorflow/tfjs-core';
import { disposeParams, loadState, stateOf, type ParamTree, type StateTensor } from '@flamingo-ts/kernels';

/** The trained variables by dotted name, as `variables(model.params)` returns them. */
export type Params = Readonly<Record<string, tf.Variable>>;

/** Gradients under the names of their parameters. */
export type Gradients = Readonly<Record<string, tf.Tensor>>;

/** What a transform keeps from step to step. */
export interface OptimizerState {
  /** Updates done. */
  step: number;
  /** Running averages, by purpose, then by parameter. */
  readonly slots: Readonly<Record<string, Params>>;
  /** States of the transforms that this one combines. */
  readonly parts: readonly OptimizerState[];
}

/**
 * One stage of an optimizer. Clipping and decay return changed gradients; `adamW` and `sgd` change the parameters in place
 * and return no gradients. None of them touches a parameter without a gradient.
 */
export interface Transform {
  /** Fresh state for these parameters. */
  init(params: Params): OptimizerState;
  /**
   * Does one step.
   *
   * @param grads  not disposed
   * @param state  from `init` for the same parameters; changed in place
   * @returns      the gradients that no stage has applied yet
   */
  update(grads: Gradients, state: OptimizerState, params: Params): Gradients;
}

/** Runs transforms one after another: `chain(clipByGlobalNorm(1), adamW({ learningRate: 1e-4 }))`. */
export function chain(...transforms: readonly Transform[]): Transform {
  return {
    init: (params) => ({ step: 0, slots: {}, parts: transforms.map((t) => t.init(params)) }),
    update: (grads, state, params) => {
      expectKnown(grads, params);
      const left = tf.tidy(() => transforms.reduce((g, t, i) => t.update(g, state.parts[i]!, params), grads));
      state.step++;
      return left;
    },
  };
}

/**
 * Applies a transform to some of the parameters and returns the gradients of the others unchanged. Alone, it freezes the
 * others; in a chain of several, each group of parameters has its own config.
 */
export function masked(chosen: (name: string, param: tf.Variable) => boolean, transform: Transform): Transform {
  const select = <T>(of: Readonly<Record<string, T>>, params: Params, wanted: boolean): Record<string, T> =>
    Object.fromEntries(Object.entries(of).filter(([name]) => chosen(name, params[name]!) === wanted));
  return {
    init: (params) => ({ step: 0, slots: {}, parts: [transform.init(select(params, params, true))] }),
    update: (grads, state, params) => {
      expectKnown(grads, params);
      const others = select(grads, params, false);
      const left = transform.update(select(grads, params, true), state.parts[0]!, select(params, params, true));
      state.step++;
      return { ...others, ...left };
    },
  };
}

/** A transform without state: new gradients from the gradients and the parameters. */
export function stateless(change: (grads: Gradients, params: Params) => Gradients): Transform {
  return {
    init: () => ({ step: 0, slots: {}, parts: [] }),
    update: (grads, state, params) => {
      expectKnown(grads, params);
      const changed = tf.tidy(() => change(grads, params));
      state.step++;
      return changed;
    },
  };
}

/** New gradients under the same names. */
export function mapGradients(grads: Gradients, change: (g: tf.Tensor, name: string) => tf.Tensor): Gradients {
  return Object.fromEntries(Object.entries(grads).map(([name, g]) => [name, change(g, name)]));
}

/** Zeros of the shapes of the parameters; not trainable. */
export function zerosLike(params: Params): Params {
  return Object.fromEntries(
    Object.entries(params).map(([name, p]) => [name, tf.tidy(() => tf.variable(tf.zeros(p.shape), false))]),
  );
}

/** @throws Error if a gradient belongs to no parameter */
export function expectKnown(grads: Gradients, params: Params): void {
  const unknown = Object.keys(grads).find((name) => !Object.hasOwn(params, name));
  if (unknown !== undefined) {
    throw new Error(
      `optim: there is a gradient for ${unknown} but no such parameter. Pass the same parameters that the gradients and ` +
        'the state belong to.',
    );
  }
}

/** An optimizer's state as tensors for a checkpoint: running averages and step counts, bit for bit. */
export async function saveOptimizer(state: OptimizerState): Promise<Record<string, StateTensor>> {
  const saved = await stateOf(slotTree(state));
  for (const [name, part] of stepCounts(state)) saved[name] = { shape: [], data: Float32Array.of(part.step) };
  return saved;
}

/**
 * Sets a state from `init` to a saved one, so that training resumes as if it had never stopped.
 *
 * @throws Error listing the names that are missing, unexpected or of another shape
 */
export function restoreOptimizer(state: OptimizerState, saved: Readonly<Record<string, StateTensor>>): void {
  const counts = stepCounts(state);
  const slots = Object.fromEntries(Object.entries(saved).filter(([name]) => !counts.has(name)));
  const lost = [...counts.keys()].find((name) => saved[name]?.data.length !== 1);
  if (lost !== undefined) {
    throw new Error(
      `restoreOptimizer: the step count ${lost} is missing from the saved state. Build the same optimizer as when the ` +
        'state was saved, or start with a fresh one.',
    );
  }
  loadState(slotTree(state), slots, { what: 'restoreOptimizer' });
  for (const [name, part] of counts) part.step = saved[name]!.data[0]!;
}

/** Frees the tensors of a state. */
export function disposeOptimizer(state: OptimizerState): void {
  disposeParams(slotTree(state));
}

/** The slots of a state and its parts as a tree: `1.m.blocks.0.weight`. */
function slotTree(state: OptimizerState): ParamTree {
  return { ...state.slots, ...state.parts.map(slotTree) };
}

/** The state and its parts by the names of their step counts: `step`, `1.step`. */
function stepCounts(state: OptimizerState, prefix = ''): Map<string, OptimizerState> {
  const below = state.parts.flatMap((part, i) => [...stepCounts(part, `${prefix}${i}.`)]);
  return new Map([[`${prefix}step`, state], ...below]);
}
