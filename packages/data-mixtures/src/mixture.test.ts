import * as fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { EOC, EOS, IMAGE, page, PAD, wordTokenizer } from '../test/words';
import type { Document, DocumentSource, MediaRef } from './document';
import { featureLoader } from './media';
import { Mixture, type DatasetConfig, type MixingStrategy, type MixtureCursor, type MixtureStep } from './mixture';
import { prefetch } from './prefetch';

const tokenizer = wordTokenizer();
/** One number as the features of each key; keys from 1000 have none. */
const features = featureLoader([1, 1, 1], (key) => (Number(key) >= 1000 ? undefined : Float32Array.of(Number(key))));

function source(length: number, make: (i: number) => Document | undefined): DocumentSource {
  return { length, get: make };
}

const pages = source(37, (i) => page(` t${i}`, i, ` u${i} v${i}`, i + 100, ` w${i}`));
const pairs = source(11, (i) => ({ kind: 'pair', parts: [{ media: { key: i } }, { text: ` p${i}` }] }));

function dataset(name: string, from: DocumentSource, more: Partial<DatasetConfig> = {}): DatasetConfig {
  return { name, source: from, weight: 1, batchSize: 4, maxTokens: 32, media: features, ...more };
}

function mixture(cursor?: MixtureCursor, more: Partial<DatasetConfig> = {}, seed = 3): Mixture {
  const datasets = [dataset('pages', pages, more), dataset('pairs', pairs, { weight: 0.2, batchSize: 3 })];
  return new Mixture({ seed, tokenizer, datasets }, cursor);
}

async function take(mix: AsyncIterable<MixtureStep>, count: number): Promise<MixtureStep[]> {
  const steps: MixtureStep[] = [];
  for await (const step of mix) if (steps.push(step) === count) break;
  return steps;
}

describe('a step', () => {
  it('has one batch of every dataset with its weight', async () => {
    const step = await mixture().next();
    expect(step.batches.map(({ name, weight, batch }) => [name, weight, batch.size])).toEqual([
      ['pages', 1, 4],
      ['pairs', 0.2, 3],
    ]);
  });

  it('has padded rows, whose padding is outside the loss', async () => {
    const { batch } = (await mixture().next()).batches[0]!;
    expect(batch.text % 8).toBe(0);
    expect(batch.visual.shape).toEqual([4, 2, 1, 1, 1]);
    for (let i = 0; i < batch.tokens.length; i++) {
      if (batch.tokens[i] !== PAD) continue;
      expect([batch.lossMask[i], batch.mediaIndex[i]]).toEqual([0, 0]);
    }
    for (let b = 0; b < batch.size; b++) {
      const row = Array.from(batch.tokens.subarray(b * batch.text, (b + 1) * batch.text));
      expect(row.filter((id) => id === IMAGE)).toHaveLength(2);
      expect(batch.visual.data[b * 2]! + 100).toBe(batch.visual.data[b * 2 + 1]);
      expect(row.lastIndexOf(EOS)).toBe(row.lastIndexOf(EOC) + 1);
    }
  });
});

