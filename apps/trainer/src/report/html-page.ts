/** Forbids scripts and network access, whatever the page contains: images are data URIs, and styles are inline. */
const POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";

const STYLE = `
body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:1000px;margin:0 auto;padding:1.5rem}
h1{font-size:1.6rem;margin:.2em 0;overflow-wrap:anywhere}h2{font-size:1.25rem;margin:1.8em 0 .4em;border-bottom:1px solid #ddd}
h3{font-size:1rem;margin:.8em 0 .2em}
table{border-collapse:collapse;margin:1em 0;font-variant-numeric:tabular-nums}
th,td{padding:.25em .8em;border-bottom:1px solid #e5e5e5;text-align:right}th:first-child,td:first-child{text-align:left}
caption{text-align:left;color:#555;padding-bottom:.3em}
.note{color:#555;font-size:.92rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(400px,1fr));gap:1rem}
.chart{margin:0}.chart svg{width:100%;height:auto;font-family:inherit}
.chart figcaption{font-size:.85rem}.chart figcaption span{margin-right:1em;white-space:nowrap}
.chart i{display:inline-block;width:1.4em;border-top:2px solid;margin:0 .4em .25em 0}
`;

export interface HtmlPage {
  readonly title: string;
  /** HTML of the body. */
  readonly body: readonly string[];
  /** CSS rules of this page, after those that all pages share. */
  readonly style?: string;
}

/** A self-contained HTML page that loads nothing from the network and runs no scripts. */
export function htmlPage({ title, body, style = '' }: HtmlPage): string {
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${POLICY}">
<title>${escapeHtml(title)}</title>
<style>${STYLE}${style}</style></head><body>
${body.join('\n')}
</body></html>
`;
}

export interface TableOptions {
  readonly caption?: string;
  readonly className?: string;
}

/** An HTML table. The first row is the header; cells are plain text. */
export function table(
  rows: readonly (readonly (string | number)[])[],
  { caption, className }: TableOptions = {},
): string {
  const [head = [], ...body] = rows;
  const row = (cells: readonly (string | number)[], tag: string) =>
    `<tr>${cells.map((cell) => `<${tag}>${escapeHtml(String(cell))}</${tag}>`).join('')}</tr>`;
  return (
    `<table${className ? ` class="${className}"` : ''}>${caption ? `<caption>${escapeHtml(caption)}</caption>` : ''}` +
    `<thead>${row(head, 'th')}</thead><tbody>${body.map((cells) => row(cells, 'td')).join('')}</tbody></table>`
  );
}

/** Text as HTML or SVG, also inside double-quoted attributes. */
export function escapeHtml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}
