import * as tf from '@tensorflow/tfjs-core';
import { Random, valueAndGrads } from '@flamingo-ts/kernels';
import { describeBackends, expectClose, expectNoLeak } from '@flamingo-ts/testing';
import { expect, it } from 'vitest';
import {
  adamW,
  adaptiveGradientClip,
  addDecayedWeights,
  chain,
  clipByGlobalNorm,
  disposeOptimizer,
  masked,
  restoreOptimizer,
  saveOptimizer,
  sgd,
  type Params,
  type Transform,
} from './index';
import { adamWNumber, clipUnit } from './optim.reference';

/** Numbers drawn by seed. */
function draw(seed: number, size: number, scale = 1): number[] {
  const random = new Random(seed);
  return Array.from({ length: size }, () => Math.fround(random.normal() * scale));
}

const makeParams = () => ({
  weight: tf.variable(tf.tensor2d(draw(1, 12), [3, 4])),
  bias: tf.variable(tf.tensor1d(draw(2, 3))),
});

/** Gradients of a step, the same on every call. */
const makeGrads = (step: number) => ({
  weight: tf.tensor2d(draw(100 + step, 12), [3, 4]),
  bias: tf.tensor1d(draw(200 + step, 3)),
});

const values = (params: Params) => Object.values(params).map((p) => [...p.dataSync()]);

function runSteps(optimizer: Transform, params: Params, from: number, to: number, state = optimizer.init(params)) {
  for (let step = from; step < to; step++) expect(optimizer.update(makeGrads(step), state, params)).toEqual({});
  return state;
}