describe('order', () => {
  const keysOf = (steps: MixtureStep[], dataset: number) =>
    steps.flatMap((s) => Array.from(s.batches[dataset]!.batch.visual.data));

  it('uses the order of a source that has one', async () => {
    const backwards = { ...pairs, shuffled: (place: number) => 10 - place };
    const mix = new Mixture({ seed: 0, tokenizer, datasets: [dataset('b', backwards, { batchSize: 11 })] });
    expect(keysOf([await mix.next()], 0)).toEqual([10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
  });

  it('uses every document once per epoch, in a new order each epoch', async () => {
    const keys = keysOf(await take(mixture(), 22), 1);
    const all = Array.from({ length: 11 }, (_, i) => i);
    const epochs = [0, 1, 2, 3, 4, 5].map((e) => keys.slice(e * 11, (e + 1) * 11));
    for (const epoch of epochs) expect([...epoch].sort((a, b) => a - b)).toEqual(all);
    expect(new Set(epochs.map(String)).size).toBe(6);
  });

  it('depends on the seed', async () => {
    const [a, b, c] = await Promise.all([mixture(), mixture(), mixture(undefined, {}, 4)].map((m) => take(m, 3)));
    expect(a).toEqual(b);
    expect(a).not.toEqual(c);
  });

  it('uses the order of an infinite source', async () => {
    const endless = dataset(
      'endless',
      source(Infinity, (i) => page(i, ` x${i}`)),
    );
    const steps = await take(new Mixture({ seed: 0, tokenizer, datasets: [endless] }), 3);
    expect(keysOf(steps, 0)).toEqual(Array.from({ length: 12 }, (_, i) => i));
  });
});

describe('resuming', () => {
  it('continues exactly as if never stopped, from any cursor, through JSON', async () => {
    const whole = await take(mixture(), 30);
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: 26 }), async (at) => {
        const cursor = JSON.parse(JSON.stringify(whole[at]!.cursor)) as MixtureCursor;
        expect(await take(mixture(cursor), 3)).toEqual(whole.slice(at + 1, at + 4));
      }),
      { numRuns: 12 },
    );
  });

  it('gives media loaders the keys of their sample, which differ between epochs and not between runs', async () => {
    const keys: string[] = [];
    const noted = {
      ...features,
      load(media: MediaRef, sample?: readonly (number | string)[]) {
        keys.push(sample!.join(' '));
        return features.load(media);
      },
    };
    const whole = await take(mixture(undefined, { media: noted }), 12);
    const first = keys.splice(0);
    expect(new Set(first).size).toBe(12 * 4);
    await take(mixture(whole[5]!.cursor, { media: noted }), 6);
    expect([...keys].sort()).toEqual(first.slice(6 * 4 * 2).sort());
  });

  it('does not depend on prefetching or the time to load images', async () => {
    const slow = {
      ...features,
      load: async (media: Parameters<typeof features.load>[0]) => {
        await new Promise((done) => setTimeout(done, 'key' in media ? Number(media.key) % 3 : 0));
        return features.load(media);
      },
    };
    const plain = await take(mixture(), 8);
    const ahead = await take(prefetch(mixture(undefined, { media: slow }), 3), 5);
    expect(ahead).toEqual(plain.slice(0, 5));
    expect(await take(mixture(ahead[4]!.cursor), 3)).toEqual(plain.slice(5));
  });

  it('gives the same documents and cursors for several steps at once as one by one', async () => {
    let release = () => {};
    const gate = new Promise<void>((open) => (release = open));
    let requested = 0;
    const held = {
      ...features,
      load: async (media: Parameters<typeof features.load>[0]) => {
        requested++;
        await gate;
        return features.load(media);
      },
    };
    const mix = mixture(undefined, { media: held });
    const steps = [mix.next(), mix.next(), mix.next()];
    // Images of the third step are requested before those of the first arrive: a page has two, a batch has four pages.
    await vi.waitFor(() => expect(requested).toBe(3 * 4 * 2));
    release();
    expect(await Promise.all(steps)).toEqual(await take(mixture(), 3));
  });

  it('has dispatched a step when its documents are read and its images requested', async () => {
    const requested: unknown[] = [];
    const never = {
      ...features,
      load(media: Parameters<typeof features.load>[0]) {
        requested.push(media);
        return new Promise<Float32Array>(() => undefined);
      },
    };
    const slow = {
      length: 37,
      get: async (i: number) => (await new Promise((r) => setTimeout(r, i % 5)), pages.get(i)),
    };
    const mix = new Mixture({ seed: 3, tokenizer, datasets: [dataset('pages', slow, { media: never })] });
    void mix.next();
    void mix.next();
    await mix.whenDispatched();
    expect(requested).toHaveLength(2 * 4 * 2);
  });

  it('rejects the cursor of another mixture', async () => {
    const { cursor } = await mixture().next();
    expect(() => mixture(cursor, {}, 4)).toThrow('the cursor was made with seed 3, but the config has 4');
    expect(() => new Mixture({ seed: 3, tokenizer, datasets: [dataset('pages', pages)] }, cursor)).toThrow(
      /cursor is for the datasets pages, pairs, but the config has pages/,
    );
    expect(() => mixture(cursor, { source: source(38, () => undefined) })).toThrow(
      'had 37 documents when the cursor was made, but has 38 now',
    );
  });
});

