import { describe, expect, it } from 'vitest';
import { FeatureStore } from './features';
import type { MediaKey, ViewKeys } from '../data/training-data';
import type { VisionTower } from './vision';

/**
 * A store of one-pixel images whose feature is their red value. Text keys are clips; `broken` cannot be read. A view
 * adds its last key to the red value.
 */
function createStore(cacheBytes?: number) {
  const [asked, encoded] = [[] as MediaKey[], [] as number[][]];
  const tower = {
    features(images: readonly Uint8Array[]) {
      encoded.push(images.map((p) => p[0]!));
      return images.map((p) => Float32Array.of(p[0]!));
    },
  } as Partial<VisionTower> as VisionTower;
  const source = {
    imageSize: 1,
    async frames(keys: readonly MediaKey[], views?: readonly ViewKeys[]) {
      asked.push(...keys);
      return keys.map((key, i) => {
        if (key === 'broken') return undefined;
        const more = Number(views?.[i]?.at(-1) ?? 0);
        return Uint8Array.from(
          String(key)
            .split(' ')
            .flatMap((red) => [Number(red) + more, 0, 0]),
        );
      });
    },
  };
  return { store: new FeatureStore(tower, source, cacheBytes), asked, encoded };
}

describe('features', () => {
  it('are computed on demand, once, for many images together', async () => {
    const { store, asked, encoded } = createStore();
    const numbers = await Promise.all([7, '8 9', 7, 5].map((key) => store.fetch(key)));
    expect(numbers).toEqual([1, 2, 1, 3]);
    expect([asked, encoded]).toEqual([[7, '8 9', 5], []]);
    store.encode([1, 2, 2, 1]);
    store.encode([1, 3]);
    expect(encoded).toEqual([[7, 8, 9], [5]]);
    expect([1, 2, 3].map((number) => Array.from(store.features(number)))).toEqual([[7], [8, 9], [5]]);
  });

  it('of an unreadable image are undefined', async () => {
    const { store, asked } = createStore();
    expect(await store.fetch('broken')).toBeUndefined();
    expect(await store.get(['broken', 4])).toEqual([undefined, Float32Array.of(4)]);
    expect(asked).toEqual(['broken', 4]);
  });

  it('of augmented images differ between views, and are not cached', async () => {
    const { store, asked } = createStore();
    const fetch = (view: number) => store.fetch(7, ['step', view]);
    const numbers = await Promise.all([fetch(10), fetch(20), fetch(10), store.fetch(7)]);
    expect(numbers).toEqual([1, 2, 1, 3]);
    store.encode([1, 2, 3]);
    expect([1, 2, 3].map((number) => store.features(number)[0])).toEqual([17, 27, 7]);
    expect(asked).toEqual([7, 7, 7]);
    store.endStep(0);
    // Only the image itself is still known.
    expect(await Promise.all([fetch(10), store.fetch(7)])).toHaveLength(2);
    expect(asked).toEqual([7, 7, 7, 7]);
    expect(await store.get([7])).toEqual([Float32Array.of(7)]);
  });

  it('are cached within a limit of bytes, evicting the least recently used', async () => {
    const { store, asked } = createStore(8);
    await store.get([1, 2]);
    await store.get([1]);
    await store.get([3]);
    expect(await store.get([1, 2])).toEqual([Float32Array.of(1), Float32Array.of(2)]);
    expect(asked).toEqual([1, 2, 3, 2]);
  });

  it('stay while their steps are prepared, whatever the limit, but no longer', async () => {
    const { store, asked } = createStore(0);
    const seen = async (step: number, keys: readonly number[]) => {
      store.beginStep(step);
      return Promise.all(keys.map((key) => store.fetch(key)));
    };
    const steps = [await seen(0, [1, 2]), await seen(1, [2, 3]), await seen(2, [4])];
    expect(steps).toEqual([[1, 2], [2, 3], [4]]);
    for (const [step, numbers] of (steps as number[][]).entries()) {
      store.encode(numbers);
      expect(numbers.map((number) => store.features(number)[0])).toEqual([[1, 2], [2, 3], [4]][step]);
      store.endStep(step);
    }
    expect(asked).toEqual([1, 2, 3, 4]);
    // All numbers are free, and the images must be read again.
    expect((await seen(3, [2, 1, 5, 6])).sort()).toEqual([1, 2, 3, 4]);
    expect(asked).toEqual([1, 2, 3, 4, 2, 1, 5, 6]);
  });
});
