import { expect, it } from 'vitest';
import { processors, usedByOthers } from './machine';

it('what others use is what is busy beyond our own', () => {
  const from = { all: 1000, busy: 500, own: 100 };
  expect(usedByOthers(from, { all: 2000, busy: 1400, own: 700 })).toBeCloseTo(0.3, 12);
  // The two are counted in ticks of their own, and may differ by one.
  expect(usedByOthers(from, { all: 2000, busy: 900, own: 510 })).toBe(0);
});

it.runIf(process.platform === 'linux')('the system tells what its processors have done', () => {
  const from = processors()!;
  const used = process.cpuUsage();
  while (process.cpuUsage(used).user < 100_000);
  const to = processors()!;
  expect(to.own - from.own).toBeGreaterThan(70);
  expect(to.own - from.own).toBeLessThanOrEqual(to.all - from.all);
});
