/** One line of a chart: points in data units. */
export interface Series {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
  readonly dashed?: boolean;
}

/** Colours that stay apart for readers who do not see all of them. */
const INK = ['#0b6e99', '#d9730d', '#0f7b6c', '#ad1a72', '#6940a5', '#8a6d3b'];

export interface ChartOptions {
  readonly title: string;
  readonly x: string;
  readonly y: string;
  readonly yMin?: number;
  readonly yMax?: number;
  /** Marks on the x axis; by default five even ones. */
  readonly xTicks?: readonly number[];
}

/** A line chart as an SVG string. */
export function lineChart(series: readonly Series[], options: ChartOptions): string {
  const [w, h, left, right, top, bottom] = [460, 270, 48, 12, 30, 44];
  const xs = series.flatMap((s) => s.points.map((p) => p[0]));
  const ys = series.flatMap((s) => s.points.map((p) => p[1]));
  const x0 = Math.min(...xs);
  const x1 = Math.max(...xs, x0 + 1e-9);
  const y0 = options.yMin ?? Math.min(...ys);
  const y1 = Math.max(options.yMax ?? Math.max(...ys), y0 + 1e-9);
  const px = (x: number) => left + ((x - x0) / (x1 - x0)) * (w - left - right);
  const py = (y: number) => h - bottom - ((Math.min(y, y1) - y0) / (y1 - y0)) * (h - top - bottom);
  const even = (a: number, b: number) => Array.from({ length: 5 }, (_, i) => a + ((b - a) * i) / 4);
  const label = (v: number) => (Math.abs(v) >= 100 ? v.toFixed(0) : String(+v.toPrecision(2)));

  const parts = [
    `<svg viewBox="0 0 ${w} ${h}" role="img" aria-label="${escapeHtml(options.title)}">`,
    `<text x="${left}" y="16" class="chart-title">${escapeHtml(options.title)}</text>`,
  ];
  for (const y of even(y0, y1)) {
    parts.push(`<line class="grid" x1="${left}" x2="${w - right}" y1="${py(y)}" y2="${py(y)}"/>`);
    parts.push(`<text class="tick" x="${left - 6}" y="${py(y) + 4}" text-anchor="end">${label(y)}</text>`);
  }
  for (const x of options.xTicks ?? even(x0, x1)) {
    parts.push(`<text class="tick" x="${px(x)}" y="${h - bottom + 16}" text-anchor="middle">${label(x)}</text>`);
  }
  parts.push(
    `<text class="axis" x="${(left + w - right) / 2}" y="${h - 8}" text-anchor="middle">${escapeHtml(options.x)}</text>`,
  );
  parts.push(
    `<text class="axis" transform="translate(12 ${(top + h - bottom) / 2}) rotate(-90)" text-anchor="middle">${escapeHtml(options.y)}</text>`,
  );
  series.forEach((s, i) => {
    const points = s.points.map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(' ');
    const dash = s.dashed ? ' stroke-dasharray="5 4"' : '';
    parts.push(`<polyline fill="none" stroke="${INK[i % INK.length]}" stroke-width="2"${dash} points="${points}"/>`);
  });
  parts.push('</svg>');
  const legend = series
    .map((s, i) => `<span><i style="background:${INK[i % INK.length]}"></i>${escapeHtml(s.name)}</span>`)
    .join('');
  return `<figure>${parts.join('')}<figcaption>${legend}</figcaption></figure>`;
}

/** A table; the first row is the head, cells are text. */
export function table(rows: readonly (readonly (string | number)[])[], caption?: string): string {
  const [head, ...body] = rows;
  const cells = (row: readonly (string | number)[], tag: string) =>
    row.map((c) => `<${tag}>${escapeHtml(String(c))}</${tag}>`).join('');
  return (
    `<table>${caption ? `<caption>${escapeHtml(caption)}</caption>` : ''}<thead><tr>${cells(head ?? [], 'th')}</tr></thead>` +
    `<tbody>${body.map((row) => `<tr>${cells(row, 'td')}</tr>`).join('')}</tbody></table>`
  );
}

/** One image of a prompt as shown to a reader. */
export interface ShownImage {
  /** data: URI */
  readonly src: string;
  readonly text: string;
}

/** A prompt with its images, the answer that came and the right one. */
export interface ShownPrompt {
  readonly title: string;
  readonly examples: readonly ShownImage[];
  readonly query: string;
  readonly answer: string;
  readonly truth: string;
}

/** Prompts as rows of images with what the model said. */
export function promptGallery(prompts: readonly ShownPrompt[]): string {
  const card = (src: string, text: string, kind: string) =>
    `<div class="card ${kind}"><img src="${src}" alt=""><span>${escapeHtml(text)}</span></div>`;
  return prompts
    .map((p) => {
      const right = p.answer === p.truth;
      const said = right ? p.answer : `${p.answer} (right: ${p.truth})`;
      const cards = p.examples.map((e) => card(e.src, e.text, 'example')).join('');
      return `<div class="prompt"><h4>${escapeHtml(p.title)}</h4><div class="row">${cards}${card(p.query, said, right ? 'right' : 'wrong')}</div></div>`;
    })
    .join('');
}

/** A page that needs nothing but itself. */
export function page(title: string, sections: readonly string[]): string {
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title)}</title>
<style>
body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:1000px;margin:0 auto;padding:1.5rem}
h1{margin:.2em 0}h2{margin:2em 0 .4em;border-bottom:1px solid #ddd}h4{margin:.6em 0 .2em;font-weight:600}
table{border-collapse:collapse;margin:1em 0;font-variant-numeric:tabular-nums}
th,td{padding:.25em .8em;border-bottom:1px solid #e5e5e5;text-align:right}th:first-child,td:first-child{text-align:left}
caption{text-align:left;color:#555;padding-bottom:.3em}
figure{margin:0}.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(400px,1fr));gap:1rem}
figcaption{font-size:.85rem}figcaption span{margin-right:1em;white-space:nowrap}figcaption i{display:inline-block;width:.9em;height:.25em;margin:0 .4em .2em 0}
svg{width:100%;height:auto}.grid{stroke:#e8e8e8}.tick{font-size:11px;fill:#666}.axis{font-size:12px;fill:#444}.chart-title{font-size:13px;font-weight:600}
.row{display:flex;flex-wrap:wrap;gap:.6rem}.card{width:96px;text-align:center;font-size:.85rem;border:2px solid #ddd;border-radius:6px;padding:4px;background:#fff}
.card img{width:84px;height:84px;image-rendering:auto;display:block;margin:0 auto 2px}.card.right{border-color:#0f7b6c}.card.wrong{border-color:#c0392b}
.goals td:last-child{font-weight:600}.note{color:#555;font-size:.92rem}
</style></head><body>
${sections.join('\n')}
</body></html>
`;
}

export function escapeHtml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}
