import { beforeAll, describe, expect, it } from 'vitest';
import { Random } from '@flamingo-ts/kernels';
import { findArtwork } from './artwork';
import { COUNTS, GROUPS, loadConcepts, SIDE, STYLES, type Split } from './concepts';
import { EmojiData } from './data';
import { clipKey, emojiDocuments } from './documents';
import { CONDITIONS } from '../../data/training-data';
import { dominantColor, COLORS, VARIANTS } from './images';
import { attributeTask, bindingTask } from './tasks';
import { textPage } from './texts';
import { ANSWERS, ATTRIBUTES, EmojiWorld } from './world';

const artwork = await findArtwork();
const concepts = loadConcepts(artwork, 0);
let world: EmojiWorld;
beforeAll(async () => {
  world = await EmojiWorld.create({ seed: 0, maxConcepts: 150 });
}, 120_000);

describe('concepts', () => {
  it('have all three drawings and annotations', () => {
    expect(concepts).toHaveLength(1856);
    expect(new Set(concepts.map((c) => c.hexcode)).size).toBe(1856);
    expect(GROUPS.map((_, g) => concepts.filter((c) => c.group === g).length)).toEqual([
      166, 363, 157, 128, 218, 85, 261, 209, 269,
    ]);
  });

  it('keep families in one split', () => {
    const splits = new Map<string, Set<Split>>();
    for (const c of concepts) splits.set(c.family, (splits.get(c.family) ?? new Set()).add(c.split));
    expect([...splits.values()].every((s) => s.size === 1)).toBe(true);
    const family = (label: string) => concepts.find((c) => c.label === label)!.family;
    expect(family('woman astronaut')).toBe(family('man astronaut'));
    expect(family('one o’clock')).toBe(family('ten-thirty'));
    expect(family('person running')).toBe(family('woman running'));
  });

  it('are held out in every group, about 15%, and 5% for choosing', () => {
    for (let g = 0; g < GROUPS.length; g++) {
      const of = concepts.filter((c) => c.group === g);
      const share = (split: Split) => of.filter((c) => c.split === split).length / of.length;
      expect(share('heldOut')).toBeGreaterThan(0.14);
      expect(share('heldOut')).toBeLessThan(0.17);
      expect(share('choosing')).toBeGreaterThan(0.03);
      expect(share('choosing')).toBeLessThan(0.07);
    }
  });

  it('are split differently by another seed, and equally by the same', () => {
    const held = (seed: number) =>
      loadConcepts(artwork, seed).flatMap((c) => (c.split === 'heldOut' ? [c.hexcode] : []));
    expect(held(0)).toEqual(held(0));
    expect(held(1)).not.toEqual(held(0));
  });
});

describe('colors', () => {
  const filled = (...parts: [r: number, g: number, b: number, share: number][]) =>
    Uint8Array.from(parts.flatMap(([r, g, b, n]) => Array.from({ length: n }, () => [r, g, b, 255]).flat()));
  const name = (pixels: Uint8Array) => COLORS[dominantColor(pixels)];

  it('are those that cover half of the drawing', () => {
    expect(name(filled([252, 234, 43, 60], [234, 90, 71, 40]))).toBe('yellow');
    expect(name(filled([91, 145, 59, 40], [146, 211, 245, 30], [234, 90, 71, 30]))).toBeUndefined();
  });

  it('ignore outlines, and are undefined for black drawings', () => {
    expect(name(filled([0, 0, 0, 60], [92, 158, 191, 40]))).toBe('blue');
    expect(name(filled([0, 0, 0, 75], [92, 158, 191, 25]))).toBeUndefined();
  });

  it('ignore transparent pixels', () => {
    const pixels = filled([255, 0, 0, 10], [0, 0, 255, 90]);
    for (let i = 10; i < 100; i++) pixels[4 * i + 3] = 0;
    expect(name(pixels)).toBe('red');
  });
});

