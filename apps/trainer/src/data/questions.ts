import { paperTemplates, type FewShotExample } from '@flamingo-ts/evaluation';
import { Random } from '@flamingo-ts/kernels';
import {
  BLANK,
  CONDITIONS,
  type Condition,
  type MediaKey,
  type QuestionOptions,
  type Questions,
} from './training-data';

/** An image and the expected answer: a line of `eval.jsonl`. */
export interface Question {
  readonly image: MediaKey;
  readonly answer: string;
}

/**
 * Questions about a user's own images as one few-shot task per condition. The model chooses among all answers that
 * occur; shots come from the other images.
 *
 * @param where names the source of the questions in errors and warnings
 * @throws Error if there are too few images for the number of shots
 */
export function ownQuestions(
  where: string,
  questions: readonly Question[],
  { shots, seed }: Pick<QuestionOptions, 'shots' | 'seed'>,
): Questions {
  const mostShots = Math.max(...shots);
  const linesOf = new Map<MediaKey, number>();
  for (const { image } of questions) linesOf.set(image, (linesOf.get(image) ?? 0) + 1);
  // Shots never show the image of the query.
  if (questions.length - Math.max(0, ...linesOf.values()) < Math.max(1, mostShots)) {
    throw new Error(
      `eval: ${mostShots} shots require questions about ${mostShots + 1} readable images in ${where}, got ${linesOf.size}. ` +
        'Add lines to it or lower eval.shots.',
    );
  }
  const real = questions.map(({ image, answer }) => ({ image, answer, id: String(image) }));
  const blank = real.map((question) => ({ ...question, image: BLANK }));
  const prompts: Record<Condition, { queries: FewShotExample<MediaKey>[]; support: FewShotExample<MediaKey>[] }> = {
    real: { queries: real, support: real },
    blank: { queries: blank, support: blank },
    swapped: { queries: swapped(real, seed), support: real },
  };
  const candidates = [...new Set(real.map(({ answer }) => answer))];
  const warnings =
    candidates.length > 1
      ? []
      : [
          `All questions of ${where} have the answer "${candidates[0]}", so every score is 1. Add questions with other answers.`,
        ];
  const tasks = CONDITIONS.filter((condition) => prompts[condition].queries.length > 0).map((condition) => ({
    condition,
    task: { name: 'questions', template: paperTemplates.caption, candidates, ...prompts[condition] },
  }));
  return { split: 'eval', tasks, warnings };
}

/** Replaces the image of each question by one with another answer. Drops questions for which there is none. */
function swapped(questions: readonly FewShotExample<MediaKey>[], seed: number): FewShotExample<MediaKey>[] {
  return questions.flatMap((question, i) => {
    const others = questions.filter(({ image, answer }) => answer !== question.answer && image !== question.image);
    if (others.length === 0) return [];
    const { image } = others[new Random(seed).fork(`swapped ${i}`).int(others.length)]!;
    return [{ ...question, image: image! }];
  });
}
