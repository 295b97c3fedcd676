import * as tf from '@tensorflow/tfjs-core';
import { FrozenFilter } from './frozen-filter';
import { FrozenMatrix, type FrozenPrecision } from './frozen-matrix';
import { FrozenTable } from './frozen-table';
import { retireTree } from './retire';

type Frozen = FrozenMatrix | FrozenFilter | FrozenTable;

/** One parameter: a variable, or a frozen weight. */
export type Parameter = tf.Variable | Frozen;

/** Plain objects and arrays around leaves; keys and positions joined by dots are the names of the leaves. */
export type Tree<Leaf> = Leaf | undefined | readonly Tree<Leaf>[] | { readonly [key: string]: Tree<Leaf> };

/** A module's parameters. */
export type ParamTree = Tree<Parameter>;

/** Maps the leaves of a tree; `replace` gets each leaf with its dotted name, prefixed by `name` if given. */
export function mapTree<A, B>(
  tree: Tree<A>,
  isLeaf: (node: unknown) => node is A,
  replace: (leaf: A, name: string) => B,
  name = '',
): Tree<B> {
  if (tree === undefined) return undefined;
  if (isLeaf(tree)) return replace(tree, name);
  const child = (node: Tree<A>, key: string | number): Tree<B> =>
    mapTree(node, isLeaf, replace, name ? `${name}.${key}` : `${key}`);
  if (Array.isArray(tree)) return tree.map(child);
  return Object.fromEntries(Object.entries(tree).map(([key, node]) => [key, child(node, key)]));
}

const isFrozen = (node: unknown): node is Frozen =>
  node instanceof FrozenMatrix || node instanceof FrozenFilter || node instanceof FrozenTable;

const isParameter = (node: unknown): node is Parameter => node instanceof tf.Tensor || isFrozen(node);

/** All parameters by dotted name, in tree order: `layers.0.attn.norm.weight`. */
export function namedParams(tree: ParamTree, prefix = ''): Map<string, Parameter> {
  const params = new Map<string, Parameter>();
  mapTree(tree, isParameter, (p, name) => params.set(name, p), prefix);
  return params;
}

/** The variables of a tree by dotted name, which an optimizer can train. */
export function variables(tree: ParamTree, prefix = ''): Record<string, tf.Variable> {
  const trainable: Record<string, tf.Variable> = {};
  for (const [name, p] of namedParams(tree, prefix)) if (p instanceof tf.Tensor) trainable[name] = p as tf.Variable;
  return trainable;
}

/** Number of scalars in a tree. */
export function countParams(tree: ParamTree): number {
  let n = 0;
  for (const p of namedParams(tree).values()) n += p.shape.reduce((a: number, b: number) => a * b, 1);
  return n;
}

/** The values of one tensor, as files store them. */
export interface StateTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/** Values of all parameters by dotted name. */
export async function stateOf(tree: ParamTree, prefix = ''): Promise<Record<string, StateTensor>> {
  const state: Record<string, StateTensor> = {};
  for (const [name, p] of namedParams(tree, prefix)) {
    state[name] = { shape: [...p.shape], data: (await p.data()) as Float32Array };
  }
  return state;
}

/** What `loadState` accepts. */
export interface LoadOptions {
  /** Named in errors: the model or file. */
  readonly what: string;
  /** Names in the file that may be ignored although no parameter has them. */
  readonly ignoreUnexpected?: RegExp;
  /** Parameters that may be missing from the file; they keep their values. */
  readonly allowMissing?: RegExp;
}

/**
 * Checks that a state fits parameters of these shapes.
 *
 * @throws Error listing, together, the names that are missing, unexpected and of another shape
 */
export function expectState(
  shapes: Readonly<Record<string, readonly number[]>>,
  state: Readonly<Record<string, StateTensor>>,
  { what, ignoreUnexpected, allowMissing }: LoadOptions,
): void {
  const differences = compareShapes(shapes, state, allowMissing, ignoreUnexpected);
  if (differences) {
    throw new Error(
      `${what}: the state does not fit the model. ${differences}. ` +
        'Check that the configuration belongs to this checkpoint, or map the names first.',
    );
  }
}

