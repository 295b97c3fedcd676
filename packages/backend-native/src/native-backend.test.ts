import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-layers';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { numbers, relativeError, uniform, useNative } from '../test/against-cpu';
import { nativeLibrary, NativeBackend, registerNativeBackend, setNativeThreads } from './index';
import { PrimitiveCache } from './shared/primitive-cache';

let backend: NativeBackend;

beforeAll(async () => {
  await useNative();
  backend = tf.backend() as NativeBackend;
});

describe('the library', () => {
  it('describes itself', () => {
    const library = nativeLibrary();
    expect(library.version).toMatch(/^[23]\.\d+\.\d+$/);
    expect(library.path).toContain('dnnl');
    expect(library.cpuIsa).not.toBe('');
    expect(library.threads).toBeGreaterThanOrEqual(1);
  });

  it('can be registered twice', () => {
    expect(registerNativeBackend).not.toThrow();
  });

  describe('threads', () => {
    let before: number;
    beforeEach(() => {
      before = nativeLibrary().threads;
    });
    afterAll(() => setNativeThreads(before));

    it('can be set without changing results', () => {
      tf.tidy(() => {
        const product = () => tf.softmax(tf.matMul(uniform([200, 300]), uniform([300, 100], 2))).dataSync();
        const wanted = product();
        setNativeThreads(1);
        expect(nativeLibrary().threads).toBe(1);
        expect(relativeError(product(), wanted)).toBeLessThan(1e-6);
      });
    });

    it('must be a whole number', () => {
      expect(() => setNativeThreads(0)).toThrow(/whole number of at least 1, got 0/);
    });
  });
});

describe('memory', () => {
  it('an array that was read does not change', () => {
    const x = uniform([100, 100]);
    const y = tf.relu(x);
    const seen = y.dataSync();
    const copy = seen.slice();
    y.dispose();
    for (let i = 0; i < 20; i++) tf.add(x, i).dispose();
    expect(seen).toEqual(copy);
    x.dispose();
  });

  it('an array that a tensor was created from is neither changed nor reused', () => {
    const mine = numbers([100, 100]);
    const copy = mine.slice();
    const x = tf.tensor2d(mine, [100, 100]);
    tf.square(x).dispose();
    x.dispose();
    for (let i = 0; i < 20; i++) tf.fill([100, 100], i).dispose();
    expect(mine).toEqual(copy);
  });

  it('tensors that share data outlive each other', () => {
    tf.tidy(() => {
      const x = tf.relu(uniform([100, 100]));
      const wanted = x.dataSync();
      const views = [tf.reshape(x, [10_000]), tf.clone(x), tf.variable(x)];
      x.dispose();
      for (let i = 0; i < 20; i++) tf.fill([100, 100], i).dispose();
      for (const view of views) expect(view.dataSync()).toEqual(wanted);
      views[2]!.dispose();
    });
  });

  it('part of a pooled array that a CPU kernel returns is copied', () => {
    tf.tidy(() => {
      const x = tf.relu(uniform([100, 100]));
      const wanted = x.dataSync().slice(1000, 2000);
      const [, part] = tf.unstack(tf.reshape(x, [10, 1000]));
      x.dispose();
      for (let i = 0; i < 20; i++) tf.fill([100, 100], i).dispose();
      expect(part!.dataSync()).toEqual(wanted);
    });
  });

  it('a thousand steps leave nothing behind', () => {
    const [x, w] = [uniform([64, 128]), uniform([128, 64], 2)];
    const step = () => tf.tidy(() => tf.mean(tf.softmax(tf.relu(tf.matMul(x, w)))).dataSync());
    step();
    const [tensors, ids, { live, held }] = [tf.memory().numTensors, backend.numDataIds(), backend.pool.stats()];
    for (let i = 0; i < 1000; i++) step();
    expect(tf.memory().numTensors).toBe(tensors);
    expect(backend.numDataIds()).toBe(ids);
    expect(backend.pool.stats()).toMatchObject({ live, held });
    tf.dispose([x, w]);
  });
});

