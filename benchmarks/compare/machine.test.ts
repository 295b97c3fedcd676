import { expect, it } from 'vitest';
import { processors, usedByOthers } from './machine';

it('counts busy time beyond that of this process as used by others', () => {
  const from = { all: 1000, busy: 500, own: 100 };
  expect(usedByOthers(from, { all: 2000, busy: 1400, own: 700 })).toBeCloseTo(0.3, 12);
  // The two counters tick separately and may differ by one tick.
  expect(usedByOthers(from, { all: 2000, busy: 900, own: 510 })).toBe(0);
});

it.runIf(process.platform === 'linux')('reads the processor times of the system', () => {
  const from = processors()!;
  const used = process.cpuUsage();
  while (process.cpuUsage(used).user < 100_000);
  const to = processors()!;
  expect(to.own - from.own).toBeGreaterThan(70);
  expect(to.own - from.own).toBeLessThanOrEqual(to.all - from.all);
});
