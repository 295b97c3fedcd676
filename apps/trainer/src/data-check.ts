import {
  buildSample,
  Faults,
  ImageDecoder,
  mediaName,
  openDataset,
  readManifest,
  seededStream,
  verifyShards,
  type Document,
  type Fault,
  type OpenDatasetOptions,
} from '@flamingo-ts/data-mixtures';
import { wordTokenizer } from './word-tokenizer';

/** Documents whose pictures are decoded at a time. */
const AT_ONCE = 16;
/** Pictures are decoded whole, whatever size comes out. */
const SIDE = 16;
const SHOWN = 10;

/** What `flamingo data check` found. */
export interface DataCheck {
  readonly path: string;
  readonly format: string;
  readonly documents: number;
  /** By kind: pages, pairs, clips. */
  readonly kinds: Readonly<Record<string, number>>;
  readonly pictures: number;
  /** How often each problem came. */
  readonly counts: Readonly<Record<string, number>>;
  /** The first hundred, in the order of the files. */
  readonly problems: readonly Fault[];
}

/** Reads all documents of a data set and decodes their pictures, as training would. */
export async function checkData(path: string, options: OpenDatasetOptions = {}): Promise<DataCheck> {
  const dataset = await openDataset(path, options);
  const problems = new Faults();
  const manifest = dataset.format === 'shards' && !path.endsWith('.tar') ? await readManifest(path) : undefined;
  for (const problem of manifest ? await verifyShards(path, manifest) : []) problems.add('shard differs', problem);

  const decoder = new ImageDecoder({ size: SIDE, fit: 'pad', mean: [0, 0, 0], std: [1, 1, 1] });
  const { tokenizer } = wordTokenizer();
  const kinds: Record<string, number> = {};
  let pictures = 0;
  try {
    for (let start = 0; start < dataset.length; start += AT_ONCE) {
      const found: Faults[] = [];
      const decoding: Promise<void>[] = [];
      for (let i = start; i < Math.min(start + AT_ONCE, dataset.length); i++) {
        const before = dataset.faults.examples.length;
        const document = await dataset.get(i);
        const own = new Faults();
        for (const fault of dataset.faults.examples.slice(before)) own.add(fault.reason, fault.where, fault.detail);
        found.push(own);
        if ('rejected' in document) continue;
        kinds[document.kind] = (kinds[document.kind] ?? 0) + 1;
        const sample = buildSample(document, tokenizer, { maxTokens: 256 }, seededStream(i));
        if ('rejected' in sample) own.add('gives no sample', dataset.where(i), sample.rejected);
        for (const { image, name } of picturesOf(document)) {
          pictures++;
          const label = `${dataset.where(i)}, ${name}`;
          decoding.push(
            decoder.decodeBytes(image, label).then((pixels) => {
              const reason = () => decoder.report().failures.find((f) => f.name === label)?.reason;
              if (!pixels) own.add('unreadable picture', dataset.where(i), `${name}: ${reason() ?? ''}`);
            }),
          );
        }
      }
      await Promise.all(decoding);
      for (const own of found)
        for (const { reason, where, detail } of own.examples) problems.add(reason, where, detail);
    }
  } finally {
    await decoder.close();
  }
  // A data set keeps a hundred examples, and counts the rest too.
  const counts = { ...problems.counts };
  for (const [reason, count] of Object.entries(dataset.faults.counts))
    counts[reason] = Math.max(counts[reason] ?? 0, count);
  const { format, length: documents } = dataset;
  return { path, format, documents, kinds, pictures, counts, problems: problems.examples };
}

/** The pictures of a document, the frames of its clips among them. */
export function picturesOf(document: Document) {
  return document.parts.flatMap((part) => {
    if (!('media' in part) || 'key' in part.media) return [];
    const { media } = part;
    const name = mediaName(media);
    if ('image' in media) return [{ image: media.image, name }];
    return media.frames.map((image, i) => ({ image, name: `${name}, frame ${i}` }));
  });
}

/** For people: the first bad place first. */
export function formatCheck({ path, format, documents, kinds, pictures, counts, problems }: DataCheck): string {
  const parts = Object.entries(kinds).map(([kind, count]) => `${count} ${kind}${count === 1 ? '' : 's'}`);
  const head = `${path} (${format}): ${documents} documents (${parts.join(', ') || 'none readable'}), ${pictures} pictures.`;
  const total = Object.values(counts).reduce((a, b) => a + b, 0);
  if (total === 0) return `${head} No problems.`;
  const lines = problems
    .slice(0, SHOWN)
    .map(({ where, reason, detail }) => `  ${where}: ${reason}${detail ? ` (${detail})` : ''}`);
  const sums = Object.entries(counts).map(([reason, count]) => `${reason} ${count}`);
  return [head, `${total} ${total === 1 ? 'problem' : 'problems'}: ${sums.join(', ')}. The first:`, ...lines].join(
    '\n',
  );
}
