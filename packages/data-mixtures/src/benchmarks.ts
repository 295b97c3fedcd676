import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { z } from 'zod';
import type { Dataset } from './dataset';
import type { BrokenDocument, Document } from './document';
import { Faults } from './faults';
import { isInside } from './tar';

const id = z.number().int().min(0);
const captions = z.object({
  images: z.array(z.object({ id, file_name: z.string().min(1) })),
  annotations: z.array(z.object({ image_id: id, caption: z.string() })),
});
const questions = z.object({
  data_subtype: z.string().regex(/^\w+$/),
  questions: z.array(z.object({ question_id: id, image_id: id, question: z.string() })),
});
const answers = z.object({
  annotations: z.array(z.object({ question_id: id, multiple_choice_answer: z.string() })),
});

/** Pairs whose text is known beforehand; the images are files. */
export class PairDataset implements Dataset {
  readonly faults = new Faults();

  constructor(
    readonly format: string,
    private readonly file: string,
    private readonly pairs: readonly { readonly image: string; readonly given?: string; readonly text: string }[],
    private readonly images: string,
  ) {}

  get length(): number {
    return this.pairs.length;
  }

  where(index: number): string {
    return `${this.file}, annotation ${index}`;
  }

  get(index: number): Promise<Document | BrokenDocument> {
    const { image, given, text } = this.pairs[index]!;
    const result: Document | BrokenDocument = isInside(image)
      ? {
          kind: 'pair',
          parts: [
            { media: { image: join(this.images, image), name: image } },
            ...(given === undefined ? [] : [{ text: given, learn: false }]),
            { text },
          ],
        }
      : { rejected: 'file outside the folder', detail: image };
    if ('rejected' in result) this.faults.add(result.rejected, this.where(index), result.detail);
    return Promise.resolve(result);
  }
}

/** COCO captions, `captions_train2014.json` and its like: one pair for each caption. */
export async function openCocoCaptions(path: string, images?: string): Promise<PairDataset> {
  const data = await readJson(path, captions);
  const names = new Map(data.images.map((image) => [image.id, image.file_name]));
  const pairs = data.annotations.map(({ image_id, caption }, i) => {
    const image = names.get(image_id);
    if (image === undefined) throw new Error(`${path}: annotations.${i}: there is no image of id ${image_id}.`);
    return { image, text: caption.trim() };
  });
  return new PairDataset('coco-captions', path, pairs, images ?? imagesBeside(path));
}

/**
 * VQAv2: the file of questions, with that of the answers beside it. A pair for each question in the paper's words
 * (`Question: {question} Answer: {answer}`); of the answers the most frequent, which alone is learned.
 */
export async function openVqa(path: string, images?: string): Promise<PairDataset> {
  const data = await readJson(path, questions);
  const name = basename(path).replace('OpenEnded_', '').replace('questions', 'annotations');
  const answerFile = join(dirname(path), name);
  if (name === basename(path) || !existsSync(answerFile)) {
    throw new Error(`${path}: expected the answers beside it as ${name}, got none.`);
  }
  const given = await readJson(answerFile, answers);
  const answerOf = new Map(given.annotations.map((a) => [a.question_id, a.multiple_choice_answer]));
  const pairs = data.questions.map(({ question_id, image_id, question }, i) => {
    const answer = answerOf.get(question_id);
    if (answer === undefined)
      throw new Error(`${path}: questions.${i}: ${answerFile} has no answer to ${question_id}.`);
    const image = `COCO_${data.data_subtype}_${String(image_id).padStart(12, '0')}.jpg`;
    return { image, given: `Question: ${question} Answer:`, text: ` ${answer}` };
  });
  return new PairDataset('vqav2', path, pairs, images ?? imagesBeside(path));
}

async function readJson<T>(path: string, schema: z.ZodType<T>): Promise<T> {
  let value: unknown;
  try {
    value = JSON.parse(await readFile(path, 'utf8'));
  } catch (error) {
    throw new Error(`${path}: expected JSON, got an error: ${(error as Error).message}.`, { cause: error });
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw new Error(`${path}: ${issue!.path.join('.') || 'the file'}: ${issue!.message}.`);
}

/** The folder of images that belongs to an annotation file, by its split, where people put it; else its own. */
function imagesBeside(path: string): string {
  const [split] = /(train|val|test)\d{4}/.exec(basename(path)) ?? [];
  const folder = dirname(path);
  const places = [folder, dirname(folder), join(folder, 'images'), join(dirname(folder), 'images')];
  return (split && places.map((place) => join(place, split)).find(existsSync)) ?? folder;
}
