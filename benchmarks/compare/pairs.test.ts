import { describe, expect, it } from 'vitest';
import { compare, describeLoad, formatLine, formatTable, median, orders, parseRun, type Run } from './pairs';

const run = (value: number, memory: number, more: Partial<Run> = {}): Run => ({
  workload: 'train-small',
  dtype: 'float32',
  threads: 2,
  metric: 'tokens_per_second',
  value,
  peak_rss_mib: memory,
  ...more,
});
const ours = (value: number, memory: number, share: number) => run(value, memory, { share_of_roof: share });

const pairs = [
  { ours: ours(30, 1000, 0.8), peer: run(20, 2000) },
  { ours: ours(40, 1200, 0.9), peer: run(20, 2100) },
  { ours: ours(33, 1100, 0.7), peer: run(30, 2200) },
];

describe('pairs', () => {
  it('alternate which side begins', () => {
    expect(orders(3)).toEqual([
      ['peer', 'ours'],
      ['ours', 'peer'],
      ['peer', 'ours'],
    ]);
  });

  it('are summarized by medians and by the ratios within pairs', () => {
    expect(compare(pairs)).toEqual({
      workload: 'train-small',
      dtype: 'float32',
      unit: 'tokens/s',
      ours: 33,
      peer: 20,
      ratio: 33 / 20,
      least: 1.1,
      greatest: 2,
      memory: { ours: 1100, peer: 2100, ratio: 1100 / 2100 },
      shareOfRoof: 0.8,
      usedByOthers: 0,
    });
  });

  it('are not compared if the two sides did different work', () => {
    const other = { ours: ours(1, 1, 1), peer: run(1, 1, { threads: 4 }) };
    expect(() => compare([...pairs, other])).toThrow(
      /train-small, float32, 2 threads, tokens_per_second and .*, 4 threads/,
    );
    expect(() => compare([])).toThrow(/at least one pair/);
  });
});

it('median returns the middle value, or the mean of the two middle values', () => {
  expect(median([3, 1, 2])).toBe(2);
  expect(median([4, 1, 3, 2])).toBe(2.5);
  expect(() => median([])).toThrow(/at least one value/);
});

it('parseRun reads the last line with JSON and checks its workload', () => {
  const printed = `warming up\n{"note":1}\n${JSON.stringify(run(5, 6))}\n`;
  expect(parseRun(printed, 'train-small')).toEqual(run(5, 6));
  expect(() => parseRun(printed, 'train-medium')).toThrow(/expected a JSON line with workload train-medium/);
  expect(() => parseRun(JSON.stringify(run(NaN, 6)), 'train-small')).toThrow(/got \{/);
  expect(() => parseRun('nothing', 'train-small')).toThrow(/got no JSON line/);
});

it('formatLine shows speed, memory and share of the roof', () => {
  expect(formatLine(compare(pairs), 'pytorch')).toBe(
    'train-small        float32   ours 33.00, pytorch 20.00 tokens/s: 1.65 (pairs 1.10 to 2.00)  ' +
      'memory 1100 / 2100 MiB: 0.52  80 % of the roof',
  );
});

it('reports that other programs used the machine', () => {
  const disturbed = compare([...pairs, { ours: ours(1, 1, 1), peer: run(1, 1, { used_by_others: 0.42 }) }]);
  expect(describeLoad([compare(pairs)])).toBeUndefined();
  expect(describeLoad([compare(pairs), disturbed])).toMatch(/up to 42 % of the processors$/);
  expect(formatLine(disturbed, 'pytorch')).toMatch(/of the roof {2}Other programs used up to 42 %/);
});

it('formatTable writes Markdown with aligned columns', () => {
  const decoding = { workload: 'decode-medium', metric: 'new_tokens_per_second' };
  const table = formatTable([compare(pairs), compare([{ ours: run(1234.5, 1, decoding), peer: run(5, 2, decoding) }])]);
  const lines = table.split('\n');
  expect(lines).toHaveLength(4);
  expect(new Set(lines.map((line) => line.length)).size).toBe(1);
  expect(lines[1]).toMatch(/^(\| -+ )+\|$/);
  expect(lines[3]!.split('|').map((cell) => cell.trim())).toEqual([
    '',
    'decode-medium',
    'float32',
    '1235 new tokens/s',
    '5.00 new tokens/s',
    '246.90',
    '246.90 to 246.90',
    '1, 2 MiB',
    '0.50',
    'unknown',
    '',
  ]);
});
