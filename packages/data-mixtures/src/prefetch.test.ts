import { expect, it } from 'vitest';
import { prefetch } from './prefetch';

const tick = () => new Promise((done) => setTimeout(done, 1));

function counting(failAt = Infinity) {
  const state = { started: 0, ended: false };
  async function* count() {
    try {
      for (let i = 0; i < 10; i++) {
        state.started++;
        if (i === failAt) throw new Error('broke');
        await tick();
        yield i;
      }
    } finally {
      state.ended = true;
    }
  }
  return { state, items: count() };
}

it('requires a whole number of items', async () => {
  const iterate = () => prefetch(counting().items, NaN).next();
  await expect(iterate()).rejects.toThrow('prefetch: ahead must be a whole number of at least 0, got NaN');
});

it('keeps the order and ends with the source', async () => {
  const seen: number[] = [];
  for await (const i of prefetch(counting().items, 3)) seen.push(i);
  expect(seen).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
});

it('prepares while the consumer works, but no more than `ahead` items', async () => {
  const { items, state } = counting();
  for await (const i of prefetch(items, 2)) {
    for (let k = 0; k < 10; k++) await tick();
    // Item i, the two after it, and never more.
    expect(state.started).toBe(Math.min(10, i + 3));
  }
});

it('throws an error at the position of its item', async () => {
  const seen: number[] = [];
  const run = async () => {
    for await (const i of prefetch(counting(2).items, 5)) {
      seen.push(i);
      await tick();
    }
  };
  await expect(run()).rejects.toThrow('broke');
  expect(seen).toEqual([0, 1]);
});

it('closes the source when the loop is left', async () => {
  const { items, state } = counting();
  for await (const i of prefetch(items, 2)) if (i === 1) break;
  expect(state.ended).toBe(true);
});

it('yields an item only after the next ones have been sent to the workers', async () => {
  const [requested, sent] = [[] as number[], [] as number[]];
  let reading = Promise.resolve();
  const source = {
    [Symbol.asyncIterator]: () => ({
      next() {
        const i = requested.push(requested.length) - 1;
        // First reads from disk over many turns of the event loop, then sends to the workers.
        reading = reading
          .then(tick)
          .then(tick)
          .then(() => void sent.push(i));
        return Promise.resolve({ done: false, value: i } as const);
      },
    }),
    whenDispatched: () => reading,
  };
  for await (const i of prefetch(source, 2)) {
    expect(sent).toEqual(requested);
    expect(sent.length).toBe(i + 3);
    if (i === 4) break;
  }
});
