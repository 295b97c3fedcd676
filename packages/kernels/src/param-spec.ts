import type { Random } from '@flamingo-ts/random';
import * as tf from '@tensorflow/tfjs-core';
import { FrozenMatrix, type FrozenPrecision } from './frozen-matrix';
import { expectState, mapTree, type LoadOptions, type Parameter, type StateTensor, type Tree } from './params';
import { constantVariable, expectRandom, normalVariable } from './random';

type Shape = readonly number[];
type RankOf<S extends Shape> = (typeof tf.Rank)[`R${S['length']}` & keyof typeof tf.Rank];

/** A parameter before it exists: its shape, and what makes a fresh one. */
export class ParamSpec<S extends Shape = Shape> {
  constructor(
    readonly shape: S,
    readonly fresh: (random: Random) => tf.Variable,
  ) {}
}

/** The one description of a module's parameters: shapes, fresh values and loaded ones all come from it. */
export type SpecTree = Tree<ParamSpec>;

/** The parameters that specs describe. */
export type ParamsOf<T> =
  T extends ParamSpec<infer S> ? tf.Variable<RankOf<S>> : { readonly [K in keyof T]: ParamsOf<T[K]> };

/** Starts with one value everywhere. */
export function constantSpec<const S extends Shape>(shape: S, value: number): ParamSpec<S> {
  return new ParamSpec(shape, () => constantVariable(shape, value));
}

/** Starts normal with this standard deviation. */
export function normalSpec<const S extends Shape>(shape: S, std: number): ParamSpec<S> {
  return new ParamSpec(shape, (random) => normalVariable(random, shape, std));
}

/** For `layerNorm`; starts as the identity. */
export function layerNormSpec(size: number) {
  return { weight: constantSpec([size], 1), bias: constantSpec([size], 0) };
}

/** For `linear` without bias; by default outputs start as large as inputs. */
export function linearSpec(out: number, into: number, std: number = into ** -0.5) {
  return { weight: normalSpec([out, into], std) };
}

const isSpec = (node: unknown): node is ParamSpec => node instanceof ParamSpec;

/** Shape of every parameter by dotted name, without making any. */
export function shapesOf(specs: SpecTree): Record<string, readonly number[]> {
  const shapes: Record<string, readonly number[]> = {};
  mapTree(specs, isSpec, ({ shape }, name) => (shapes[name] = shape));
  return shapes;
}

/** Which fresh parameters are packed as soon as they are there, and how. */
export interface Packing {
  readonly chosen: (name: string, shape: Shape) => boolean;
  readonly precision: FrozenPrecision;
}

/**
 * Fresh parameters. Each draws from a stream of its own, forked by its dotted name.
 *
 * @param packing what becomes a frozen matrix at once, so that a large model is never there as a whole in float32
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

/** How `loadParams` makes parameters. */
export interface MakeOptions extends Omit<LoadOptions, 'allowMissing'> {
  /**
   * Makes something else than a variable of the values of this name, a frozen matrix for example: null is nothing at all,
   * undefined the variable. One tensor's values are read at a time, so they need not be there before.
   */
  readonly make?: (name: string, values: StateTensor) => Parameter | null | undefined;
}

/**
 * Parameters with the values of a state that has the same dotted names.
 *
 * @throws Error listing, together, the names missing, unexpected and of another shape; nothing is made then
 */
export function loadParams<T extends SpecTree>(
  specs: T,
  state: Readonly<Record<string, StateTensor>>,
  { make, ...options }: MakeOptions,
): ParamsOf<T> {
  expectState(shapesOf(specs), state, options);
  return makeParams(specs, (_, name) => {
    const values = state[name]!;
    const made = make?.(name, values);
    return made === undefined ? variableOf(values.data, values.shape) : (made ?? undefined);
  });
}

/** Parameters that were made one by one, by dotted name, as the tree that specs describe. */
export function paramsFrom<T extends SpecTree>(specs: T, params: ReadonlyMap<string, Parameter>): ParamsOf<T> {
  return makeParams(specs, (_, name) => params.get(name));
}

/** A variable of these values. */
export function variableOf(values: Float32Array, shape: readonly number[]): tf.Variable {
  return tf.tidy(() => tf.variable(tf.tensor(values, [...shape])));
}

function makeParams<T extends SpecTree>(
  specs: T,
  make: (spec: ParamSpec, name: string) => Parameter | undefined,
): ParamsOf<T> {
  return mapTree(specs, isSpec, make) as unknown as ParamsOf<T>;
}