describe('PrimitiveCache', () => {
  it('drops the least recently used entry', () => {
    const gone: string[] = [];
    const cache = new PrimitiveCache(2);
    const use = (name: string) => cache.get(name, () => ({ destroy: () => gone.push(name) }));
    use('a');
    use('b');
    use('a');
    use('c');
    expect(gone).toEqual(['b']);
    cache.clear();
    expect(gone.sort()).toEqual(['a', 'b', 'c']);
    expect(cache.size).toBe(0);
  });
});

describe('training', () => {
  it('a small convolutional network learns', () => {
    const x = uniform([32, 8, 8, 3]) as tf.Tensor4D;
    const target = tf.tidy(() => tf.mean(x, [1, 2]));
    const kernel = tf.variable(tf.mul(uniform([3, 3, 3, 8], 2), 0.3)) as tf.Variable<tf.Rank.R4>;
    const head = tf.variable(tf.mul(uniform([8, 3], 3), 0.3)) as tf.Variable<tf.Rank.R2>;
    const optimizer = tf.train.adam(0.02);
    const loss = () => {
      const features = tf.relu(tf.conv2d(x, kernel, 2, 'same'));
      return tf.mean(
        tf.squaredDifference(tf.matMul(tf.mean(features, [1, 2]) as tf.Tensor2D, head), target),
      ) as tf.Scalar;
    };
    const first = tf.tidy(() => loss().dataSync()[0]!);
    for (let i = 0; i < 60; i++) optimizer.minimize(loss, false, [kernel, head]);
    expect(tf.tidy(() => loss().dataSync()[0]!)).toBeLessThan(first / 5);
    tf.dispose([x, target, kernel, head]);
    optimizer.dispose();
  });
});

describe('frozen matrices', () => {
  const [out, inputs, m] = [300, 1500, 7];
  const weight = numbers([out, inputs]);

  it.each(['float32', 'bfloat16'] as const)('%s, plain and transposed', (precision) => {
    const packed = backend.packMatrix(weight, [out, inputs], precision);
    const least = out * inputs * (precision === 'float32' ? 4 : 2);
    expect(packed.bytes / least).toBeGreaterThanOrEqual(1);
    expect(packed.bytes / least).toBeLessThan(1.1);
    tf.tidy(() => {
      // Compare with a product of the held values, which are already rounded.
      const held = tf.tensor2d(packed.unpack(), [out, inputs]);
      expect(relativeError(held.dataSync(), weight)).toBeLessThan(precision === 'float32' ? 1e-9 : 3e-3);
      const [x, dy] = [uniform([m, inputs], 2), uniform([m, out], 3)];
      const tensorOf = (info: tf.TensorInfo) => tf.engine().makeTensorFromTensorInfo(info);
      const [y, dx] = [tensorOf(packed.multiply(x, false)), tensorOf(packed.multiply(dy, true))];
      expect([y.shape, dx.shape]).toEqual([[m, out], [m, inputs]]); // prettier-ignore
      // A processor with bfloat16 instructions rounds the rows too.
      const tolerance = precision === 'float32' ? 1e-6 : 5e-3;
      expect(relativeError(y.dataSync(), tf.matMul(x, held, false, true).dataSync())).toBeLessThan(tolerance);
      expect(relativeError(dx.dataSync(), tf.matMul(dy, held).dataSync())).toBeLessThan(tolerance);
    });
    packed.dispose();
    expect(() => packed.unpack()).toThrow(/used after dispose/);
  });

  it('copies the values it is given', () => {
    const mine = weight.slice();
    const packed = backend.packMatrix(mine, [out, inputs], 'float32');
    mine.fill(0);
    expect(packed.unpack()).toEqual(weight);
    packed.dispose();
  });
});