describe('broken documents and media', () => {
  it('are counted, named and skipped; the batches stay full', async () => {
    const mixed = source(40, (i) => {
      if (i % 10 === 0) return undefined;
      if (i % 10 === 1) return page(' only text');
      if (i % 10 === 2) return page(1000 + i, ' its only image is broken');
      if (i % 10 === 3) return page(i, ' good', 1000 + i, ' text of a broken one');
      return page(i, ' good');
    });
    const mix = new Mixture({ seed: 1, tokenizer, datasets: [dataset('mixed', mixed, { batchSize: 7, pNext: 0 })] });
    const steps = await take(mix, 4);
    expect(steps.every((s) => s.batches[0]!.batch.size === 7)).toBe(true);
    const report = mix.report()['mixed']!;
    expect(report).toMatchObject({ documents: 28, epochs: 0.7, repeats: 0, samples: 28 });
    expect(Object.keys(report.skipped).sort()).toEqual(['broken document', 'no media', 'unreadable media']);
    const skipped = Object.values(report.skipped).reduce((a, b) => a + b);
    expect(report.substitutes).toBeGreaterThan(0);
    expect(skipped).toBeGreaterThanOrEqual(report.substitutes);
    expect(report.unreadableMedia).toBeGreaterThan(report.skipped['unreadable media']!);
    expect(report.unreadableNames.every((name) => /^key 10/.test(name))).toBe(true);
  });

  it('keeps a page without its broken image: its text joins the previous image', async () => {
    const one = source(1, () => page(7, ' a', 1000, ' b', 8, ' c'));
    const mix = new Mixture({ seed: 1, tokenizer, datasets: [dataset('one', one, { batchSize: 1, pNext: 0 })] });
    const { batch } = (await mix.next()).batches[0]!;
    expect(tokenizer.words(batch.tokens)).toMatch(/^<BOS><image> a b<EOC><image> c<EOC><EOS>(<PAD>)+$/);
    expect(Array.from(batch.visual.data)).toEqual([7, 8]);
  });

  it('keeps words separate if a broken image was between them', async () => {
    const one = source(1, () => page(7, ' a', 1000, 'b', 1001, 1002, 'c ', 1003, 'd', 8, ' e', 1004));
    const mix = new Mixture({ seed: 1, tokenizer, datasets: [dataset('one', one, { batchSize: 1, pNext: 0 })] });
    const { batch } = (await mix.next()).batches[0]!;
    expect(tokenizer.words(batch.tokens)).toMatch(/^<BOS><image> a b c d<EOC><image> e<EOC><EOS>/);
  });

  it('are an error if no other documents are left', async () => {
    const hopeless = new Mixture({
      seed: 1,
      tokenizer,
      datasets: [
        dataset(
          'bad',
          source(5, () => page(' text')),
        ),
      ],
    });
    await expect(hopeless.next()).rejects.toThrow(
      /6 documents of dataset "bad" in a row yielded no sample .*"no media"/,
    );
  });

  it('name the dataset and the document whose source throws', async () => {
    const throwing = source(5, () => {
      throw new Error('disk is gone');
    });
    const mix = new Mixture({ seed: 1, tokenizer, datasets: [dataset('bad', throwing)] });
    await expect(mix.next()).rejects.toThrow(/dataset "bad", document \d: disk is gone/);
  });
});