describe('images', () => {
  it('exist for every concept, style and view', () => {
    expect(world.imageCount).toBe(world.concepts.length * STYLES.length * VARIANTS);
    for (let p = 0; p < world.imageCount; p += 37) {
      const pixels = world.image(p);
      expect(new Set(pixels).size).toBeGreaterThan(3);
    }
  });

  it('have a number of copies as their answer', () => {
    expect([0, 5, 6, 7].map((v) => world.answer(v, 'count'))).toEqual([COUNTS[0], COUNTS[0], COUNTS[1], COUNTS[2]]);
  });

  it('of one seed are the same in every run', async () => {
    const again = await EmojiWorld.create({ seed: 0, maxConcepts: 20 });
    const twice = await EmojiWorld.create({ seed: 0, maxConcepts: 20 });
    expect(Buffer.compare(again.pixels, twice.pixels)).toBe(0);
  }, 60_000);

  it('report progress up to the last one', async () => {
    const seen: [number, number][] = [];
    await EmojiWorld.create({ seed: 0, maxConcepts: 20, onDrawn: (...counts) => seen.push(counts) });
    const drawings = 20 * STYLES.length;
    expect(seen).toEqual(Array.from({ length: drawings }, (_, i) => [VARIANTS * (i + 1), VARIANTS * drawings]));
  }, 60_000);

  it('require enough concepts', async () => {
    await expect(EmojiWorld.create({ seed: 0, maxConcepts: 1 })).rejects.toThrow(
      /among 1 concepts\. Set data\.maxConcepts to at least 40/,
    );
  });

  it('of clips move', async () => {
    const data = new EmojiData(world, 5);
    for (let action = 0; action < 4; action++) {
      const [frames] = await data.frames([clipKey({ drawing: 3, action })]);
      expect(frames).toHaveLength(5 * SIDE * SIDE * 3);
      const size = SIDE * SIDE * 3;
      expect(Buffer.compare(frames!.subarray(0, size), frames!.subarray(4 * size))).not.toBe(0);
    }
  });
});

describe('training data', () => {
  it('shows only training concepts', () => {
    const held = world.concepts.filter((c) => c.split !== 'train');
    expect(held.length).toBeGreaterThan(10);
    for (const dataset of ['pages', 'pairs', 'descriptions', 'clips'] as const) {
      const source = emojiDocuments(world, dataset, 0, 4);
      for (let i = 0; i < 60; i++) {
        for (const part of (source.get(i) as unknown as { parts: object[] }).parts) {
          if (!('media' in part)) continue;
          const key = (part.media as { key: number | string }).key;
          const image = typeof key === 'number' ? key : Number(key.split(' ')[1]) * VARIANTS;
          expect(world.conceptOf(image).split).toBe('train');
        }
      }
    }
  });

  it('asks one question per page, with correct answers', () => {
    const source = emojiDocuments(world, 'pages', 0, 6);
    for (let i = 0; i < 30; i++) {
      const { parts } = source.get(i) as unknown as {
        parts: { media?: { key: number }; text?: string; learn?: boolean }[];
      };
      const images = parts.flatMap((p) => p.media?.key ?? []);
      const answers = parts.filter((p) => p.text && p.learn !== false).map((p) => p.text!.trim());
      const asked = ATTRIBUTES.filter((a) => ANSWERS[a].includes(answers[0]!));
      expect(asked).toHaveLength(1);
      expect(answers).toEqual(images.map((p) => world.answer(p, asked[0]!)));
    }
  });

  it('depends only on the seed and the index', () => {
    const [a, b] = [emojiDocuments(world, 'pages', 3, 4), emojiDocuments(world, 'pages', 3, 4)];
    b.get(0);
    expect(a.get(17)).toEqual(b.get(17));
    expect(emojiDocuments(world, 'pages', 4, 4).get(17)).not.toEqual(a.get(17));
  });

  it('never shows an unseen style', async () => {
    const without = await EmojiWorld.create({ seed: 0, maxConcepts: 40, unseenStyle: 'flat' });
    const seen = without.images('train');
    expect(seen.some((p) => STYLES[without.styleOf(p)] === 'flat')).toBe(false);
    expect(without.images('train', 'unseen').length).toBe(seen.length / 2);
  }, 60_000);

  it('never contains special tokens in text', () => {
    const random = new Random(5);
    for (let i = 0; i < 300; i++) expect(textPage(world, random)).not.toMatch(/<|>/);
  });
});

