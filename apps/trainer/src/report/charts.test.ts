import sharp from 'sharp';
import { describe, expect, it } from 'vitest';
import { barCharts, lineChart } from './charts';

/** Texts of an SVG, in order. */
const textsOf = (svg: string) => Array.from(svg.matchAll(/<text[^>]*>([^<]*)</g), (match) => match[1]);

describe('lineChart', () => {
  const axes = { title: 'T', x: 'step', y: 'loss' };

  it('draws one line per series between the axes', () => {
    const chart = lineChart(
      [
        { name: 'a', points: [[0, 0], [1, 1]] }, // prettier-ignore
        { name: 'b', points: [[0, 1], [1, 0]], dashed: true }, // prettier-ignore
      ],
      { ...axes, yMin: 0, yMax: 1 },
    );
    expect(chart.match(/<polyline/g)).toHaveLength(2);
    expect(chart).toContain('points="48.0,226.0 448.0,30.0"');
    expect(chart.match(/stroke-dasharray/g)).toHaveLength(1);
  });

  it.each([
    [0, 1, ['0', '0.2', '0.4', '0.6', '0.8', '1']],
    [0.37, 3.9, ['0.5', '1', '1.5', '2', '2.5', '3', '3.5']],
    [-0.5, 499, ['0', '100', '200', '300', '400']],
  ])('labels round numbers from %s to %s', (low, high, ticks) => {
    const points = [[0, low], [1, high]] as const; // prettier-ignore
    expect(textsOf(lineChart([{ name: 'a', points }], { ...axes, xTicks: [] })).slice(1, -2)).toEqual(ticks);
  });

  it('draws a constant line and an empty chart without NaN or Infinity', () => {
    expect(lineChart([{ name: 'a', points: [[3, 2]] }], axes)).not.toMatch(/NaN|Infinity/);
    expect(lineChart([{ name: 'a', points: [] }], axes)).toContain('T: no data');
  });
});

describe('barCharts', () => {
  it('draws a standalone SVG with labels, counts and empty charts', async () => {
    const svg = barCharts('<data>', '3 documents', [
      { title: 'Images', note: 'mean 1', bars: [{ label: '1', count: 4 }, { label: '2', count: 2 }] }, // prettier-ignore
      { title: 'Skipped', bars: [] },
    ]);
    const texts = ['&lt;data&gt;', '3 documents', 'Images', 'mean 1', '1', '4', '2', '2', 'Skipped', '', 'none'];
    expect(textsOf(svg)).toEqual(texts);
    const [first, second] = Array.from(svg.matchAll(/width="([\d.]+)" height="13"/g), (match) => Number(match[1]));
    expect(first).toBe(2 * second!);
    // sharp can only draw a well-formed file.
    expect((await sharp(Buffer.from(svg)).metadata()).width).toBe(560);
  });
});
