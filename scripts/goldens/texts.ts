import {
  IGNORED_LABEL,
  openFlamingoLabels,
  openFlamingoPage,
  openFlamingoPair,
  type ScoredPage,
} from '@flamingo-ts/data-mixtures';
import {
  fewShotPrompt,
  normalizeVqaAnswer,
  openFlamingoCaption,
  openFlamingoTemplates,
  openFlamingoVqaAnswer,
  processPunctuation,
  promptText,
  rankCandidates,
  Rices,
  textOnly,
  vqaAccuracy,
  type FewShotExample,
  type VqaAnswer,
} from '@flamingo-ts/evaluation';
import type { GoldenHandler, GoldenResult } from './case';
import { Comparison } from './comparison';

/** Labels, text construction, prompts and the answer metric. */
export const textHandlers: readonly GoldenHandler[] = [
  {
    matches: ({ meta }) => meta.interleaved?.[0]?.sentences !== undefined,
    run: async ({ meta }) => checkTextBuilding(meta),
  },
  {
    matches: ({ meta }) => meta.interleaved?.[0]?.input_ids !== undefined && meta.special_ids !== undefined,
    run: async ({ meta }) => checkLabels(meta),
  },
  {
    matches: ({ meta }) => meta.normalisation?.[0]?.out !== undefined && meta.accuracy !== undefined,
    run: async ({ meta }) => checkAnswerMetric(meta),
  },
  {
    matches: ({ meta }) => meta.tasks !== undefined && meta.retrieval !== undefined,
    run: async ({ meta }) => checkPrompts(meta),
  },
];

interface TextBuilding {
  readonly interleaved: readonly {
    readonly sentences: readonly string[];
    readonly image_bytes: readonly (number | null)[];
    readonly similarity: ScoredPage['similarity'];
    readonly threshold: number;
    readonly min_images: number;
    readonly max_images: number;
    readonly max_tokens: number;
    readonly coin: number;
    readonly text?: string;
    readonly image_slots?: readonly (number | null)[];
    readonly rejected?: string;
  }[];
  readonly pairs: readonly { readonly caption: string; readonly text: string }[];
}

function checkTextBuilding(meta: TextBuilding): GoldenResult {
  const c = new Comparison();
  // The reference does not name the end-of-text token, but the finished texts end with it.
  const endOfText = /<\|endofchunk\|>((?:(?!<\|endofchunk\|>).)*)$/s.exec(meta.pairs[0]?.text ?? '')?.[1] ?? '</s>';
  const special = ['<image>', '<|endofchunk|>', endOfText].map((token) => token.replace(/[^\w]/g, '\\$&')).join('|');
  const tokenize = (text: string) => text.split(new RegExp(`(${special})|\\s+`)).filter(Boolean);
  for (const page of meta.interleaved) {
    const got = openFlamingoPage(
      { sentences: page.sentences, imageBytes: page.image_bytes, similarity: page.similarity },
      {
        threshold: page.threshold,
        minImages: page.min_images,
        maxImages: page.max_images,
        maxTokens: page.max_tokens,
        coin: page.coin,
        endOfText,
        tokenize,
      },
    );
    const want = page.rejected ? { rejected: page.rejected } : { text: page.text, imageSlots: page.image_slots };
    c.same(`page "${page.sentences[0]}"`, got, want);
  }
  for (const pair of meta.pairs) c.same(`pair "${pair.caption}"`, openFlamingoPair(pair.caption, endOfText), pair.text);
  return c.result();
}

interface LabelRow {
  readonly what: string;
  readonly input_ids: readonly number[];
  readonly labels: readonly number[];
}

interface LabelMasking {
  readonly special_ids: Readonly<Record<string, number>>;
  readonly ignore: number;
  readonly interleaved: readonly LabelRow[];
  readonly pairs: readonly LabelRow[];
}

function checkLabels(meta: LabelMasking): GoldenResult {
  const c = new Comparison();
  const ids = meta.special_ids;
  const special = { image: ids['<image>']!, endOfChunk: ids['<|endofchunk|>']!, pad: ids['pad']! };
  const check = (row: LabelRow, rule: Parameters<typeof openFlamingoLabels>[2]) => {
    const labels = Array.from(openFlamingoLabels(row.input_ids, special, rule));
    c.same(
      row.what,
      labels.map((label) => (label === IGNORED_LABEL ? meta.ignore : label)),
      row.labels,
    );
  };
  for (const row of meta.interleaved) check(row, 'open-flamingo-interleaved');
  for (const row of meta.pairs) check(row, 'open-flamingo-pairs');
  return c.result();
}

interface InOut {
  readonly in: string;
  readonly out: string;
}

interface AnswerMetric {
  readonly normalisation: readonly (InOut & { readonly after_punctuation: string })[];
  readonly accuracy: readonly {
    readonly annotations: string;
    readonly overall_percent_rounded_to_2: number;
    readonly entries: readonly {
      readonly prediction: string;
      readonly answers: readonly VqaAnswer[];
      readonly accuracy_percent: number;
    }[];
  }[];
  readonly vqa_postprocess: readonly InOut[];
  readonly caption_postprocess: readonly InOut[];
}

