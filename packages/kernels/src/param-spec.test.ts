import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectNoLeak } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import { FrozenMatrix } from './frozen-matrix';
import { constantSpec, freshParams, layerNormSpec, linearSpec, loadParams, ParamSpec, shapesOf } from './param-spec';
import { disposeParams, namedParams, stateOf } from './params';
import { Random } from '@flamingo-ts/random';

const specs = {
  layers: [
    { norm: layerNormSpec(2), up: linearSpec(16, 4) },
    { up: linearSpec(16, 4, 5), bias: constantSpec([1], 7) },
  ],
  absent: undefined,
  own: new ParamSpec([], (random) => tf.tidy(() => tf.variable(tf.scalar(random.int(9))))),
};

describeBackends('parameter specs', () => {
  it('list shapes by name without creating tensors', () => {
    const before = tf.memory().numTensors;
    expect(Object.entries(shapesOf(specs))).toEqual([
      ['layers.0.norm.weight', [2]],
      ['layers.0.norm.bias', [2]],
      ['layers.0.up.weight', [16, 4]],
      ['layers.1.up.weight', [16, 4]],
      ['layers.1.bias', [1]],
      ['own', []],
    ]);
    expect(tf.memory().numTensors).toBe(before);
  });

  it('create trainable variables of these shapes, each from the stream of its name', async () => {
    await expectNoLeak(async () => {
      const params = freshParams(specs, new Random(3));
      expect([...namedParams(params)].map(([name, p]) => [name, p.shape])).toEqual(Object.entries(shapesOf(specs)));
      const { 'layers.0.up.weight': first, 'layers.1.up.weight': second, ...others } = await stateOf(params);
      const normal = (name: string, std: number) => {
        const stream = new Random(3).fork(name);
        return Float32Array.from({ length: 64 }, () => stream.normal() * std);
      };
      expect([first!.data, second!.data]).toEqual([normal('layers.0.up.weight', 0.5), normal('layers.1.up.weight', 5)]);
      const own = new Random(3).fork('own').int(9);
      expect(Object.values(others).flatMap(({ data }) => [...data])).toEqual([1, 1, 0, 0, 7, own]);
      expect(params.own.trainable).toBe(true);
      disposeParams(params);
    });
  });

  it('create parameters with the values of a state', async () => {
    await expectNoLeak(async () => {
      const from = freshParams(specs, new Random(1));
      const to = loadParams(specs, await stateOf(from), { what: 'test' });
      expect(await stateOf(to)).toEqual(await stateOf(from));
      expect(to.own.trainable).toBe(true);
      disposeParams([from, to]);
    });
  });

  it('can create something other than a variable, or nothing', async () => {
    await expectNoLeak(async () => {
      const from = freshParams(specs, new Random(1));
      const state = await stateOf(from);
      const to = loadParams(specs, state, {
        what: 'test',
        make: (name, { shape, data }) => {
          if (name === 'own') return null;
          return shape.length === 2 ? new FrozenMatrix(data, shape as [number, number]) : undefined;
        },
      });
      const { own: _, ...rest } = state;
      expect(await stateOf(to)).toEqual(rest);
      expect(namedParams(to).get('layers.0.up.weight')).toBeInstanceOf(FrozenMatrix);
      disposeParams([from, to]);
    });
  });

  it('list what does not fit in a state, and then create nothing', async () => {
    const params = freshParams(specs, new Random(1));
    const { own, ...rest } = await stateOf(params);
    const before = tf.memory().numTensors;
    expect(() => loadParams(specs, { ...rest, 'layers.1.bias': own!, stray: own! }, { what: 'tiny' })).toThrow(
      /^tiny: .*missing \(1\): own\. unexpected \(1\): stray\. wrong shape \(1\): layers\.1\.bias: expected \[1\], got \[\]/,
    );
    expect(tf.memory().numTensors).toBe(before);
    disposeParams(params);
  });
});