describeBackends('optim', () => {
  it('AdamW follows its definition in float64', () => {
    const rates = [0, 0.01, 0.02, 0.005];
    const o = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.3 };
    const params = makeParams();
    const weight = draw(1, 12).map((p) => ({ p, m: 0, v: 0 }));
    const bias = draw(2, 3).map((p) => ({ p, m: 0, v: 0 }));
    runSteps(adamW({ ...o, learningRate: (step) => rates[step]! }), params, 0, 4);
    rates.forEach((learningRate, step) => {
      draw(100 + step, 12).forEach((g, i) => adamWNumber(weight[i]!, g, step + 1, { ...o, learningRate }));
      draw(200 + step, 3).forEach((g, i) => adamWNumber(bias[i]!, g, step + 1, { ...o, learningRate, weightDecay: 0 }));
    });
    expectClose(
      params.weight,
      weight.map(({ p }) => p),
      { rtol: 1e-6 },
    );
    expectClose(
      params.bias,
      bias.map(({ p }) => p),
      { rtol: 1e-6 },
    );
  });

  it('AdamW decays the parameters its mask selects', () => {
    const params = makeParams();
    const zero = { weight: tf.zeros([3, 4]), bias: tf.zeros([3]) };
    const optimizer = adamW({ learningRate: 0.1, weightDecay: 0.5, decayMask: (name) => name === 'bias' });
    optimizer.update(zero, optimizer.init(params), params);
    expectClose(params.weight, draw(1, 12), { atol: 0 });
    expectClose(
      params.bias,
      draw(2, 3).map((p) => p * 0.95),
      { rtol: 1e-6 },
    );
  });

  it('SGD: plain, with momentum and by Nesterov', () => {
    // With the constant gradient 1 the velocities of momentum 0.5 are 1, 1.5, 1.75.
    const cases: [Transform, number][] = [
      [sgd({ learningRate: 0.1 }), 3],
      [sgd({ learningRate: 0.1, momentum: 0.5 }), 1 + 1.5 + 1.75],
      [sgd({ learningRate: 0.1, momentum: 0.5, nesterov: true }), 1.5 + 1.75 + 1.875],
    ];
    for (const [optimizer, distance] of cases) {
      const params = { x: tf.variable(tf.tensor1d([1, 2])) };
      const state = optimizer.init(params);
      for (let i = 0; i < 3; i++) optimizer.update({ x: tf.ones([2]) }, state, params);
      expectClose(params.x, [1 - 0.1 * distance, 2 - 0.1 * distance], { rtol: 1e-6 });
    }
  });

  it('L2 decay is added to the gradients of matrices', () => {
    const params = { w: tf.variable(tf.tensor2d([[2, -4]])), b: tf.variable(tf.tensor1d([2])) };
    const decay = addDecayedWeights(0.5);
    const grads = decay.update({ w: tf.ones([1, 2]), b: tf.ones([1]) }, decay.init(params), params);
    expectClose(grads['w']!, [2, -1], { atol: 1e-6 });
    expectClose(grads['b']!, [1], { atol: 0 });
  });

  it('clipping by global norm scales to the limit, and keeps small gradients bit for bit', () => {
    const params = { a: tf.variable(tf.zeros([2])), b: tf.variable(tf.zeros([])) };
    const norms: number[] = [];
    const clip = clipByGlobalNorm(1, (norm) => norms.push(norm));
    const clipped = clip.update({ a: tf.tensor1d([3, 0]), b: tf.scalar(-4) }, clip.init(params), params);
    expectClose(clipped['a']!, [3 / (5 + 1e-6), 0], { rtol: 1e-6 });
    expectClose(clipped['b']!, [-4 / (5 + 1e-6)], { rtol: 1e-6 });
    const small = [0.1234567, -0.3];
    const kept = clip.update({ a: tf.tensor1d(small), b: tf.scalar(0.7) }, clip.init(params), params);
    expect([...kept['a']!.dataSync()]).toEqual(small.map(Math.fround));
    expectClose(norms, [5, Math.hypot(...small, 0.7)], { rtol: 1e-6 });
  });

  it('adaptive clipping follows its definition per unit', () => {
    const shapes = { kernel: [2, 1, 1, 3], gain: [3, 1, 1, 1], bias: [3], scalar: [], tiny: [1, 3], head: [2, 2] };
    const size = (shape: number[]) => shape.reduce((a, b) => a * b, 1);
    const entries = Object.entries(shapes).map(([name, shape], i) => {
      const p = draw(i, size(shape), name === 'tiny' ? 1e-6 : 1);
      return { name, shape, p, g: draw(50 + i, size(shape), i % 2 ? 1 : 0.01) };
    });
    const params = Object.fromEntries(entries.map(({ name, shape, p }) => [name, tf.variable(tf.tensor(p, shape))]));
    const grads = Object.fromEntries(entries.map(({ name, shape, g }) => [name, tf.tensor(g, shape)]));
    const cut = (x: number[], parts: number) =>
      Array.from({ length: parts }, (_, i) => x.slice((i * x.length) / parts, ((i + 1) * x.length) / parts));
    const check = (transform: Transform, units: Record<string, number>) => {
      const clipped = transform.update(grads, transform.init(params), params);
      for (const { name, p, g } of entries) {
        const ps = cut(p, units[name]!);
        const wanted = cut(g, units[name]!).flatMap((unit, i) => clipUnit(ps[i]!, unit, 0.05, 1e-3));
        expectClose(clipped[name]!, name === 'head' ? g : wanted, { rtol: 2e-6 });
      }
    };
    const mask = (name: string) => name !== 'head';
    const units = { kernel: 2, gain: 1, bias: 1, scalar: 1, tiny: 1, head: 2 };
    check(adaptiveGradientClip({ factor: 0.05, mask }), units);
    const perNumber = adaptiveGradientClip({
      factor: 0.05,
      mask,
      unit: (name) => (name === 'gain' ? 'element' : name === 'kernel' ? 'output' : 'tensor'),
    });
    check(perNumber, { ...units, gain: 3 });
  });

  it('a chain runs its stages in order', () => {
    const params = { x: tf.variable(tf.tensor1d([1])) };
    const optimizer = chain(
      clipByGlobalNorm(1),
      addDecayedWeights(1, () => true),
      sgd({ learningRate: 0.5 }),
    );
    optimizer.update({ x: tf.tensor1d([100]) }, optimizer.init(params), params);
    expectClose(params.x, [1 - 0.5 * (1 + 1)], { atol: 1e-6 });
  });

  it('masked stages train their own parameters and freeze the rest', () => {
    const params = { a: tf.variable(tf.scalar(1)), b: tf.variable(tf.scalar(1)), c: tf.variable(tf.scalar(1)) };
    const only = (wanted: string, learningRate: number) => masked((name) => name === wanted, sgd({ learningRate }));
    const optimizer = chain(only('a', 0.1), only('b', 0.01));
    const grads = { a: tf.scalar(1), b: tf.scalar(1), c: tf.scalar(1) };
    const left = optimizer.update(grads, optimizer.init(params), params);
    expect(Object.keys(left)).toEqual(['c']);
    expectClose(params.a, [0.9], { atol: 1e-6 });
    expectClose(params.b, [0.99], { atol: 1e-6 });
    expectClose(params.c, [1], { atol: 0 });
  });

  it('a parameter without a gradient does not change, not even by decay', () => {
    const params = makeParams();
    const optimizer = chain(clipByGlobalNorm(1), adamW({ learningRate: 0.1, weightDecay: 0.5 }));
    optimizer.update({ bias: tf.ones([3]) }, optimizer.init(params), params);
    expectClose(params.weight, draw(1, 12), { atol: 0 });
  });

  it('a gradient of an unknown parameter is an error', () => {
    const params = makeParams();
    for (const t of [
      chain(),
      adamW({ learningRate: 1 }),
      sgd({ learningRate: 1 }),
      clipByGlobalNorm(1),
      masked(() => true, chain()),
    ]) {
      expect(() => t.update({ other: tf.ones([1]) }, t.init(params), params)).toThrow(/gradient for other but no such/);
    }
  });

  it('resumes bit for bit after a restart', async () => {
    const build = () =>
      chain(
        adaptiveGradientClip(),
        masked((name) => name === 'bias', sgd({ learningRate: 0.1, momentum: 0.9, nesterov: true })),
        adamW({ learningRate: (step) => 0.1 / (step + 1), weightDecay: 0.1 }),
      );
    const whole = makeParams();
    runSteps(build(), whole, 0, 7);

    const before = makeParams();
    const saved = await saveOptimizer(runSteps(build(), before, 0, 3));
    const after = Object.fromEntries(Object.entries(before).map(([name, p]) => [name, tf.variable(p.clone())]));
    const optimizer = build();
    const state = optimizer.init(after);
    restoreOptimizer(state, structuredClone(saved));
    expect(state.step).toBe(3);
    runSteps(optimizer, after, 3, 7, state);
    expect(values(after)).toEqual(values(whole));
  });

  it.each([NaN, Infinity])('rejects a step whose gradients hold %s, and changes nothing', async (bad) => {
    for (const optimizer of [
      adamW({ learningRate: 0.1, clipNorm: 1 }),
      adamW({ learningRate: 0.1, onNorm: () => undefined }),
      chain(clipByGlobalNorm(1), sgd({ learningRate: 0.1 })),
    ]) {
      const params = makeParams();
      const state = optimizer.init(params);
      optimizer.update(makeGrads(0), state, params);
      const [before, saved] = [values(params), await saveOptimizer(state)];
      const grads = { ...makeGrads(1), bias: tf.tensor1d([1, bad, 1]) };
      await expectNoLeak(() => {
        expect(() => optimizer.update(grads, state, params)).toThrow(
          `optim: the norm of the gradients must be finite, got ${bad}: the gradient of bias holds NaN or infinity.`,
        );
      });
      expect(values(params)).toEqual(before);
      expect(await saveOptimizer(state)).toEqual(saved);
    }
  });

  it('lets onNorm reject a step before anything changes', async () => {
    const refuse = (norm: number) => {
      throw new Error(`too large: ${norm}`);
    };
    for (const optimizer of [
      adamW({ learningRate: 0.1, onNorm: refuse }),
      adamW({ learningRate: 0.1, clipNorm: 1, onNorm: refuse }),
      chain(clipByGlobalNorm(1, refuse), sgd({ learningRate: 0.1, momentum: 0.9 })),
    ]) {
      const params = makeParams();
      const state = optimizer.init(params);
      const [before, saved] = [values(params), await saveOptimizer(state)];
      for (const grads of [makeGrads(1), { ...makeGrads(1), bias: tf.tensor1d([NaN, 1, 1]) }]) {
        await expectNoLeak(() => {
          expect(() => optimizer.update(grads, state, params)).toThrow(/too large: (NaN|\d)/);
        });
      }
      expect(values(params)).toEqual(before);
      expect(await saveOptimizer(state)).toEqual(saved);
    }
  });

  it('rejects the state of another optimizer', async () => {
    const params = makeParams();
    const saved = await saveOptimizer(adamW({ learningRate: 1 }).init(params));
    expect(Object.keys(saved)).toEqual(['m.weight', 'm.bias', 'v.weight', 'v.bias', 'step']);
    const momentum = sgd({ learningRate: 1, momentum: 0.9 }).init(params);
    expect(() => restoreOptimizer(momentum, saved)).toThrow(
      /missing \(2\): velocity.weight.*unexpected \(4\): m.weight/,
    );
    const rest = Object.fromEntries(Object.entries(saved).filter(([name]) => name !== 'step'));
    expect(() => restoreOptimizer(adamW({ learningRate: 1 }).init(params), rest)).toThrow(/step count step is missing/);
  });

  it('leaves no tensors behind', async () => {
    const params = makeParams();
    const optimizer = chain(
      clipByGlobalNorm(1),
      adaptiveGradientClip(),
      addDecayedWeights(0.1),
      masked((name) => name === 'bias', sgd({ learningRate: 0.1, momentum: 0.9 })),
      adamW({ learningRate: 0.1 }),
    );
    const state = optimizer.init(params);
    await expectNoLeak(() => {
      const grads = makeGrads(0);
      optimizer.update(grads, state, params);
      return grads;
    });
    await expectNoLeak(() => disposeOptimizer(optimizer.init(params)));
  });

  it('gradients have the names of the parameters', async () => {
    const params = { a: tf.variable(tf.scalar(3)), b: tf.variable(tf.scalar(5)), unused: tf.variable(tf.scalar(1)) };
    await expectNoLeak(() => {
      const { value, grads } = valueAndGrads(() => tf.mul(tf.square(params.a), params.b) as tf.Scalar, params);
      expectClose(value, 45, { atol: 1e-5 });
      expect(Object.keys(grads)).toEqual(['a', 'b']);
      expectClose(grads['a']!, 30, { atol: 1e-5 });
      expectClose(grads['b']!, 9, { atol: 1e-5 });
      return { value, ...grads };
    });
  });
});