function checkAnswerMetric(meta: AnswerMetric): GoldenResult {
  const c = new Comparison();
  for (const row of meta.normalisation) {
    c.same(`punctuation of "${row.in}"`, processPunctuation(row.in), row.after_punctuation);
    c.same(`normalized "${row.in}"`, normalizeVqaAnswer(row.in), row.out);
  }
  for (const { annotations, entries, overall_percent_rounded_to_2 } of meta.accuracy) {
    const accuracies = entries.map((e) => vqaAccuracy(e.prediction, e.answers, 'open-flamingo'));
    // The file has 8 decimals of each accuracy and 2 of the mean.
    entries.forEach((entry, i) => {
      c.same(`${annotations}: "${entry.prediction}"`, round(100 * accuracies[i]!, 8), entry.accuracy_percent);
    });
    const overall = (100 * accuracies.reduce((a, b) => a + b, 0)) / accuracies.length;
    c.same(`${annotations}: overall`, round(overall, 2), overall_percent_rounded_to_2);
  }
  for (const row of meta.vqa_postprocess) c.same(`answer "${row.in}"`, openFlamingoVqaAnswer(row.in), row.out);
  for (const row of meta.caption_postprocess) c.same(`caption "${row.in}"`, openFlamingoCaption(row.in), row.out);
  return c.result();
}

type TaskItem = Readonly<
  Record<'prompt', string> & Partial<Record<'question' | 'answer' | 'caption' | 'label' | 'text', string | null>>
>;

interface PromptsAndRetrieval {
  readonly tasks: Readonly<
    Record<string, { readonly items: readonly TaskItem[]; readonly few_shot: string; readonly zero_shot: string }>
  >;
  readonly retrieval: {
    readonly bank: readonly number[][];
    readonly queries_not_normalised: readonly number[][];
    readonly found_by_count: Readonly<Record<string, readonly number[][]>>;
  };
  readonly class_choice?: Readonly<Record<string, unknown>> & {
    readonly mean_logprobs: readonly number[][];
    readonly score_of_best: readonly number[];
  };
}

function checkPrompts(meta: PromptsAndRetrieval): GoldenResult {
  const c = new Comparison();
  for (const [name, task] of Object.entries(meta.tasks)) checkTask(c, name, task);
  const { bank, queries_not_normalised: queries, found_by_count } = meta.retrieval;
  const rices = new Rices(bank);
  for (const [count, found] of Object.entries(found_by_count)) {
    c.same(
      `nearest ${count}`,
      queries.map((query) => rices.nearest(query, Number(count))),
      found,
    );
  }
  if (meta.class_choice) checkChoice(c, meta.class_choice);
  return c.result();
}

function checkTask(c: Comparison, name: string, task: PromptsAndRetrieval['tasks'][string]): void {
  const template = templateOf(task.items[0]!);
  const special = { image: '<image>', endOfChunk: '<|endofchunk|>' };
  const examples = task.items.map(({ question, answer, caption, label, text }): FewShotExample<true> => {
    const fields = { ...(question != null && { question }), ...(text != null && { text }) };
    return { image: true, fields, answer: answer ?? caption ?? label ?? '' };
  });
  const query = examples[examples.length - 1]!;
  const write = (shots: readonly FewShotExample<true>[]) => promptText(fewShotPrompt(template, shots, query), special);
  task.items.forEach((item, i) => {
    const { image, fields, answer } = examples[i]!;
    const opening = promptText(fewShotPrompt(template, [], { image, fields }), special);
    const solved = (item.answer ?? item.caption ?? item.label) != null;
    c.same(
      `${name}: item ${i}`,
      solved ? opening + template.answer(answer) + special.endOfChunk : opening,
      item.prompt,
    );
  });
  c.same(`${name}: few-shot`, write(examples.slice(0, -1)), task.few_shot);
  c.same(`${name}: zero-shot`, write(textOnly(examples.slice(0, 2))), task.zero_shot);
}

/** The template of a task, identified by the fields of its items. */
function templateOf(item: TaskItem) {
  if (item.question !== undefined) return openFlamingoTemplates.vqa;
  if (item.caption !== undefined) return openFlamingoTemplates.caption;
  return item.text !== undefined ? openFlamingoTemplates['hateful-memes'] : openFlamingoTemplates.imagenet;
}

/** Compares rankings of classes, which are named a, b, c, ... by column. */
function checkChoice(c: Comparison, choice: NonNullable<PromptsAndRetrieval['class_choice']>): void {
  const rankings = choice.mean_logprobs.map(rankCandidates);
  for (const [key, want] of Object.entries(choice)) {
    const count = /^top_(\d+)$/.exec(key)?.[1];
    if (!count) continue;
    const named = rankings.map(({ order }) => order.slice(0, Number(count)).map((i) => String.fromCharCode(97 + i)));
    c.same(key, named, want);
  }
  rankings.forEach(({ order, probabilities }, row) => {
    // The reference was computed in float32: equal within its rounding.
    const [got, want] = [probabilities[order[0]!]!, choice.score_of_best[row]!];
    c.same(`score of row ${row}`, Math.abs(got - want) <= 1e-6 * want ? want : got, want);
  });
}

function round(x: number, digits: number): number {
  return Number(x.toFixed(digits));
}
