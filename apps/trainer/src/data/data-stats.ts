import { openDataset, type OpenDatasetOptions } from '@flamingo-ts/data-mixtures';
import sharp from 'sharp';
import { droppedBefore, imagesOf } from './data-check';
import { escapeHtml } from '../report/html-page';
import type { ReadableTokenizer } from './word-tokenizer';

const MAX_PIXELS = 2 ** 26;

/** Counts of one measure over all documents or images. */
export interface Distribution {
  readonly title: string;
  readonly bars: readonly { readonly label: string; readonly count: number }[];
  readonly mean?: number;
  readonly median?: number;
}

/** What `flamingo data stats` measured. */
export interface DataStats {
  readonly path: string;
  readonly documents: number;
  readonly images: number;
  readonly tokens: number;
  readonly distributions: readonly Distribution[];
}

/** Reads the documents of a data set, of images no more than their headers. */
export async function measureData(
  path: string,
  { name, tokenizer }: ReadableTokenizer,
  { limit, ...options }: OpenDatasetOptions & { readonly limit: number },
): Promise<DataStats> {
  const dataset = await openDataset(path, options);
  const imageCounts: number[] = [];
  const tokens: number[] = [];
  const sides: number[] = [];
  let unreadable = 0;
  for (let i = 0; i < Math.min(limit, dataset.length); i++) {
    const document = await dataset.get(i);
    if ('rejected' in document) continue;
    const images = imagesOf(document);
    imageCounts.push(images.length);
    tokens.push(document.parts.reduce((n, part) => n + ('text' in part ? tokenizer.encode(part.text).length : 0), 0));
    for (const { image } of images) {
      try {
        const { width, height } = await sharp(image, { limitInputPixels: MAX_PIXELS }).metadata();
        sides.push(Math.min(width, height));
      } catch {
        unreadable++;
      }
    }
  }
  const dropped: Record<string, number> = { ...(await droppedBefore(path)) };
  const broken = { ...dataset.faults.counts, ...(unreadable > 0 && { 'unreadable image': unreadable }) };
  for (const [reason, count] of Object.entries(broken)) dropped[reason] = (dropped[reason] ?? 0) + count;
  const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
  return {
    path,
    documents: imageCounts.length,
    images: sum(imageCounts),
    tokens: sum(tokens),
    distributions: [
      distribution('Images per document', imageCounts, [0, 1, 2, 3, 4, 5, 6, 8, 12, 20, 50]),
      distribution(`Tokens per document (${name})`, tokens, powersOfTwo(0, 14)),
      distribution('Shorter side of the images, pixels', sides, powersOfTwo(4, 13)),
      {
        title: 'Left out, by reason',
        bars: Object.entries(dropped)
          .map(([label, count]) => ({ label, count }))
          .sort((a, b) => b.count - a.count),
      },
    ],
  };
}

const powersOfTwo = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => 2 ** (from + i));

/** @param edges where each bar begins; the first also takes what is below, the last what is above */
export function distribution(title: string, values: readonly number[], edges: readonly number[]): Distribution {
  const counts = new Array<number>(edges.length).fill(0);
  for (const value of values)
    counts[
      Math.max(
        0,
        edges.findLastIndex((edge) => edge <= value),
      )
    ]!++;
  const last = counts.findLastIndex((count) => count > 0);
  const bars = edges.slice(0, last + 1).map((edge, i) => {
    const next = edges[i + 1];
    const label = next === undefined ? `${edge}–` : next - edge === 1 ? `${edge}` : `${edge}–${next - 1}`;
    return { label, count: counts[i]! };
  });
  const first = bars.findIndex((bar) => bar.count > 0);
  const sorted = [...values].sort((a, b) => a - b);
  if (sorted.length === 0) return { title, bars: [] };
  return {
    title,
    bars: bars.slice(first),
    mean: values.reduce((a, b) => a + b, 0) / values.length,
    median: sorted[Math.floor(sorted.length / 2)]!,
  };
}

const PANEL = { width: 560, bar: 18, label: 230, top: 46, gap: 24 };

/** All distributions in one image. */
export function statsSvg(stats: DataStats): string {
  const { width, bar, label, top, gap } = PANEL;
  let y = 58;
  const panels = stats.distributions.map(({ title, bars, mean, median }) => {
    const most = Math.max(1, ...bars.map((b) => b.count));
    const facts = mean === undefined ? '' : `mean ${+mean.toPrecision(3)}, median ${median}`;
    const rows = bars.map(({ label: name, count }, i) => {
      const at = top + i * bar;
      const long = (count / most) * (width - label - 70);
      const short = name.length > 30 ? `${name.slice(0, 29)}…` : name;
      return (
        `<text x="${label - 8}" y="${at + 13}" text-anchor="end">${escapeHtml(short)}</text>` +
        `<rect x="${label}" y="${at + 3}" width="${long.toFixed(1)}" height="${bar - 5}" fill="#0b6e99"/>` +
        `<text x="${(label + long + 6).toFixed(1)}" y="${at + 13}">${count}</text>`
      );
    });
    const none = bars.length === 0 ? `<text x="12" y="${top + 13}" fill="#666">none</text>` : '';
    const panel =
      `<g transform="translate(0 ${y})"><text x="12" y="16" font-weight="600">${escapeHtml(title)}</text>` +
      `<text x="12" y="33" fill="#666">${facts}</text>${rows.join('')}${none}</g>`;
    y += top + Math.max(1, bars.length) * bar + gap;
    return panel;
  });
  const head = `${stats.documents} documents, ${stats.images} images, ${stats.tokens} tokens`;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${y}" width="${width}" height="${y}" font-family="system-ui,sans-serif" font-size="12" fill="#222">
<rect width="100%" height="100%" fill="#fff"/>
<text x="12" y="24" font-size="14" font-weight="600">${escapeHtml(stats.path.split('/').slice(-2).join('/'))}</text><text x="12" y="42" fill="#666">${head}</text>
${panels.join('\n')}
</svg>
`;
}
