import type { Random } from '@flamingo-ts/random';
import * as tf from '@tensorflow/tfjs-core';
import { FrozenMatrix, type FrozenPrecision } from './frozen-matrix';
import { expectState, mapTree, type LoadOptions, type Parameter, type StateTensor, type Tree } from './params';
import { constantVariable, expectRandom, normalVariable } from './random';

type Shape = readonly number[];
type RankOf<S extends Shape> = (typeof tf.Rank)[`R${S['length']}` & keyof typeof tf.Rank];

/** Describes a parameter: its shape and its initial values. */
export class ParamSpec<S extends Shape = Shape> {
  constructor(
    readonly shape: S,
    readonly fresh: (random: Random) => tf.Variable,
  ) {}
}

/** Describes all parameters of a module: the source of their shapes, initial values and loading. */
export type SpecTree = Tree<ParamSpec>;

/** The parameters that specs describe. */
export type ParamsOf<T> =
  T extends ParamSpec<infer S> ? tf.Variable<RankOf<S>> : { readonly [K in keyof T]: ParamsOf<T[K]> };

/** Initialized to a constant. */
export function constantSpec<const S extends Shape>(shape: S, value: number): ParamSpec<S> {
  return new ParamSpec(shape, () => constantVariable(shape, value));
}

/** Initialized from a normal distribution with this standard deviation. */
export function normalSpec<const S extends Shape>(shape: S, std: number): ParamSpec<S> {
  return new ParamSpec(shape, (random) => normalVariable(random, shape, std));
}

/** For `layerNorm`; initialized to the identity. */
export function layerNormSpec(size: number) {
  return { weight: constantSpec([size], 1), bias: constantSpec([size], 0) };
}

/** For `linear` without bias; by default outputs have the variance of inputs at the start. */
export function linearSpec(out: number, into: number, std: number = into ** -0.5) {
  return { weight: normalSpec([out, into], std) };
}

const isSpec = (node: unknown): node is ParamSpec => node instanceof ParamSpec;

/** The shape of each parameter by dotted name, without creating parameters. */
export function shapesOf(specs: SpecTree): Record<string, readonly number[]> {
  const shapes: Record<string, readonly number[]> = {};
  mapTree(specs, isSpec, ({ shape }, name) => (shapes[name] = shape));
  return shapes;
}

/** Which new parameters are frozen at once, and how. */
export interface Packing {
  readonly chosen: (name: string, shape: Shape) => boolean;
  readonly precision: FrozenPrecision;
}

/**
 * Creates parameters with initial values. Each draws from its own stream, forked by its dotted name.
 *
 * @param packing parameters to freeze at once, so that a large model never exists in float32 as a whole
 */
export function freshParams<T extends SpecTree>(specs: T, random: Random, packing?: Packing): ParamsOf<T> {
  expectRandom('freshParams', random);
  return makeParams(specs, (spec, name) => {
    const variable = spec.fresh(random.fork(name));
    if (!packing?.chosen(name, spec.shape)) return variable;
    const values = variable.dataSync() as Float32Array;
    variable.dispose();
    return new FrozenMatrix(values, spec.shape as [number, number], packing.precision);
  });
}

/** How `loadParams` creates parameters. */
export interface LoadParamsOptions extends Omit<LoadOptions, 'allowMissing'> {
  /**
   * Creates the parameter of this name, such as a frozen matrix. Returns undefined for a variable and null for no
   * parameter. Values are read one tensor at a time, so `data` may be a getter.
   */
  readonly make?: (name: string, values: StateTensor) => Parameter | null | undefined;
}

/**
 * Creates parameters with the values of a state that has the same dotted names.
 *
 * @throws Error listing, together, the names that are missing, unexpected and of another shape, before creating any
 */
export function loadParams<T extends SpecTree>(
  specs: T,
  state: Readonly<Record<string, StateTensor>>,
  { make, ...options }: LoadParamsOptions,
): ParamsOf<T> {
  expectState(shapesOf(specs), state, options);
  return makeParams(specs, (_, name) => {
    const values = state[name]!;
    const made = make?.(name, values);
    return made === undefined ? variableOf(values.data, values.shape) : (made ?? undefined);
  });
}

/** Arranges parameters given by dotted name as the tree that `specs` describe. */
export function paramsFrom<T extends SpecTree>(specs: T, params: ReadonlyMap<string, Parameter>): ParamsOf<T> {
  return makeParams(specs, (_, name) => params.get(name));
}

/** A variable with these values. */
export function variableOf(values: Float32Array, shape: readonly number[]): tf.Variable {
  return tf.tidy(() => tf.variable(tf.tensor(values, [...shape])));
}

function makeParams<T extends SpecTree>(
  specs: T,
  make: (spec: ParamSpec, name: string) => Parameter | undefined,
): ParamsOf<T> {
  return mapTree(specs, isSpec, make) as unknown as ParamsOf<T>;
}
