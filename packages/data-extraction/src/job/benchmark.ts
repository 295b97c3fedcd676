import { readFile } from 'node:fs/promises';
import { comparable } from '../pages/text';
import { examineImage, hashDistance, sniffFormat, type ImageInfo } from '../images/image-info';
import { filesBelow } from './sources';

/** Texts and images that models are evaluated on, and must not be trained on. */
export interface BenchmarkData {
  readonly texts: readonly string[];
  /** Perceptual hashes of the images. */
  readonly imageHashes: readonly string[];
}

/** Shorter texts occur everywhere, so a match would mean nothing. */
const MIN_WORDS = 8;
/** GPT-3 (Brown et al., 2020), appendix C, treats 13 consecutive words as a copy. */
const MAX_WORDS = 13;
/** Of 64 bits. Scaling and recompression change fewer. */
const MAX_DISTANCE = 4;

/**
 * Reads a folder of benchmark data: every image, every line of `.txt`, every string in `.json` and `.jsonl`.
 *
 * @throws Error naming a `.json` or `.jsonl` file that is not valid JSON
 */
export async function readBenchmark(folder: string): Promise<BenchmarkData> {
  const texts = new Set<string>();
  const imageHashes = new Set<string>();
  const any = {
    formats: ['jpeg', 'png', 'webp', 'gif', 'avif'],
    minSide: 1,
    maxSide: 20_000,
    maxRatio: Infinity,
    urlWords: [],
  } as const;
  const addText = (text: string) => {
    const words = comparable(text).split(' ');
    for (let i = 0; i === 0 || i + MAX_WORDS <= words.length; i++) {
      const run = words.slice(i, i + MAX_WORDS);
      if (run.length >= MIN_WORDS) texts.add(run.join(' '));
    }
  };
  const addStrings = (value: unknown): void => {
    if (typeof value === 'string') addText(value);
    else if (typeof value === 'object' && value !== null) Object.values(value).forEach(addStrings);
  };
  for await (const file of filesBelow(folder)) {
    const bytes = await readFile(file);
    if (sniffFormat(bytes)) {
      const info: ImageInfo | string = await examineImage(bytes, any);
      if (typeof info !== 'string') imageHashes.add(info.perceptualHash);
    } else if (/\.txt$/i.test(file)) bytes.toString('utf8').split('\n').forEach(addText);
    else if (/\.jsonl?$/i.test(file)) {
      const text = bytes.toString('utf8');
      const documents = /\.jsonl$/i.test(file) ? text.split('\n').filter((line) => line.trim() !== '') : [text];
      documents.forEach((document, i) => {
        try {
          addStrings(JSON.parse(document));
        } catch (error) {
          throw new Error(`Benchmark ${file}, line ${i + 1}: expected JSON, got ${document.slice(0, 60)}.`, {
            cause: error,
          });
        }
      });
    }
  }
  if (texts.size + imageHashes.size === 0) {
    throw new Error(
      `Benchmark ${folder}: expected images, .txt, .json or .jsonl files, found none with an image or a text of ${MIN_WORDS} words.`,
    );
  }
  return { texts: [...texts].sort(), imageHashes: [...imageHashes].sort() };
}

/** Finds benchmark data on pages. */
export class Decontamination {
  /** Maps the first words of each text to what may follow them. */
  private readonly endings = new Map<string, string[]>();

  constructor(private readonly data: BenchmarkData) {
    for (const text of data.texts) {
      const words = text.split(' ');
      const start = words.slice(0, MIN_WORDS).join(' ');
      const ending = words.slice(MIN_WORDS).join(' ');
      const endings = this.endings.get(start);
      if (endings) endings.push(ending);
      else this.endings.set(start, [ending]);
    }
  }

  /** Whether the text contains a benchmark text, or 13 consecutive words of one. */
  hasText(text: string): boolean {
    if (this.endings.size === 0) return false;
    const words = comparable(text).split(' ');
    for (let i = 0; i + MIN_WORDS <= words.length; i++) {
      const endings = this.endings.get(words.slice(i, i + MIN_WORDS).join(' '));
      if (!endings) continue;
      const rest = `${words.slice(i + MIN_WORDS, i + MAX_WORDS).join(' ')} `;
      if (endings.some((ending) => ending === '' || rest.startsWith(`${ending} `))) return true;
    }
    return false;
  }

  hasImage(perceptualHash: string): boolean {
    return this.data.imageHashes.some((other) => hashDistance(perceptualHash, other) <= MAX_DISTANCE);
  }
}
