import * as tf from '@tensorflow/tfjs-core';
import { describeBackends, expectClose, expectNoLeak } from '@flamingo-ts/testing';
import { afterEach, expect, it } from 'vitest';
import { fusedOp, fusedOpNames } from './fused-op';

/** What the operations below did, in order. */
let log: string[] = [];
afterEach(() => (log = []));

/** y = a * b + c; only the gradient of b needs the second output. */
const multiplyAdd = fusedOp<{ readonly factor: number }>({
  name: 'TestMultiplyAdd',
  forward: ({ a, b, c }, { factor, taped }) => {
    log.push(`forward${taped ? ' taped' : ''}`);
    const product = tf.mul(tf.mul(a!, b!), factor);
    return [c ? tf.add(product, c) : product, tf.mul(a!, factor)];
  },
  saveInputs: ['b', 'c'],
  saveOutputs: [false, true],
  gradient: ([dy], { b, c, out1 }, { factor }) => {
    log.push(`gradient${c ? ' with c' : ''}`);
    return {
      a: () => (log.push('da'), tf.mul(dy!, tf.mul(b!, factor))),
      b: () => (log.push('db'), tf.mul(dy!, out1!)),
      c: () => (log.push('dc'), tf.clone(dy!)),
    };
  },
});

const both = fusedOp<object>({ name: 'TestBoth', forward: ({ x }) => [tf.add(x!, 1), tf.sub(x!, 1)] });

describeBackends('fusedOp', (backend) => {
  it('runs the composed forward and keeps only the result', async () => {
    const [a, b] = [tf.tensor1d([1, 2]), tf.tensor1d([3, 4])];
    await expectNoLeak(() => {
      const before = tf.memory().numTensors;
      const y = multiplyAdd({ a, b }, { factor: 2 });
      expect(tf.memory().numTensors - before).toBe(1);
      expectClose(y[0]!, [6, 16], { atol: 0 });
      return y;
    });
    expect(log).toEqual(['forward', 'forward']);
    tf.dispose([a, b]);
  });

  it('computes only the requested gradients', async () => {
    const inputs = [tf.tensor1d([1, 2]), tf.tensor1d([3, 4]), tf.tensor1d([5, 6])];
    await expectNoLeak(() => {
      const [da, dc] = tf.grads((a, c) => multiplyAdd({ a, b: inputs[1], c }, { factor: 2 })[0]!)([
        inputs[0]!,
        inputs[2]!,
      ]);
      expectClose(da!, [6, 8], { atol: 0 });
      expectClose(dc!, [1, 1], { atol: 0 });
      return [da!, dc!];
    });
    expect(log.slice(0, 4)).toEqual(['forward taped', 'gradient with c', 'da', 'dc']);
    tf.dispose(inputs);
  });

  it('saves outputs for the gradient, where an absent input stays absent', () => {
    tf.tidy(() => {
      const b = tf.tensor1d([3, 4]);
      expectClose(tf.grad((b) => multiplyAdd({ a: tf.tensor1d([1, 2]), b }, { factor: 2 })[0]!)(b), [2, 4], {
        atol: 0,
      });
    });
    expect(log).toEqual(['forward taped', 'gradient', 'db']);
  });

  it('adds gradients of several uses', () => {
    tf.tidy(() => {
      const f = (x: tf.Tensor) =>
        multiplyAdd({ a: x, b: multiplyAdd({ a: x, b: x }, { factor: 1 })[0]! }, { factor: 1 })[0]!;
      expectClose(tf.grad(f)(tf.scalar(2)), 12, { atol: 1e-5 }); // d x^3
    });
  });

  it('returns every output of an operation without a gradient', () => {
    tf.tidy(() => {
      const [more, less] = both({ x: tf.scalar(5) }, {});
      expectClose(more!, 6, { atol: 0 });
      expectClose(less!, 4, { atol: 0 });
    });
    expect(fusedOpNames()).toEqual(expect.arrayContaining(['TestMultiplyAdd', 'TestBoth']));
  });

  it("runs the backend's own kernel if it has one", () => {
    const own = fusedOp<{ readonly by: number }>({
      name: `TestOwnKernel-${backend}`,
      forward: () => [tf.scalar(-1)],
      gradient: ([dy]) => ({ x: () => tf.clone(dy!) }),
    });
    const seen: unknown[] = [];
    tf.registerKernel({
      kernelName: `TestOwnKernel-${backend}`,
      backendName: tf.getBackend(),
      kernelFunc: ({ inputs, attrs }) => {
        seen.push(attrs);
        return tf.add(inputs['x'] as tf.Tensor, 10);
      },
    });
    tf.tidy(() => {
      expectClose(own({ x: tf.scalar(1) }, { by: 3 })[0]!, 11, { atol: 0 });
      expectClose(tf.grad((x) => own({ x }, { by: 3 })[0]!)(tf.scalar(1)), 1, { atol: 0 });
    });
    expect(seen).toEqual([
      { by: 3, taped: false },
      { by: 3, taped: true },
    ]);
    tf.unregisterKernel(`TestOwnKernel-${backend}`, tf.getBackend());
  });
});