describe('mixing', () => {
  const three = (strategy: MixingStrategy, cursor?: MixtureCursor) => {
    const datasets = [dataset('a', pages), dataset('b', pairs, { batchSize: 3 }), dataset('c', pairs)];
    return new Mixture({ seed: 3, tokenizer, strategy, datasets }, cursor);
  };
  const shape = (step: MixtureStep) => step.batches.map(({ name, batch }) => [name, batch.size]);

  it('round-robin uses one dataset per step, also after resuming', async () => {
    const steps = await take(three('round-robin'), 7);
    expect(steps.map(shape)).toEqual(['a', 'b', 'c', 'a', 'b', 'c', 'a'].map((n) => [[n, n === 'b' ? 3 : 4]]));
    expect(await take(three('round-robin', steps[3]!.cursor), 3)).toEqual(steps.slice(4));
  });

  it('merged has one batch with the same samples as accumulate', async () => {
    const [apart, merged] = await Promise.all([three('accumulate').next(), three('merged').next()]);
    expect(shape(merged)).toEqual([['merged', 11]]);
    const texts = (step: MixtureStep) =>
      step.batches.flatMap(({ batch: { tokens, text, size } }) =>
        Array.from({ length: size }, (_, b) =>
          tokenizer.words(tokens.subarray(b * text, (b + 1) * text)).replaceAll('<PAD>', ''),
        ),
      );
    expect(texts(merged)).toEqual(texts(apart));
  });

  it('merges only datasets that fit one batch', () => {
    const merge = (more: Partial<DatasetConfig>) =>
      new Mixture({
        seed: 0,
        tokenizer,
        strategy: 'merged',
        datasets: [dataset('a', pages), dataset('b', pairs, more)],
      });
    expect(() => merge({ weight: 0.2 })).toThrow(/"b" must have the weight of the others, 1, .*got 0.2/);
    const clips = featureLoader([8, 1, 1], () => undefined);
    expect(() => merge({ media: clips })).toThrow(/must have features \[1, 1, 1\] .*got features \[8, 1, 1\]/);
  });
});

describe('a wrong config', () => {
  const make = (...datasets: DatasetConfig[]) => new Mixture({ seed: 0, tokenizer, datasets });

  it('is named', () => {
    expect(() => make()).toThrow('datasets is empty');
    expect(() => make(dataset('a', pages), dataset('a', pairs))).toThrow('dataset "a" occurs twice');
    expect(() => make(dataset('a', pages, { weight: -1 }))).toThrow('weight must be 0 or more, got -1');
    expect(() => make(dataset('a', pages, { batchSize: 0 }))).toThrow(
      'batchSize must be a whole number of at least 1, got 0',
    );
    expect(() =>
      make(
        dataset(
          'a',
          source(0, () => undefined),
        ),
      ),
    ).toThrow('its source is empty');
    expect(() => make(dataset('a', pages, { lossRule: 'all' as never }))).toThrow(
      'dataset "a": lossRule must be one of paper, open-flamingo-interleaved, open-flamingo-pairs, got all',
    );
    expect(() => make(dataset('a', pages, { weight: NaN }))).toThrow('weight must be 0 or more, got NaN');
    expect(() => make(dataset('a', pages, { pNext: '0.5' as never }))).toThrow(
      'pNext must be a number from 0 to 1, got 0.5',
    );
    expect(() => make(dataset('a', { ...pages, length: NaN }))).toThrow(
      'source.length must be a whole number of at least 1, got NaN',
    );
    const config = { seed: 0, tokenizer, datasets: [dataset('a', pages)] };
    expect(() => new Mixture({ ...config, strategy: 'mixed' as never })).toThrow(
      'strategy must be one of accumulate, round-robin, merged, got mixed',
    );
    expect(() => new Mixture({ ...config, seed: NaN })).toThrow('seed must be a whole number, got NaN');
    const special = { ...tokenizer.special, image: undefined as never };
    expect(() => new Mixture({ ...config, tokenizer: { ...tokenizer, special } })).toThrow(
      'tokenizer.special.image must be a whole number of at least 0, got undefined',
    );
    const clash = { ...tokenizer.special, image: tokenizer.special.eos };
    expect(() => new Mixture({ ...config, tokenizer: { ...tokenizer, special: clash } })).toThrow(
      /image and endOfChunk of tokenizer\.special must be unique/,
    );
    expect(() => make(dataset('a', pages, { maxTokens: 3 }))).toThrow(
      'maxTokens must be a whole number of at least 4, got 3',
    );
  });
});
