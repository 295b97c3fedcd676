/** The texts that a task fills into a template: a question, the text of a meme. */
export type PromptFields = Readonly<Record<string, string>>;

/** How one example of a task is written. */
export interface PromptTemplate {
  /** The text between the image and the answer. */
  question(fields: PromptFields): string;
  /** The answer as it follows the question, with its leading space. */
  answer(text: string): string;
  /** Text between the `<EOC>` of an example and the next part. */
  readonly separator: string;
}

/** A task item with its answer: a shot, or a query whose answer the prompt does not show. */
export interface FewShotExample<Image> {
  /** Without it, the example is text alone, with no `<image>` token. */
  readonly image?: Image;
  readonly fields?: PromptFields;
  readonly answer: string;
  /** A query never gets a shot with its own id. */
  readonly id?: string;
}

/** One part of a prompt. */
export type PromptPart<Image> =
  | { readonly image: Image }
  | { readonly text: string }
  /** Ends the text of an image: the `<EOC>` token. */
  | { readonly endOfChunk: true };

/** Images, texts and special tokens in reading order. A text is only text: `<image>` or `<EOC>` in it is not a token. */
export type Prompt<Image> = readonly PromptPart<Image>[];

/** The shots, then the query up to where its answer begins. */
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
 * Examples without their images. Two of them before the query form the paper's zero-shot prompt (section 3.1): a single
 * one would bias the answer toward its own, and more hardly help.
 */
export function textOnly<Image>(examples: readonly FewShotExample<Image>[]): FewShotExample<Image>[] {
  return examples.map(({ fields, answer, id }) => ({ fields, answer, id }));
}

/** Prompts of the paper's benchmarks (appendix B.1.5). */
export const paperTemplates = {
  /** For captions, class names and every task without a question. */
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

/** OpenFlamingo's prompts: no space before the answer, and a line break after each shot of an open-ended task. */
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

/**
 * The prompt as one string, for logs and reports. Do not tokenize it: the string cannot tell a special token from a text
 * that spells one. Use `promptTokens`.
 *
 * @param specialTokens how the special tokens are written
 */
export function promptText(
  prompt: Prompt<unknown>,
  specialTokens: { readonly image: string; readonly endOfChunk: string } = { image: '<image>', endOfChunk: '<EOC>' },
): string {
  const { image, endOfChunk } = specialTokens;
  return prompt.map((part) => ('text' in part ? part.text : 'image' in part ? image : endOfChunk)).join('');
}

/** What `promptTokens` needs of a tokenizer. */
export interface PromptTokenizer {
  /** Ids of a text; must treat special tokens that the text spells as text, as tokenizers of `@flamingo-ts/lm-core` do. */
  encode(text: string): ArrayLike<number>;
  readonly special: { readonly image: number; readonly endOfChunk: number; readonly bos?: number };
}

/**
 * Token ids, with `<BOS>` first if the tokenizer has one. Special tokens are inserted by id. Question and answer are encoded
 * separately, as a candidate answer is when it is scored, so that a shot and a scored answer have the same tokens.
 *
 * @throws Error if the tokenizer turns a text into a special token
 */
export function promptTokens(prompt: Prompt<unknown>, { encode, special }: PromptTokenizer): number[] {
  const body = prompt.flatMap((part) => {
    if ('image' in part) return [special.image];
    if (!('text' in part)) return [special.endOfChunk];
    const ids = Array.from(encode(part.text));
    const forged = ids.find((id) => id === special.image || id === special.endOfChunk);
    if (forged !== undefined) {
      throw new Error(
        `promptTokens: encode must treat text as text, but it turned ${JSON.stringify(part.text)} into the special token ` +
          `${forged}. Turn off parsing of special tokens in the tokenizer.`,
      );
    }
    return ids;
  });
  return special.bos === undefined ? body : [special.bos, ...body];
}

/** The images of a prompt in order. */
export function promptImages<Image>(prompt: Prompt<Image>): Image[] {
  return prompt.flatMap((part) => ('image' in part ? [part.image] : []));
}

function spaced(answer: string): string {
  return ` ${answer}`;
}

function asIs(answer: string): string {
  return answer;
}
