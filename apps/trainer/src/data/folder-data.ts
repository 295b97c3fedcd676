import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { evenlySpaced, ImageDecoder, type Document, type DocumentSource } from '@flamingo-ts/data-mixtures';
import type { Random } from '@flamingo-ts/kernels';
import { z } from 'zod';
import { OWN_PADDING } from './data-kinds';
import { ownQuestions } from './questions';
import {
  BLANK,
  datasetNames,
  textInTurn,
  type DatasetName,
  type Frames,
  type MediaKey,
  type QuestionOptions,
  type Questions,
  type TrainingData,
} from './training-data';

const pair = z.strictObject({ image: z.string().min(1), text: z.string().min(1) });
const clip = z.strictObject({ frames: z.array(z.string().min(1)).min(1), text: z.string().min(1) });
/** As `flamingo data extract` writes them: where a page comes from, and what stands beside its images, is not trained on. */
const pageImage = z.strictObject({
  image: z.string().min(1),
  alt: z.string().optional(),
  caption: z.string().optional(),
});
const page = z.strictObject({
  url: z.string().optional(),
  title: z.string().optional(),
  parts: z.array(z.union([z.strictObject({ text: z.string() }), pageImage])).min(1),
});
const question = z.strictObject({ image: z.string().min(1), answer: z.string().min(1) });
export type Question = z.infer<typeof question>;

/** What a line of each file must look like. */
const LINES = { pages: page, pairs: pair, descriptions: pair, clips: clip, eval: question } as const;

/**
 * A folder of one's own: any of `pages.jsonl`, `pairs.jsonl`, `descriptions.jsonl`, `clips.jsonl` for training and
 * `eval.jsonl` for few-shot questions, with images named relative to the folder. Images are decoded by workers;
 * unreadable ones are counted, named and skipped. Of a clip with more frames than a model takes some are chosen, evenly
 * spread; of one with fewer the last is repeated.
 */
export class FolderData implements TrainingData {
  private readonly decoder: ImageDecoder;
  private readonly documentsOf: Readonly<Partial<Record<DatasetName, readonly Document[]>>>;
  private readonly images: readonly { readonly key: string; readonly words: readonly string[] }[];
  private readonly texts: readonly string[];
  /** Files that could not be read, and why. */
  private readonly unreadable = new Map<string, string>();

  private constructor(
    readonly folder: string,
    readonly imageSize: number,
    documents: Partial<Record<DatasetName, readonly Document[]>>,
    /** Few-shot questions; empty without an eval.jsonl. */
    private readonly lines: readonly Question[],
  ) {
    this.documentsOf = documents;
    const all = Object.values(documents).flat();
    this.texts = all.map((d) =>
      d.parts
        .map((p) => ('text' in p ? p.text : '\n'))
        .join('')
        .trim(),
    );
    this.images = all.flatMap((d) => (d.kind === 'pair' ? [captioned(d)] : []));
    this.decoder = new ImageDecoder({ size: imageSize, fit: 'pad', mean: OWN_PADDING, std: [1, 1, 1] });
  }

  /**
   * @param imageSize     side of the square that images are fitted into
   * @param framesPerClip frames that every clip has afterwards
   * @throws Error naming the first bad line, what it must look like and what is there
   */
  static open(folder: string, imageSize: number, framesPerClip: number): FolderData {
    if (!existsSync(folder)) {
      throw new Error(`Data folder ${folder}: there is no such folder. Correct data.path in the configuration.`);
    }
    const documents: Partial<Record<DatasetName, readonly Document[]>> = {};
    for (const name of datasetNames) {
      const lines = readLines(folder, name);
      if (lines.length > 0) documents[name] = lines.map((line) => documentOf(name, line, framesPerClip));
    }
    const data = new FolderData(folder, imageSize, documents, readLines(folder, 'eval'));
    if (data.texts.every((text) => text === '')) {
      throw new Error(
        `Data folder ${folder}: expected text in ${datasetNames.map((name) => `${name}.jsonl`).join(', ')}, got none. ` +
          'Write one line for each document, for example in pages.jsonl: {"parts": [{"text": "Some text."}]}.',
      );
    }
    return data;
  }

  get skipped(): readonly string[] {
    return Array.from(this.unreadable, ([file, reason]) => `${file}: ${reason}`);
  }

  altTextVocabulary(): readonly string[] {
    if (this.images.length === 0) {
      throw new Error(
        `Data folder ${this.folder}: expected pairs.jsonl or descriptions.jsonl (the vision encoder learns from pairs), ` +
          'got neither. Write one line for each image: {"image": "images/1.jpg", "text": "a red car"}.',
      );
    }
    return [...new Set(this.images.flatMap((p) => p.words))].sort();
  }

