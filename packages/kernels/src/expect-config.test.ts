import { expect, it } from 'vitest';
import { expectKeys, expectSizes } from './expect-config';

it('refuses a key that nobody knows', () => {
  expectKeys('Model', { depth: 1 }, ['depth', 'width']);
  expect(() => expectKeys('Model', { depth: 1, heigth: 2 }, ['depth', 'height'])).toThrow(
    'Model: expected only the config keys depth, height, got heigth. Remove or rename it.',
  );
});

it.each([0, -2, 1.5, NaN, undefined, '3' as never])('refuses a size of %s', (width) => {
  expect(() => expectSizes('Model', { depth: 1, width }, ['depth', 'width'])).toThrow(
    `Model: width must be a whole number of at least 1, got ${width}. Set it in the config.`,
  );
});
