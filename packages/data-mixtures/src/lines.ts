import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import type { Dataset } from './dataset';
import type { Broken, Document, MediaPart, TextPart } from './document';
import { Faults } from './faults';
import { isInside, readBytes } from './tar';
import { MissingFfmpeg, videoFrames } from './video';

/** A page with its images' bytes in it is long; more than this is not one. */
const MAX_LINE_BYTES = 2 ** 28;

const file = z.string().min(1);
const text = z.string().min(1);
const SHAPES = {
  /** Where a page comes from, and what stands beside its images, is kept for people. */
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
  /** As published: other keys are left alone. */
  mmc4: z.object({
    text_list: z.array(z.string()).min(1),
    image_info: z.array(
      z.object({
        image_name: file.nullish(),
        matched_text_index: z.number().int().min(0),
        matched_sim: z.number().optional(),
        /** OpenFlamingo's conversion holds the images too. */
        image_base64: z.string().nullish(),
      }),
    ),
    url: z.string().optional(),
  }),
} as const;

/**
 * Documents of a JSONL file, one in each line: `{parts}`, `{image, text}`, `{frames, text}`, `{video, text}`, or MMC4's
 * `{text_list, image_info}`. Where the lines begin is all that is kept of them.
 */
export class LineSet implements Dataset {
  readonly format = 'jsonl';
  readonly faults = new Faults();

  private constructor(
    readonly file: string,
    private readonly images: string,
    /** Of lines that are not blank: byte where each begins, its length, its number from 1. */
    private readonly lines: readonly { readonly at: number; readonly size: number; readonly number: number }[],
  ) {}

  /** @param images folder that the lines' file names start from; by default that of the file */
  static async open(path: string, images = dirname(path)): Promise<LineSet> {
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
      for (let from = 0; from < bytes.length;) {
        const found = bytes.indexOf(10, from);
        const end = found < 0 ? bytes.length : found;
        // Blanks, tabs and what Windows ends lines with; a line of JSON shows at its first byte that it is none of these.
        for (let i = from; isBlank && i < end; i++) isBlank = [9, 13, 32].includes(bytes[i]!);
        if (found >= 0) close(at + found);
        from = end + 1;
      }
      at += bytes.length;
    }
    close(at);
    return new LineSet(path, images, lines);
  }

  get length(): number {
    return this.lines.length;
  }

  where(index: number): string {
    return `${this.file}, line ${this.lines[index]!.number}`;
  }

  async get(index: number): Promise<Document | Broken> {
    const { at, size } = this.lines[index]!;
    const result = size > MAX_LINE_BYTES ? broken('line too long', `${size} bytes`) : await this.parse(at, size);
    if ('rejected' in result) this.faults.add(result.rejected, this.where(index), result.detail);
    return result;
  }

  private async parse(at: number, size: number): Promise<Document | Broken> {
    const handle = await open(this.file);
    let line: string;
    try {
      line = (await readBytes(handle, at, size)).toString('utf8');
    } finally {
      await handle.close();
    }
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (error) {
      return broken('not JSON', `${(error as Error).message}, got ${line.slice(0, 60)}`);
    }
    return documentOfLine(value, this.images);
  }
}

/** The document that a line describes, its images as paths in a folder; or what is wrong with the line. */
async function documentOfLine(value: unknown, folder: string): Promise<Document | Broken> {
  const shape = shapeOf(value);
  if (!shape) {
    const keys = 'parts; image, text; frames, text; video, text; or text_list, image_info';
    return broken('unknown form', `expected an object with ${keys}, got ${JSON.stringify(value).slice(0, 60)}`);
  }
  const result = SHAPES[shape].safeParse(value);
  if (!result.success) {
    const problems = result.error.issues.map((issue) => `${issue.path.join('.') || 'the line'}: ${issue.message}`);
    return broken('unknown form', problems.slice(0, 3).join('; '));
  }
  const line = result.data;
  const outside = namesIn(line).find((name) => !isInside(name));
  if (outside !== undefined) return broken('file outside the folder', outside);
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

function shapeOf(value: unknown): keyof typeof SHAPES | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  if ('text_list' in value) return 'mmc4';
  if ('parts' in value) return 'page';
  if ('video' in value) return 'video';
  if ('frames' in value) return 'clip';
  return 'image' in value ? 'pair' : undefined;
}

function namesIn(line: z.infer<(typeof SHAPES)[keyof typeof SHAPES]>): string[] {
  if ('parts' in line) return line.parts.flatMap((part) => ('image' in part ? [part.image] : []));
  if ('image' in line) return [line.image];
  if ('frames' in line) return line.frames;
  if ('video' in line) return [line.video];
  return line.image_info.flatMap((info) => (info.image_base64 ? [] : (info.image_name ?? [])));
}

/** Each image before the sentence that it is matched to. */
function mmc4Document(page: z.infer<typeof SHAPES.mmc4>, image: (name: string) => MediaPart): Document | Broken {
  const { text_list: sentences, image_info: images, url } = page;
  const beyond = images.find((image) => image.matched_text_index >= sentences.length);
  if (beyond) {
    return broken('unknown form', `matched_text_index ${beyond.matched_text_index} of ${sentences.length} sentences`);
  }
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

/** A clip of a video file. */
export async function videoDocument(path: string, name: string, text: string): Promise<Document | Broken> {
  try {
    return { kind: 'clip', parts: [{ media: { frames: await videoFrames(path), name } }, { text }] };
  } catch (error) {
    if (error instanceof MissingFfmpeg) throw error;
    return broken('unreadable video', `${name}: ${(error as Error).message}`);
  }
}

const broken = (rejected: string, detail: string): Broken => ({ rejected, detail });
