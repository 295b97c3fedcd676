import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { z } from 'zod';
import type { Dataset } from './dataset';
import type { BrokenDocument, Document } from './document';
import { Faults, summarize } from './faults';
import { isInside } from './tar';
import { decodeUtf8, jsonProblem } from './text';

const id = z.number().int().min(0);
const list = z.array(z.unknown());
const cocoFile = z.object({ images: list, annotations: list });
const cocoImage = z.object({ id, file_name: z.string().min(1) });
const cocoCaption = z.object({ image_id: id, caption: z.string() });
const questionFile = z.object({ data_subtype: z.string().regex(/^\w+$/), questions: list });
const question = z.object({ question_id: id, image_id: id, question: z.string() });
const answerFile = z.object({ annotations: list });
const answer = z.object({ question_id: id, multiple_choice_answer: z.string() });

/** A pair whose image is a file name. `given` is text before `text` that the loss does not cover. */
interface Pair {
  readonly image: string;
  readonly given?: string;
  readonly text: string;
}

/** Pairs of an annotation file, with the images as files in a folder. */
export class PairDataset implements Dataset {
  readonly faults = new Faults();

  /** @throws Error if there are pairs and all of them are broken */
  constructor(
    readonly format: string,
    private readonly file: string,
    private readonly pairs: readonly (Pair | BrokenDocument)[],
    private readonly images: string,
  ) {
    const bad = new Faults();
    for (const [i, pair] of pairs.entries()) {
      if (!('rejected' in pair)) return;
      bad.add(pair.rejected, this.where(i), pair.detail);
    }
    const [first] = bad.examples;
    if (!first) return;
    throw new Error(
      `${file}: expected at least one valid annotation, got 0 of ${pairs.length}: ` +
        `${summarize(bad.counts)}. The first: ${first.where}: ${first.reason} (${first.detail}).`,
    );
  }

  get length(): number {
    return this.pairs.length;
  }

  where(index: number): string {
    return `${this.file}, annotation ${index}`;
  }

  firstImage(index: number): Promise<string | undefined> {
    const pair = this.pairs[index]!;
    return Promise.resolve('rejected' in pair ? undefined : pair.image);
  }

  get(index: number): Promise<Document | BrokenDocument> {
    const result = this.documentOf(this.pairs[index]!);
    if ('rejected' in result) this.faults.add(result.rejected, this.where(index), result.detail);
    return Promise.resolve(result);
  }

  private documentOf(pair: Pair | BrokenDocument): Document | BrokenDocument {
    if ('rejected' in pair) return pair;
    const { image, given, text } = pair;
    if (!isInside(image)) return { rejected: 'file outside the folder', detail: image };
    return {
      kind: 'pair',
      parts: [
        { media: { image: join(this.images, image), name: image } },
        ...(given === undefined ? [] : [{ text: given, learn: false }]),
        { text },
      ],
    };
  }
}

/** COCO captions (`captions_train2014.json`): one pair per caption. */
export async function openCocoCaptions(path: string, images?: string): Promise<PairDataset> {
  const data = await readJson(path, cocoFile);
  const names = new Map(
    data.images.flatMap((value) => {
      const { success, data: image } = cocoImage.safeParse(value);
      return success ? [[image.id, image.file_name] as const] : [];
    }),
  );
  const pairs = data.annotations.map((value) => {
    const caption = parse(cocoCaption, value);
    if ('rejected' in caption) return caption;
    const image = names.get(caption.image_id);
    if (image === undefined) return broken('annotation without image', `no image has the id ${caption.image_id}`);
    return { image, text: caption.caption.trim() };
  });
  return new PairDataset('coco-captions', path, pairs, images ?? imagesFolderOf(path));
}

/**
 * VQAv2: the questions, with the file of the answers in the same folder. One pair per question, in the format of the paper
 * (`Question: {question} Answer: {answer}`), with the most frequent answer. The loss covers only the answer.
 */
export async function openVqa(path: string, images?: string): Promise<PairDataset> {
  const data = await readJson(path, questionFile);
  const name = basename(path).replace('OpenEnded_', '').replace('questions', 'annotations');
  const answers = join(dirname(path), name);
  if (name === basename(path) || !existsSync(answers)) {
    throw new Error(`${path}: expected the answers in ${name} in the same folder, got no such file.`);
  }
  const answerOf = new Map(
    (await readJson(answers, answerFile)).annotations.flatMap((value) => {
      const { success, data: a } = answer.safeParse(value);
      return success ? [[a.question_id, a.multiple_choice_answer] as const] : [];
    }),
  );
  const pairs = data.questions.map((value) => {
    const q = parse(question, value);
    if ('rejected' in q) return q;
    const text = answerOf.get(q.question_id);
    if (text === undefined) return broken('question without answer', `${name} has no answer to ${q.question_id}`);
    const image = `COCO_${data.data_subtype}_${String(q.image_id).padStart(12, '0')}.jpg`;
    return { image, given: `Question: ${q.question} Answer:`, text: ` ${text}` };
  });
  return new PairDataset('vqav2', path, pairs, images ?? imagesFolderOf(path));
}

async function readJson<T>(path: string, schema: z.ZodType<T>): Promise<T> {
  const text = decodeUtf8(await readFile(path));
  if (text === undefined) throw new Error(`${path}: expected UTF-8, got another encoding. Save the file as UTF-8.`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Error(`${path}: expected JSON, got an error: ${jsonProblem(error, text)}.`, { cause: error });
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw new Error(`${path}: ${issue!.path.join('.') || 'the file'}: ${issue!.message}.`);
}

function parse<T extends object>(schema: z.ZodType<T>, value: unknown): T | BrokenDocument {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  return broken('unexpected format', `${issue!.path.join('.') || 'the annotation'}: ${issue!.message}`);
}

const broken = (rejected: string, detail: string): BrokenDocument => ({ rejected, detail });

/**
 * The usual folder of images for an annotation file: named after its split, near the file. Else the folder of the file.
 */
function imagesFolderOf(path: string): string {
  const [split] = /(train|val|test)\d{4}/.exec(basename(path)) ?? [];
  const folder = dirname(path);
  const places = [folder, dirname(folder), join(folder, 'images'), join(dirname(folder), 'images')];
  return (split && places.map((place) => join(place, split)).find(existsSync)) ?? folder;
}
