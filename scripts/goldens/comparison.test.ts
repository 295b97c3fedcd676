import { expect, it } from 'vitest';
import { Comparison } from './comparison';

it('reports the largest error if all values are close enough', () => {
  const check = new Comparison();
  check.close('exact', [1, 2], [1, 2], 0);
  check.close('near', [3, 4.05], [3, 4], 0.1);
  check.same('ids', { a: [1] }, { a: [1] });
  expect(check.result()).toEqual({ error: expect.closeTo(0.01, 6), pass: true, note: 'worst near' });
});

it('reports each failure with its error, NaN included', () => {
  const check = new Comparison();
  check.close('far', [3, 4.5], [3, 4], 0.01);
  check.close('broken', [NaN], [1], 1);
  check.same('ids', [1], [2]);
  expect(check.result()).toMatchObject({ pass: false, note: 'far: 1.0e-1; broken: NaN; ids: got [1], expected [2]' });
});

it('fails if nothing was compared', () => {
  expect(new Comparison().result()).toEqual({ error: 0, pass: false, note: 'nothing was compared' });
});