/**
 * Checks that a module got the parameters that its config describes; call it in the constructor.
 *
 * @param shapes what `shapesOf` returns for the config
 * @throws Error listing, together, the names that are missing, unexpected and of another shape
 */
export function expectParams(
  what: string,
  params: ParamTree,
  shapes: Readonly<Record<string, readonly number[]>>,
): void {
  const differences = compareShapes(shapes, Object.fromEntries(namedParams(params)));
  if (differences) {
    throw new Error(
      `${what}: the parameters do not fit the config. ${differences}. Make or load them with the same config.`,
    );
  }
}

function compareShapes(
  shapes: Readonly<Record<string, readonly number[]>>,
  given: Readonly<Record<string, { readonly shape: readonly number[] }>>,
  allowMissing?: RegExp,
  ignoreUnexpected?: RegExp,
): string {
  const missing: string[] = [];
  const misshapen: string[] = [];
  for (const [name, want] of Object.entries(shapes)) {
    const got = given[name]?.shape;
    if (!got) {
      if (!allowMissing?.test(name)) missing.push(name);
    } else if (got.length !== want.length || got.some((n, i) => n !== want[i])) {
      misshapen.push(`${name}: expected [${want.join(', ')}], got [${got.join(', ')}]`);
    }
  }
  const unexpected = Object.keys(given).filter((n) => !Object.hasOwn(shapes, n) && !ignoreUnexpected?.test(n));
  const list = (title: string, names: string[]) =>
    names.length
      ? [`${title} (${names.length}): ${names.slice(0, 8).join('; ')}${names.length > 8 ? '; ...' : ''}`]
      : [];
  return [...list('missing', missing), ...list('unexpected', unexpected), ...list('wrong shape', misshapen)].join('. ');
}

/**
 * Sets every variable of a tree from a state with the same dotted names.
 *
 * @throws Error listing, together, the names missing, unexpected and of another shape
 */
export function loadState(tree: ParamTree, state: Readonly<Record<string, StateTensor>>, options: LoadOptions): void {
  const params = namedParams(tree);
  expectState(Object.fromEntries([...params].map(([name, p]) => [name, p.shape])), state, options);
  for (const [name, p] of params) {
    const s = state[name];
    if (!s) continue;
    if (isFrozen(p)) {
      throw new Error(`${options.what}: ${name} is frozen. Load the state before freezing the model.`);
    }
    tf.tidy(() => p.assign(tf.tensor(s.data, [...s.shape])));
  }
}

/**
 * Packs the chosen variables of a tree as frozen matrices and frees them. Returns a new tree with all other parameters as
 * they were; any use of the old tree throws an error that names the parameter.
 */
export async function freezeParams<T extends ParamTree>(
  tree: T,
  chosen: (name: string, param: tf.Variable) => boolean,
  precision: FrozenPrecision,
): Promise<T> {
  const frozen = new Map<Parameter, FrozenMatrix>();
  for (const [name, p] of namedParams(tree)) {
    if (isFrozen(p) || !chosen(name, p)) continue;
    frozen.set(p, new FrozenMatrix((await p.data()) as Float32Array, p.shape as [number, number], precision));
    p.dispose();
  }
  const result = mapTree(tree, isParameter, (p) => frozen.get(p) ?? p) as T;
  retireParams(tree);
  return result;
}

/** Makes any use of a tree throw an error that names the parameter, for models whose parameters moved to another tree. */
export function retireParams(tree: ParamTree): void {
  retireTree(tree, isParameter);
}

/** Frees all parameters of a tree. */
export function disposeParams(tree: ParamTree): void {
  for (const p of namedParams(tree).values()) p.dispose();
}
