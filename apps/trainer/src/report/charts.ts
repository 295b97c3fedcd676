import { escapeHtml } from './html-page';

/** Line colors that readers with color blindness can tell apart. */
const COLORS = ['#0b6e99', '#d9730d', '#0f7b6c', '#ad1a72', '#6940a5', '#8a6d3b'];
const GRAY = '#666';

/** One line of a line chart, in data units. */
export interface Series {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
  readonly dashed?: boolean;
}

export interface LineChartOptions {
  readonly title: string;
  /** Axis labels. */
  readonly x: string;
  readonly y: string;
  /** Ends of the y axis. Default: the smallest and largest value. */
  readonly yMin?: number;
  readonly yMax?: number;
  /** Labeled values of the x axis. Default: about five round numbers. */
  readonly xTicks?: readonly number[];
}

/** A line chart with its legend, as an HTML figure. */
export function lineChart(series: readonly Series[], options: LineChartOptions): string {
  const [width, height] = [460, 270];
  const [left, right, top, bottom] = [48, width - 12, 30, height - 44];
  const xs = series.flatMap(({ points }) => points.map(([x]) => x));
  const ys = series.flatMap(({ points }) => points.map(([, y]) => y));
  if (xs.length === 0) return `<figure class="chart"><p>${escapeHtml(options.title)}: no data</p></figure>`;
  const [x0, x1] = rangeOf(xs);
  const [y0, y1] = rangeOf(ys, options.yMin, options.yMax);
  const atX = (x: number) => left + ((x - x0) / (x1 - x0)) * (right - left);
  const atY = (y: number) => bottom - ((y - y0) / (y1 - y0)) * (bottom - top);
  const label = (x: number, y: number, text: string, attributes = '', color = GRAY) =>
    `<text x="${x}" y="${y}" font-size="11" fill="${color}" ${attributes}>${escapeHtml(text)}</text>`;

  const grid = roundNumbers(y0, y1).map(
    (y) =>
      `<line x1="${left}" x2="${right}" y1="${atY(y)}" y2="${atY(y)}" stroke="#e8e8e8"/>` +
      label(left - 6, atY(y) + 4, String(y), 'text-anchor="end"'),
  );
  const xLabels = (options.xTicks ?? roundNumbers(x0, x1)).map((x) =>
    label(atX(x), bottom + 16, String(x), 'text-anchor="middle"'),
  );
  const lines = series.map(({ points, dashed }, i) => {
    const path = points.map(([x, y]) => `${atX(x).toFixed(1)},${atY(y).toFixed(1)}`).join(' ');
    const dash = dashed ? ' stroke-dasharray="5 4"' : '';
    return `<polyline fill="none" stroke="${colorOf(i)}" stroke-width="2"${dash} points="${path}"/>`;
  });
  const middle = (top + bottom) / 2;
  const svg = [
    `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escapeHtml(options.title)}">`,
    label(left, 16, options.title, 'font-weight="600"', '#222'),
    ...grid,
    ...xLabels,
    label((left + right) / 2, height - 8, options.x, 'text-anchor="middle"'),
    label(12, middle, options.y, `text-anchor="middle" transform="rotate(-90 12 ${middle})"`),
    ...lines,
    '</svg>',
  ];
  const legend = series.map(
    ({ name, dashed }, i) =>
      `<span><i style="border-top-color:${colorOf(i)}${dashed ? ';border-top-style:dashed' : ''}"></i>${escapeHtml(name)}</span>`,
  );
  return `<figure class="chart">${svg.join('')}<figcaption>${legend.join('')}</figcaption></figure>`;
}

/** One horizontal bar chart. */
export interface BarChart {
  readonly title: string;
  /** Shown in gray below the title. */
  readonly note?: string;
  readonly bars: readonly { readonly label: string; readonly count: number }[];
}

/** Horizontal bar charts below each other, as one standalone SVG image. */
export function barCharts(title: string, note: string, charts: readonly BarChart[]): string {
  const [width, left, barHeight, header, gap] = [560, 230, 18, 46, 24];
  const longest = width - left - 70;
  let y = 58;
  const panels = charts.map((chart) => {
    const most = Math.max(1, ...chart.bars.map(({ count }) => count));
    const rows = chart.bars.map(({ label, count }, i) => {
      const top = header + i * barHeight;
      const length = (count / most) * longest;
      const shortLabel = label.length > 30 ? `${label.slice(0, 29)}…` : label;
      return (
        `<text x="${left - 8}" y="${top + 13}" text-anchor="end">${escapeHtml(shortLabel)}</text>` +
        `<rect x="${left}" y="${top + 3}" width="${length.toFixed(1)}" height="${barHeight - 5}" fill="${colorOf(0)}"/>` +
        `<text x="${(left + length + 6).toFixed(1)}" y="${top + 13}">${count}</text>`
      );
    });
    const none = `<text x="12" y="${header + 13}" fill="${GRAY}">none</text>`;
    const panel =
      `<g transform="translate(0 ${y})"><text x="12" y="16" font-weight="600">${escapeHtml(chart.title)}</text>` +
      `<text x="12" y="33" fill="${GRAY}">${escapeHtml(chart.note ?? '')}</text>${rows.join('') || none}</g>`;
    y += header + Math.max(1, rows.length) * barHeight + gap;
    return panel;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${y}" width="${width}" height="${y}" font-family="system-ui,sans-serif" font-size="12" fill="#222">
<rect width="100%" height="100%" fill="#fff"/>
<text x="12" y="24" font-size="14" font-weight="600">${escapeHtml(title)}</text><text x="12" y="42" fill="${GRAY}">${escapeHtml(note)}</text>
${panels.join('\n')}
</svg>
`;
}

const colorOf = (i: number) => COLORS[i % COLORS.length]!;

/** Never empty, so that a position on the axis can be computed. */
function rangeOf(values: readonly number[], min = Math.min(...values), max = Math.max(...values)): [number, number] {
  return [min, max > min ? max : min + 1];
}

/** At least four multiples of 1, 2 or 5 times a power of ten within a range. */
function roundNumbers(from: number, to: number): number[] {
  const power = 10 ** Math.floor(Math.log10((to - from) / 4));
  // The tolerance keeps 0.6, whose quotient by 0.2 is just below 3.
  const multiples = (step: number) => [Math.ceil(from / step - 1e-9), Math.floor(to / step + 1e-9)] as const;
  const step = [5 * power, 2 * power].find((n) => multiples(n)[1] - multiples(n)[0] >= 3) ?? power;
  const [first, last] = multiples(step);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}
