import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectNoLeak } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { FrozenMatrix } from './frozen-matrix';
import {
  countParams,
  disposeParams,
  expectParams,
  freezeParams,
  loadState,
  namedParams,
  stateOf,
  variables,
  type ParamTree,
} from './params';
import { constantVariable } from './random';

const make = () => ({
  norm: { weight: constantVariable([2], 1), bias: undefined },
  layers: [{ gate: constantVariable([], 0) }, { gate: constantVariable([], 3) }],
});

describeBackends('parameter trees', () => {
  it('name leaves by their path, frozen ones too, and count them', async () => {
    await expectNoLeak(() => {
      const tree = { ...make(), head: new FrozenMatrix(new Float32Array(6), [3, 2]) };
      expect([...namedParams(tree).keys()]).toEqual(['norm.weight', 'layers.0.gate', 'layers.1.gate', 'head']);
      expect([...namedParams(tree, 'lm').keys()][0]).toBe('lm.norm.weight');
      expect(Object.keys(variables(tree))).toEqual(['norm.weight', 'layers.0.gate', 'layers.1.gate']);
      expect(countParams(tree)).toBe(10);
      disposeParams(tree);
    });
  });

  it('save to a state and load from it', async () => {
    await expectNoLeak(async () => {
      const [from, to] = [make(), make()];
      tf.tidy(() => from.norm.weight.assign(tf.tensor1d([4, 5])));
      const state = await stateOf(from);
      expect(state['norm.weight']).toEqual({ shape: [2], data: Float32Array.of(4, 5) });
      loadState(to, state, { what: 'test' });
      expect([...to.norm.weight.dataSync(), to.layers[1]!.gate.dataSync()[0]]).toEqual([4, 5, 3]);
      disposeParams(from);
      disposeParams(to);
    });
  });

  it('list missing, unexpected and misshapen names together', async () => {
    const tree = make();
    const state = await stateOf(tree);
    delete state['layers.1.gate'];
    const wrong = {
      ...state,
      'norm.weight': { shape: [3], data: new Float32Array(3) },
      stray: state['layers.0.gate']!,
    };
    expect(() => loadState(tree, wrong, { what: 'tiny model' })).toThrow(
      /^tiny model: .*missing \(1\): layers\.1\.gate\. unexpected \(1\): stray\. wrong shape \(1\): norm\.weight: expected \[2\], got \[3\]/,
    );
    expect([...tree.norm.weight.dataSync()]).toEqual([1, 1]);
    const lenient = { what: 'tiny model', allowMissing: /^layers\.1/, ignoreUnexpected: /^stray$/ };
    loadState(tree, { ...state, stray: state['layers.0.gate']! }, lenient);
    disposeParams(tree);
  });

  it('must fit the shapes of a config, neither too few nor too many', () => {
    const tree = make();
    const shapes = { 'norm.weight': [2], 'layers.0.gate': [], 'layers.1.gate': [] };
    expect(() => expectParams('Tower', tree, shapes)).not.toThrow();
    expect(() => expectParams('Tower', { ...tree, layers: tree.layers.slice(1) }, shapes)).toThrow(
      'Tower: the parameters do not fit the config. missing (1): layers.1.gate. Make or load them with the same config.',
    );
    expect(() => expectParams('Tower', { ...tree, layers: [...tree.layers, ...tree.layers] }, shapes)).toThrow(
      'unexpected (2): layers.2.gate; layers.3.gate',
    );
    expect(() => expectParams('Tower', tree, { ...shapes, 'norm.weight': [3] })).toThrow('expected [3], got [2]');
    expect(() => expectParams('Tower', 7 as never, shapes)).toThrow('missing (3): norm.weight');
    disposeParams(tree);
  });

  it('freeze chosen variables and free them; the old tree throws', async () => {
    await expectNoLeak(async () => {
      const w = tf.tidy(() => tf.variable(tf.tensor2d([[1, 2]])));
      const tree = { ...make(), up: { weight: w } };
      const [norm, layer] = [tree.norm.weight, tree.layers[1]!];
      const frozen: ParamTree = await freezeParams<ParamTree>(tree, (_, { rank }) => rank === 2, 'float32');
      expect(w.isDisposed).toBe(true);
      const params = namedParams(frozen);
      expect([...params.keys()]).toEqual(['norm.weight', 'layers.0.gate', 'layers.1.gate', 'up.weight']);
      expect(params.get('norm.weight')).toBe(norm);
      expect([params.get('up.weight')!.shape, ...(await params.get('up.weight')!.data())]).toEqual([[1, 2], 1, 2]);
      expect(Object.keys(variables(frozen))).not.toContain('up.weight');
      expect(() => tree.norm).toThrow('Parameter norm: used after freezing. Use the parameters of the frozen model.');
      expect(() => layer.gate).toThrow('Parameter layers.1.gate: used after freezing.');
      expect(() => disposeParams(tree)).toThrow('used after freezing');
      disposeParams(frozen);
    });
  });

  it('cannot be loaded into a packed matrix', async () => {
    const tree = { head: new FrozenMatrix(new Float32Array(2), [1, 2]) };
    const state = await stateOf(tree);
    expect(() => loadState(tree, state, { what: 'test' })).toThrow(/head is frozen. Load the state before/);
    disposeParams(tree);
  });
});
