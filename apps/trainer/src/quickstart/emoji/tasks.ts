import { paperTemplates, type FewShotExample, type FewShotTask } from '@flamingo-ts/evaluation';
import { Random } from '@flamingo-ts/kernels';
import { BLANK, type Condition, type MediaKey } from '../../data/training-data';
import { wordsOf, type Split } from './concepts';
import { inAnotherStyle, MADE_UP_WORDS, nameOf, pick, pickSeveral } from './texts';
import { ALL_ANSWERS, ANSWERS, ATTRIBUTES, type Attribute, type EmojiWorld } from './world';

type Example = FewShotExample<MediaKey>;

/** Which images to ask about, and how often. */
export interface TaskOptions {
  readonly split: Split;
  readonly style: 'seen' | 'unseen';
  readonly prompts: number;
  readonly seed: number;
}

/** The questions to ask. The name of a style that training never saw cannot be known. */
export function askable(options: TaskOptions): readonly Attribute[] {
  return options.style === 'seen' ? ATTRIBUTES : ATTRIBUTES.filter((a) => a !== 'style');
}

/**
 * One question about images of a split. Draws answers uniformly, then an image for each. Shots ask the same question about
 * other concepts of the split. The candidates are all answers of all questions.
 */
export function attributeTask(
  world: EmojiWorld,
  attribute: Attribute,
  condition: Condition,
  options: TaskOptions,
): FewShotTask<MediaKey> {
  const { split, style, prompts, seed } = options;
  const pool = (answer: string) => world.imagesWith(split, attribute, answer, style);
  const answers = ANSWERS[attribute].filter((answer) => pool(answer).length > 0);
  const concepts = new Set(answers.flatMap((answer) => Array.from(pool(answer), (p) => world.conceptOf(p))));
  if (answers.length < 2 || concepts.size < 2) {
    throw new Error(
      `eval: questions about ${attribute} require two concepts and two answers in the split ${split}, got ` +
        `${concepts.size} and ${answers.length} (${world.concepts.length} concepts in total). Raise data.maxConcepts and train again.`,
    );
  }
  const shown = (subject: number): MediaKey => (condition === 'blank' ? BLANK : subject);
  const queries = Array.from({ length: prompts }, (_, i): Example & { readonly subject: number } => {
    const random = new Random(seed).fork(`${attribute} query ${i}`);
    const answer = pick(answers, random);
    const subject = pick(pool(answer), random);
    if (condition !== 'swapped') return { subject, image: shown(subject), answer };
    const other = pick(
      answers.filter((a) => a !== answer),
      random,
    );
    return { subject, image: pick(pool(other), random), answer };
  });
  return {
    name: attribute,
    template: paperTemplates.caption,
    queries,
    candidates: ALL_ANSWERS,
    support: (_, shots, random, index) => {
      const asked = world.conceptOf(queries[index]!.subject);
      const examples: Example[] = [];
      while (examples.length < shots) {
        const answer = answers[random.int(answers.length)]!;
        const images = pool(answer);
        const image = images[random.int(images.length)]!;
        if (world.conceptOf(image) !== asked) examples.push({ image: shown(image), answer });
      }
      return examples;
    },
  };
}

/**
 * Two made-up words, each bound to a concept by `k` shots. The query shows one of the concepts in another style. Guessing
 * between the two words gives 0.5.
 */
export function bindingTask(
  world: EmojiWorld,
  k: number,
  { split, prompts, seed }: TaskOptions,
): FewShotTask<MediaKey> {
  const images = world.images(split);
  const cases = Array.from({ length: prompts }, (_, i) => {
    const random = new Random(seed).fork(`binding ${k} ${i}`);
    const words = pickSeveral(MADE_UP_WORDS, 2, random);
    const first = pick(images, random);
    let second = pick(images, random);
    while (world.conceptOf(second) === world.conceptOf(first)) second = pick(images, random);
    const bound = [first, second];
    const asked = random.int(2);
    const examples: Example[] = [];
    for (let j = 0; j < k; j++) {
      for (const w of random.int(2) ? [1, 0] : [0, 1]) examples.push({ image: bound[w]!, answer: words[w]! });
    }
    return { words, examples, query: { image: inAnotherStyle(bound[asked]!, random), answer: words[asked]! } };
  });
  return {
    name: `binding ${k}`,
    template: paperTemplates.caption,
    queries: cases.map((c) => c.query),
    candidates: MADE_UP_WORDS,
    support: (_, __, ___, index) => cases[index]!.examples,
  };
}

/**
 * Generated names, after shots that are answered by names. A name scores 1 if it equals the label and 0.5 if it shares a
 * word with the label or its tags.
 */
export function namingTask(world: EmojiWorld, { split, prompts, seed }: TaskOptions): FewShotTask<MediaKey> {
  const images = world.images(split);
  const example = (image: number): Example => ({
    image,
    answer: nameOf(world.conceptOf(image)),
    id: world.conceptOf(image).hexcode,
  });
  const random = new Random(seed).fork('naming');
  return {
    name: 'naming',
    template: paperTemplates.caption,
    queries: Array.from({ length: prompts }, () => example(pick(images, random))),
    support: Array.from({ length: 4 * prompts }, () => example(pick(images, random))),
    metric: (prediction, query) => {
      const concept = world.conceptOf(query.image as number);
      if (prediction === query.answer) return 1;
      const known = new Set([concept.label, ...concept.tags].flatMap(wordsOf));
      return wordsOf(prediction).some((w) => known.has(w)) ? 0.5 : 0;
    },
  };
}