  altTextPair(random: Random) {
    return this.images[random.int(this.images.length)]!;
  }

  textPage(random: Random): string {
    return this.texts[random.int(this.texts.length)]!;
  }

  textAt(place: number, seed: number): Promise<string> {
    return Promise.resolve(this.texts[textInTurn(place, this.texts.length, seed)]!);
  }

  documents(dataset: DatasetName): DocumentSource | undefined {
    const documents = this.documentsOf[dataset];
    return documents && { length: documents.length, get: (i) => documents[i]! };
  }

  trainingImage(random: Random): MediaKey {
    return this.altTextPair(random).key;
  }

  async questions(options: QuestionOptions): Promise<Questions> {
    const file = join(this.folder, 'eval.jsonl');
    if (options.split !== undefined)
      throw new Error(`eval: this data has no split ${options.split}. Leave --split out.`);
    if (this.lines.length === 0) {
      throw new Error(
        `${file}: expected few-shot questions, got none. ` +
          'Write one line for each: {"image": "images/1.jpg", "answer": "red"}.',
      );
    }
    const readable = await this.frames(this.lines.map(({ image }) => image));
    return ownQuestions(
      file,
      this.lines.filter((_, i) => readable[i]),
      options,
    );
  }

  async frames(keys: readonly MediaKey[]): Promise<(Frames | undefined)[]> {
    return Promise.all(
      keys.map(async (key) => {
        if (key === BLANK) return new Uint8Array(this.imageSize ** 2 * 3).fill(128);
        const files = String(key).split('\n');
        const decoded = await Promise.all(files.map((file) => this.decode(file)));
        if (decoded.includes(undefined)) return undefined;
        return decoded.length === 1 ? decoded[0] : Buffer.concat(decoded as Uint8Array[]);
      }),
    );
  }

  /** A file that failed once is not tried again: stages draw the same images over and over. */
  private async decode(file: string): Promise<Uint8Array | undefined> {
    if (this.unreadable.has(file)) return undefined;
    const pixels = await this.decoder.decodeBytes(join(this.folder, file), file);
    if (!pixels) {
      const failure = this.decoder.report().failures.find((f) => f.name === file);
      this.unreadable.set(file, failure?.reason ?? 'cannot be decoded');
    }
    return pixels;
  }

  /** Lines are in memory, so images are with the workers as soon as they are asked for. */
  settled(): Promise<void> {
    return Promise.resolve();
  }

  close(): Promise<void> {
    return this.decoder.close();
  }
}

function readLines<K extends keyof typeof LINES>(folder: string, name: K): z.infer<(typeof LINES)[K]>[] {
  const file = join(folder, `${name}.jsonl`);
  if (!existsSync(file)) return [];
  return readFileSync(file, 'utf8')
    .split('\n')
    .flatMap((line, i) => {
      if (line.trim() === '') return [];
      const where = `${file}, line ${i + 1}`;
      let value: unknown;
      try {
        value = JSON.parse(line);
      } catch (error) {
        throw new Error(`${where}: expected JSON, got ${line.slice(0, 60)} (${(error as Error).message}).`, {
          cause: error,
        });
      }
      const result = LINES[name].safeParse(value);
      if (result.success) return [result.data as z.infer<(typeof LINES)[K]>];
      const problems = result.error.issues.map((issue) => `${issue.path.join('.') || 'the line'}: ${issue.message}`);
      throw new Error(`${where}: ${problems.join('; ')}, got ${line.slice(0, 120)}. Correct the line.`);
    });
}

function documentOf(name: DatasetName, line: object, framesPerClip: number): Document {
  if (name === 'pages') {
    const { parts } = line as z.infer<typeof page>;
    return { kind: 'page', parts: parts.map((p) => ('image' in p ? { media: { key: p.image } } : p)) };
  }
  if (name === 'clips') {
    const { frames, text } = line as z.infer<typeof clip>;
    const chosen = evenlySpaced(frames.length, framesPerClip).map((i) => frames[i]!);
    while (chosen.length < framesPerClip) chosen.push(chosen.at(-1)!);
    return { kind: 'clip', parts: [{ media: { key: chosen.join('\n') } }, { text }] };
  }
  const { image, text } = line as z.infer<typeof pair>;
  return { kind: 'pair', parts: [{ media: { key: image } }, { text }] };
}

function captioned(document: Document): { key: string; words: string[] } {
  const [media, text] = document.parts as unknown as [{ media: { key: string } }, { text: string }];
  return { key: media.media.key, words: text.text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [] };
}
