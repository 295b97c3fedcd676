import { describe, expect, it } from 'vitest';
import { lineChart, page, promptGallery, table } from './report';

describe('report', () => {
  it('draws one line per series between its axes', () => {
    const chart = lineChart(
      [
        { name: 'a', points: [[0, 0], [1, 1]] }, // prettier-ignore
        { name: 'b', points: [[0, 1], [1, 0]], dashed: true }, // prettier-ignore
      ],
      { title: 'T', x: 'steps', y: 'loss', yMin: 0, yMax: 1 },
    );
    expect(chart.match(/<polyline/g)).toHaveLength(2);
    expect(chart).toContain('points="48.0,226.0 448.0,30.0"');
    expect(chart).toMatch(/stroke-dasharray/);
  });

  it('lets no text out of its place', () => {
    const html = page('<b>', [table([['<script>'], ['a & "b"']])]);
    expect(html).not.toContain('<script>');
    expect(html).toContain('a &amp; &quot;b&quot;');
  });

  it('shows the right answer beside a wrong one', () => {
    const html = promptGallery([{ title: 'colour', examples: [], query: 'data:,', answer: 'red', truth: 'blue' }]);
    expect(html).toContain('red (right: blue)');
    expect(html).toContain('class="card wrong"');
  });

  it('needs nothing from elsewhere', () => {
    expect(page('t', [])).not.toMatch(/https?:\/\/|src=|@import/);
  });
});
