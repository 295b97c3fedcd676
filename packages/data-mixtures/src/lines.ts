import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import type { Dataset } from './dataset';
import type { BrokenDocument, Document, MediaPart, TextPart } from './document';
import { Faults, summarize } from './faults';
import { isInside, readBytes } from './tar';
import { decodeUtf8, jsonProblem } from './text';
import { MissingFfmpeg, videoFrames } from './video';

/** A page may embed its images as base64, so lines can be long. */
const MAX_LINE_BYTES = 2 ** 28;
const LINE_FEED = 10;
const WHITESPACE = [9, 13, 32];
const BYTE_ORDER_MARK = Buffer.of(0xef, 0xbb, 0xbf);

const file = z.string().min(1);
const text = z.string().min(1);
/** The schema of every line that this package reads. Unknown keys are errors, except in MMC4's published files. */
const LINES = {
  /** `url`, `title`, `alt` and `caption` are metadata, as `flamingo data extract` writes them. They are not trained on. */
  page: z.strictObject({
    url: z.string().optional(),
    title: z.string().optional(),
    parts: z
      .array(
        z.union([
          z.strictObject({ text: z.string(), learn: z.boolean().optional() }),
          z.strictObject({ image: file, alt: z.string().optional(), caption: z.string().optional() }),
        ]),
      )
      .min(1),
  }),
  pair: z.strictObject({ image: file, text }),
  clip: z.strictObject({ frames: z.array(file).min(1), text }),
  video: z.strictObject({ video: file, text }),
  question: z.strictObject({ image: file, answer: text }),
  mmc4: z
    .object({
      text_list: z.array(z.string()).min(1),
      image_info: z.array(
        z.object({
          image_name: file.nullish(),
          matched_text_index: z.number().int().min(0),
          matched_sim: z.number().optional(),
          /** OpenFlamingo's conversion embeds the images. */
          image_base64: z.string().nullish(),
        }),
      ),
      url: z.string().optional(),
    })
    .superRefine(({ text_list: sentences, image_info: images }, context) => {
      images.forEach(({ matched_text_index: index }, i) => {
        if (index < sentences.length) return;
        const message = `expected a number below ${sentences.length}, the number of sentences, got ${index}`;
        context.addIssue({ code: 'custom', path: ['image_info', i, 'matched_text_index'], message });
      });
    }),
} as const;

type Line = z.infer<(typeof LINES)[keyof typeof LINES]>;

/**
 * Documents of a JSONL file, one per line: `{parts}`, `{image, text}`, `{frames, text}`, `{video, text}`, MMC4's
 * `{text_list, image_info}`, or `{image, answer}` (a question of `eval.jsonl`). Memory holds only the offsets of the
 * lines. An invalid line is rejected when it is read, and counted in `faults` with its line number.
 */
export class LineDataset implements Dataset {
  readonly format = 'jsonl';
  readonly faults = new Faults();

  private constructor(
    readonly file: string,
    private readonly images: string,
    /** Offset, size in bytes, and 1-based number of each line that is not blank. */
    private readonly lines: readonly { readonly at: number; readonly size: number; readonly number: number }[],
  ) {}

  /**
   * @param images folder that image names are relative to; defaults to the folder of the file
   * @throws Error if the file has lines and none of them is valid
   */
  static async open(path: string, images = dirname(path)): Promise<LineDataset> {
    const dataset = new LineDataset(path, images, await findLines(path));
    await dataset.expectValidLine();
    return dataset;
  }

  get length(): number {
    return this.lines.length;
  }

  where(index: number): string {
    return `${this.file}, line ${this.lines[index]!.number}`;
  }

  async get(index: number): Promise<Document | BrokenDocument> {
    const line = await this.read(index);
    const result = 'rejected' in line ? line : await documentOf(line, this.images);
    if ('rejected' in result) this.faults.add(result.rejected, this.where(index), result.detail);
    return result;
  }

  async firstImage(index: number): Promise<string | undefined> {
    const line = await this.read(index);
    return 'rejected' in line || 'video' in line ? undefined : namesIn(line)[0];
  }

  private async expectValidLine(): Promise<void> {
    const bad = new Faults();
    for (let i = 0; i < this.length; i++) {
      const line = await this.read(i);
      if (!('rejected' in line)) return;
      bad.add(line.rejected, this.where(i), line.detail);
    }
    if (this.length === 0) return;
    const [first] = bad.examples;
    throw new Error(
      `${this.file}: expected at least one valid line, got 0 of ${this.length}: ` +
        `${summarize(bad.counts)}. The first: ${first!.where}: ${first!.reason} (${first!.detail}).`,
    );
  }

  private async read(index: number): Promise<Line | BrokenDocument> {
    const { at, size } = this.lines[index]!;
    if (size > MAX_LINE_BYTES) return broken('line too long', `${size} bytes`);
    const handle = await open(this.file);
    let bytes: Buffer;
    try {
      bytes = await readBytes(handle, at, size);
    } finally {
      await handle.close();
    }
    const line = decodeUtf8(bytes);
    if (line === undefined) return broken('text is not UTF-8', 'save the file as UTF-8');
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (error) {
      return broken('not JSON', `${jsonProblem(error, line)}, got ${line.slice(0, 60)}`);
    }
    return parseLine(value);
  }
}

