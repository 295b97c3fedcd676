import { expect, it } from 'vitest';
import { PackedText } from './packed-text';

// Documents of 1, 2, ... tokens, every third empty: 0; 10 11; none; 30 31 32 33; 40 ... 44; none; 60 ...
const document = (place: number) =>
  Promise.resolve(place % 3 === 2 ? [] : Array.from({ length: place + 1 }, (_, i) => 10 * place + i));

it('cuts one stream into full rows, each starting where the one before ended', async () => {
  const { rows, cursor } = await new PackedText(document).next(3, 5);
  expect(rows).toEqual([
    [0, 10, 11, 30, 31],
    [32, 33, 40, 41, 42],
    [43, 44, 60, 61, 62],
  ]);
  expect(cursor).toEqual({ place: 6, used: 3 });
});

it('splits a document that is longer than a row or a step without losing tokens', async () => {
  const long = new PackedText(async () => Array.from({ length: 20 }, (_, i) => i));
  const rows = [...(await long.next(2, 7)).rows, ...(await long.next(2, 7)).rows];
  expect(rows.flat()).toEqual(Array.from({ length: 28 }, (_, i) => i % 20));
});

it('returns several requested steps in order, and resumes from any cursor', async () => {
  const whole = new PackedText(document);
  const steps = await Promise.all(Array.from({ length: 12 }, () => whole.next(2, 4)));
  for (const [i, { cursor }] of steps.slice(0, -1).entries()) {
    expect(await new PackedText(document, cursor).next(2, 4)).toEqual(steps[i + 1]);
  }
});

it('settles when a document cannot be read, and rejects the rows that need it', async () => {
  const stream = new PackedText(() => Promise.reject(new Error('the disk is gone')));
  const rows = stream.next(1, 4);
  await stream.whenDone();
  await expect(rows).rejects.toThrow('the disk is gone');
});