describe('tasks', () => {
  const options = { split: 'heldOut', style: 'seen', prompts: 20, seed: 9 } as const;

  it('come from the data by split, for every question under every condition', async () => {
    const data = new EmojiData(world, 4);
    const ask = { shots: [0], prompts: 2, seed: 1 };
    const { split, tasks } = await data.questions(ask);
    expect(split).toBe('choosing');
    expect(tasks.map(({ condition, task }) => `${condition} ${task.name}`)).toEqual(
      CONDITIONS.flatMap((condition) => ATTRIBUTES.map((attribute) => `${condition} ${attribute}`)),
    );
    const { image } = (await data.questions({ ...ask, split: 'heldOut' })).tasks[0]!.task.queries[0]!;
    expect(world.conceptOf(image as number).split).toBe('heldOut');
    for (const unknown of ['all', 'unseenStyle', 'toString']) {
      await expect(data.questions({ ...ask, split: unknown })).rejects.toThrow(
        `eval: the emoji questions have no split ${unknown}. Use one of choosing, heldOut, train`,
      );
    }
  });

  it('differ between conditions only in their images', () => {
    const [real, blank, swapped] = CONDITIONS.map((c) => attributeTask(world, 'style', c, options));
    const answers = (t: typeof real) => t!.queries.map((q) => q.answer);
    expect(answers(blank)).toEqual(answers(real));
    expect(answers(swapped)).toEqual(answers(real));
    expect(blank!.queries.every((q) => q.image === 'blank')).toBe(true);
    for (const [i, q] of swapped!.queries.entries()) {
      expect(world.answer(q.image as number, 'style')).not.toBe(q.answer);
      expect(world.answer(real!.queries[i]!.image as number, 'style')).toBe(q.answer);
    }
  });

  it('are about held-out concepts, shots included, and shots never show the concept of the query', () => {
    const task = attributeTask(world, 'count', 'real', options);
    const random = { uniform: () => 0.5, int: (n: number) => Math.floor(n * Math.random()) };
    task.queries.forEach((query, i) => {
      const examples = (task.support as never as (...a: unknown[]) => { image: number }[])(query, 4, random, i);
      for (const { image } of [...examples, query as { image: number }]) {
        expect(world.conceptOf(image).split).toBe('heldOut');
      }
      const asked = world.conceptOf(query.image as number);
      expect(examples.map((e) => world.conceptOf(e.image))).not.toContain(asked);
    });
  });

  it('require enough concepts in the split', async () => {
    const few = await EmojiWorld.create({ seed: 3, maxConcepts: 40 });
    expect(() => attributeTask(few, 'color', 'real', { ...options, split: 'choosing' })).toThrow(
      /eval: questions about color require two concepts and two answers in the split choosing.*got \d and \d \(40 concepts.*data\.maxConcepts/,
    );
  }, 60_000);

  it('of binding show the query in another style than the shots', () => {
    const task = bindingTask(world, 2, options);
    task.queries.forEach((query, i) => {
      const examples = (task.support as never as (...a: unknown[]) => { image: number; answer: string }[])(
        query,
        2,
        {},
        i,
      );
      expect(examples).toHaveLength(4);
      const shown = examples.find((e) => e.answer === query.answer)!;
      expect(world.conceptOf(shown.image)).toBe(world.conceptOf(query.image as number));
      expect(world.styleOf(shown.image)).not.toBe(world.styleOf(query.image as number));
    });
  });
});
