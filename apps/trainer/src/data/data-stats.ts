import { openDataset, type OpenDatasetOptions } from '@flamingo-ts/data-mixtures';
import sharp from 'sharp';
import { barCharts } from '../report/charts';
import {
  counted,
  droppedBefore,
  imagesOf,
  indices,
  Tally,
  textsOf,
  usableDocuments,
  type DataCounts,
} from './data-check';
import type { ReadableTokenizer } from './word-tokenizer';

/** Counts of one measure over all documents or images. */
export interface Distribution {
  readonly title: string;
  readonly bars: readonly { readonly label: string; readonly count: number }[];
  readonly mean?: number;
  readonly median?: number;
}

/** Result of `flamingo data stats`. Its counts are those of `flamingo data check`. */
export interface DataStats extends DataCounts {
  readonly path: string;
  readonly tokens: number;
  readonly distributions: readonly Distribution[];
}

/**
 * Measures documents and images that training can use.
 *
 * @param limit number of documents to read, from the first
 */
export async function measureData(
  path: string,
  { name, tokenizer }: ReadableTokenizer,
  { limit, ...options }: OpenDatasetOptions & { readonly limit: number },
): Promise<DataStats> {
  const dataset = await openDataset(path, options);
  const tally = new Tally();
  const imageCounts: number[] = [];
  const tokens: number[] = [];
  const sides: number[] = [];
  for await (const document of usableDocuments(dataset, indices(Math.min(limit, dataset.length)), tally)) {
    tally.add(document);
    const images = imagesOf(document);
    imageCounts.push(images.length);
    tokens.push(sum(textsOf(document).map((text) => tokenizer.encode(text).length)));
    for (const { image } of images) {
      const { width, height } = await sharp(image).metadata();
      sides.push(Math.min(width, height));
    }
  }
  tally.dropAll(await droppedBefore(path));
  return {
    path,
    ...tally.counts,
    tokens: sum(tokens),
    distributions: [
      distribution('Images per document', imageCounts, [0, 1, 2, 3, 4, 5, 6, 8, 12, 20, 50]),
      distribution(`Tokens per document (${name})`, tokens, powersOfTwo(0, 14)),
      distribution('Shorter side of the images, pixels', sides, powersOfTwo(4, 13)),
      {
        title: 'Dropped, by reason',
        bars: Object.entries(tally.dropped)
          .map(([label, count]) => ({ label, count }))
          .sort((a, b) => b.count - a.count),
      },
    ],
  };
}

const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);

const powersOfTwo = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => 2 ** (from + i));

/** @param edges start of each bar. The first bar includes smaller values, the last all larger ones */
function distribution(title: string, values: readonly number[], edges: readonly number[]): Distribution {
  if (values.length === 0) return { title, bars: [] };
  const counts = new Array<number>(edges.length).fill(0);
  for (const value of values) {
    const bar = edges.findLastIndex((edge) => edge <= value);
    counts[Math.max(0, bar)]!++;
  }
  const last = counts.findLastIndex((count) => count > 0);
  const bars = edges.slice(0, last + 1).map((edge, i) => {
    const next = edges[i + 1];
    const label = next === undefined ? `${edge}–` : next - edge === 1 ? `${edge}` : `${edge}–${next - 1}`;
    return { label, count: counts[i]! };
  });
  const first = bars.findIndex((bar) => bar.count > 0);
  const sorted = [...values].sort((a, b) => a - b);
  return {
    title,
    bars: bars.slice(first),
    mean: sum(values) / values.length,
    median: sorted[Math.floor(sorted.length / 2)]!,
  };
}

/** All distributions as one SVG image. */
export function statsSvg({ path, documents, images, tokens, distributions }: DataStats): string {
  const title = path.split('/').slice(-2).join('/');
  const totals = [counted(documents, 'document'), counted(images, 'image'), counted(tokens, 'token')].join(', ');
  const charts = distributions.map(({ title, bars, mean, median }) => ({
    title,
    bars,
    ...(mean !== undefined && { note: `mean ${+mean.toPrecision(3)}, median ${median}` }),
  }));
  return barCharts(title, totals, charts);
}
