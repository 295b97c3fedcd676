/** What a task gives a template: a question, the text of a meme. */
export type PromptFields = Readonly<Record<string, string>>;

/** How one example of a task is written. */
export interface PromptTemplate {
  /** The text between the image and the answer. */
  question(fields: PromptFields): string;
  /** The answer as it follows the question, its leading blank included. */
  answer(text: string): string;
  /** Stands between an example's `<EOC>` and what follows. */
  readonly separator: string;
}

/** An example of a task, solved; a query is one whose answer is not shown. */
export interface FewShotExample<Image> {
  /** Left out: the example is given as text alone, without an `<image>` mark. */
  readonly image?: Image;
  readonly fields?: PromptFields;
  readonly answer: string;
  /** Examples with the query's id are never among its shots. */
  readonly id?: string;
}

export type PromptPart<Image> =
  | { readonly image: Image }
  | { readonly text: string }
  /** Ends the text of an image: the `<EOC>` token. */
  | { readonly endOfChunk: true };

/** Images, text and marks in reading order. The texts never hold marks, so a question cannot forge one. */
export type Prompt<Image> = readonly PromptPart<Image>[];

/** Solved examples, then a query that ends where its answer begins. */
export function fewShotPrompt<Image>(
  template: PromptTemplate,
  shots: readonly FewShotExample<Image>[],
  query: Omit<FewShotExample<Image>, 'answer'>,
): Prompt<Image> {
  const opening = ({ image, fields = {} }: Omit<FewShotExample<Image>, 'answer'>): PromptPart<Image>[] => [
    ...(image === undefined ? [] : [{ image }]),
    { text: template.question(fields) },
  ];
  const solved = shots.flatMap((shot): PromptPart<Image>[] => [
    ...opening(shot),
    { text: template.answer(shot.answer) },
    { endOfChunk: true },
    ...(template.separator === '' ? [] : [{ text: template.separator }]),
  ]);
  return [...solved, ...opening(query)];
}

/**
 * Examples without their images. Two of them in front of the query are the paper's zero-shot prompt (section 3.1):
 * one would bias the answer to its own, more hardly help.
 */
export function textOnly<Image>(examples: readonly FewShotExample<Image>[]): FewShotExample<Image>[] {
  return examples.map(({ fields, answer, id }) => ({ fields, answer, id }));
}

/** Appendix B.1.5: what is written for the paper's benchmarks. */
export const paperTemplates = {
  /** Captions, class names, and every task that is not a question. */
  caption: { question: () => 'Output:', answer: spaced, separator: '' },
  vqa: { question: ({ question }) => `Question: ${question} Answer:`, answer: spaced, separator: '' },
  'hateful-memes': {
    question: ({ text }) => `is an image with written: "${text}" on it. Is it hateful? Answer:`,
    answer: spaced,
    separator: '',
  },
  /** The answer is the verb in the third person with its object: "a person cuts a book" asks for "cuts a book". */
  rareact: { question: () => 'Caption: a person', answer: spaced, separator: '' },
} satisfies Record<string, PromptTemplate>;

/** OpenFlamingo's: no blank before the answer, a line break after solved examples of open-ended tasks. */
export const openFlamingoTemplates = {
  vqa: { question: ({ question }) => `Question:${question} Short answer:`, answer: asIs, separator: '\n' },
  caption: { question: () => 'Output:', answer: (text) => text.trim(), separator: '\n' },
  imagenet: { question: () => 'Output:', answer: asIs, separator: '' },
  'hateful-memes': {
    question: ({ text }) => `is an image with: '${text}' written on it. Is it hateful? Answer:`,
    answer: asIs,
    separator: '',
  },
} satisfies Record<string, PromptTemplate>;

/** The prompt as one string, for a tokenizer that knows the marks, or for people. */
export function promptText(
  prompt: Prompt<unknown>,
  marks: { readonly image: string; readonly endOfChunk: string } = { image: '<image>', endOfChunk: '<EOC>' },
): string {
  return prompt.map((part) => ('text' in part ? part.text : 'image' in part ? marks.image : marks.endOfChunk)).join('');
}

/** What tokenizing a prompt needs. */
export interface PromptTokenizer {
  encode(text: string): ArrayLike<number>;
  readonly special: { readonly image: number; readonly endOfChunk: number; readonly bos?: number };
}

/**
 * Token ids, `<BOS>` first where there is one. Question and answer are encoded apart, as a candidate answer is when it
 * is scored, so a solved example and a scored one have the same tokens.
 */
export function promptTokens(prompt: Prompt<unknown>, { encode, special }: PromptTokenizer): number[] {
  const body = prompt.flatMap((part) =>
    'text' in part ? Array.from(encode(part.text)) : ['image' in part ? special.image : special.endOfChunk],
  );
  return special.bos === undefined ? body : [special.bos, ...body];
}

/** The images in the order of their marks. */
export function promptImages<Image>(prompt: Prompt<Image>): Image[] {
  return prompt.flatMap((part) => ('image' in part ? [part.image] : []));
}

function spaced(answer: string): string {
  return ` ${answer}`;
}

function asIs(answer: string): string {
  return answer;
}