/** The lines of a file that are not blank. */
async function findLines(path: string) {
  const lines: { at: number; size: number; number: number }[] = [];
  let at = 0;
  let start = 0;
  let number = 1;
  let isBlank = true;
  const close = (end: number) => {
    if (!isBlank) lines.push({ at: start, size: end - start, number });
    start = end + 1;
    number++;
    isBlank = true;
  };
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) {
    const bytes = chunk as Buffer;
    const skipped = at === 0 && bytes.indexOf(BYTE_ORDER_MARK) === 0 ? BYTE_ORDER_MARK.length : 0;
    start += skipped;
    for (let from = skipped; from < bytes.length;) {
      const newline = bytes.indexOf(LINE_FEED, from);
      const end = newline < 0 ? bytes.length : newline;
      // Stops at the first byte that is not whitespace, so this does not scan whole lines.
      for (let i = from; isBlank && i < end; i++) isBlank = WHITESPACE.includes(bytes[i]!);
      if (newline >= 0) close(at + newline);
      from = end + 1;
    }
    at += bytes.length;
  }
  close(at);
  return lines;
}

/** Checks the JSON value of a line against its schema. */
function parseLine(value: unknown): Line | BrokenDocument {
  const schema = schemaOf(value);
  if (!schema) {
    const keys =
      'parts, or image and text, frames and text, video and text, image and answer, or text_list and image_info';
    return broken('unexpected format', `expected the keys ${keys}, got ${JSON.stringify(value).slice(0, 60)}`);
  }
  const result = LINES[schema].safeParse(value);
  if (!result.success) {
    const problems = result.error.issues.map(
      ({ path, message }) => `${path.join('.') || 'the line'}: ${plain(message)}`,
    );
    return broken('unexpected format', problems.slice(0, 3).join('; '));
  }
  const outside = namesIn(result.data).find((name) => !isInside(name));
  return outside === undefined ? result.data : broken('file outside the folder', outside);
}

/** A message of the schema in plain words. */
function plain(message: string): string {
  return message
    .replace('Invalid input: ', '')
    .replace('received undefined', 'got nothing')
    .replace('received', 'got')
    .replace('Unrecognized', 'unknown');
}

/** The document of a line. File names become paths in a folder. */
async function documentOf(line: Line, folder: string): Promise<Document | BrokenDocument> {
  const image = (name: string, alt?: string): MediaPart => ({
    media: { image: join(folder, name), name, ...(alt !== undefined && { alt }) },
  });
  if ('parts' in line) {
    const parts = line.parts.map((part) =>
      'image' in part ? image(part.image, part.alt ?? part.caption) : textPart(part),
    );
    const { url, title } = line;
    const about = { ...(url !== undefined && { url }), ...(title !== undefined && { title }) };
    return { kind: 'page', parts, ...(Object.keys(about).length > 0 && { about }) };
  }
  if ('answer' in line) return { kind: 'question', parts: [image(line.image), { text: line.answer }] };
  if ('image' in line) return { kind: 'pair', parts: [image(line.image), { text: line.text }] };
  if ('frames' in line) {
    const frames = line.frames.map((name) => join(folder, name));
    return { kind: 'clip', parts: [{ media: { frames, name: line.frames[0] } }, { text: line.text }] };
  }
  if ('video' in line) return videoDocument(join(folder, line.video), line.video, line.text);
  return mmc4Document(line, image);
}

const textPart = ({ text, learn }: { text: string; learn?: boolean | undefined }): TextPart => ({
  text,
  ...(learn !== undefined && { learn }),
});

function schemaOf(value: unknown): keyof typeof LINES | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  if ('text_list' in value) return 'mmc4';
  if ('parts' in value) return 'page';
  if ('video' in value) return 'video';
  if ('frames' in value) return 'clip';
  if ('answer' in value) return 'question';
  return 'image' in value ? 'pair' : undefined;
}

function namesIn(line: Line): string[] {
  if ('parts' in line) return line.parts.flatMap((part) => ('image' in part ? [part.image] : []));
  if ('image' in line) return [line.image];
  if ('frames' in line) return line.frames;
  if ('video' in line) return [line.video];
  return line.image_info.flatMap((info) => (info.image_base64 ? [] : (info.image_name ?? [])));
}

/** Puts each image before the sentence that it is matched to. */
function mmc4Document(page: z.infer<typeof LINES.mmc4>, image: (name: string) => MediaPart): Document {
  const { text_list: sentences, image_info: images, url } = page;
  const parts: (TextPart | MediaPart)[] = [];
  sentences.forEach((sentence, i) => {
    for (const { image_name: name, image_base64: data, matched_text_index: index } of images) {
      if (index !== i) continue;
      if (data) parts.push({ media: { image: Buffer.from(data, 'base64'), name: name ?? `image of sentence ${i}` } });
      else if (name) parts.push(image(name));
    }
    parts.push({ text: i > 0 ? ` ${sentence}` : sentence });
  });
  return { kind: 'page', parts, ...(url !== undefined && { about: { url } }) };
}

/** The clip of a video file. */
export async function videoDocument(path: string, name: string, text: string): Promise<Document | BrokenDocument> {
  try {
    return { kind: 'clip', parts: [{ media: { frames: await videoFrames(path), name } }, { text }] };
  } catch (error) {
    if (error instanceof MissingFfmpeg) throw error;
    return broken('unreadable video', `${name}: ${(error as Error).message}`);
  }
}

const broken = (rejected: string, detail: string): BrokenDocument => ({ rejected, detail });
