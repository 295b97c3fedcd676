import type { Random } from '@flamingo-ts/kernels';
import { COUNTS, shuffled, STYLES, wordsOf, type Concept } from './concepts';
import { VARIANTS } from './images';
import { ANSWERS, ATTRIBUTES, type Attribute, type EmojiWorld } from './world';

/** Words without a meaning, until a prompt gives them one. */
export const MADE_UP_WORDS: readonly string[] =
  'mip dax blick toma wug zeb fep lorp nim gaz vot kiv pim sul bex rup tig hob yad quo jat cag dov fal'.split(' ');

export function pick<T>(items: ArrayLike<T>, random: Random): T {
  return items[random.int(items.length)]!;
}

/** Draws `n` different items. */
export function pickSeveral<T>(items: readonly T[], n: number, random: Random): T[] {
  return shuffled(items, random).slice(0, n);
}

/** The label of a concept in lower-case words. */
export function nameOf(concept: Concept): string {
  return wordsOf(concept.label).join(' ');
}

/** Known attributes of an image, in words. */
function factsOf(world: EmojiWorld, image: number): Partial<Record<Attribute, string>> {
  const facts: Partial<Record<Attribute, string>> = {};
  for (const a of ATTRIBUTES) {
    const answer = world.answer(image, a);
    if (answer !== undefined) facts[a] = answer;
  }
  return facts;
}

/** A description in sentences, as in long captions. */
export function describe(world: EmojiWorld, image: number, random: Random): string {
  const concept = world.conceptOf(image);
  const facts = factsOf(world, image);
  const sentences = [
    facts.color && `The color is ${facts.color}.`,
    `It belongs to ${facts.group}.`,
    facts.count !== 'one' && `There are ${facts.count}.`,
  ].filter((s): s is string => typeof s === 'string');
  const tags = pickSeveral(concept.tags, Math.min(3, concept.tags.length), random).map((t) => wordsOf(t).join(' '));
  if (tags.length) sentences.push(`Tags: ${tags.join(', ')}.`);
  return `A ${facts.style} ${nameOf(concept)}. ${sentences.join(' ')}`;
}

/**
 * One page of text for the language model, from training concepts only: lists of answers to one question, names bound to
 * made-up words, or descriptions. A newline replaces the `<EOC>` of pages with images.
 */
export function textPage(world: EmojiWorld, random: Random): string {
  const images = world.images('train');
  const kind = random.uniform();
  if (kind < 0.25) return attributePage(world, images, random);
  if (kind < 0.4) return answersPage(random);
  if (kind < 0.85) return bindingPage(world, images, random);
  const image = pick(images, random);
  const text = describe(world, image, random);
  return random.uniform() < 0.5 ? `${text}\n` : `${text}\nOutput: ${nameOf(world.conceptOf(image))}\n`;
}

/** A few lines like "flat grinning face yellow smileys one Output: yellow", all about one question. */
function attributePage(world: EmojiWorld, images: Int32Array, random: Random): string {
  const attribute = pick(ATTRIBUTES, random);
  const lines: string[] = [];
  const count = 3 + random.int(4);
  while (lines.length < count) {
    const answer = pick(ANSWERS[attribute], random);
    const pool = world.imagesWith('train', attribute, answer);
    const image = pool.length > 0 ? pick(pool, random) : pick(images, random);
    const facts = factsOf(world, image);
    const truth = facts[attribute];
    if (truth === undefined) continue;
    const words = shuffled([nameOf(world.conceptOf(image)), ...Object.values(facts)], random);
    lines.push(`${words.join(' ')} Output: ${truth}\n`);
  }
  return lines.join('');
}

/** Only answers, either to one question or two made-up words. */
function answersPage(random: Random): string {
  const answers = random.uniform() < 0.25 ? pickSeveral(MADE_UP_WORDS, 2, random) : ANSWERS[pick(ATTRIBUTES, random)];
  return Array.from({ length: 4 + random.int(6) }, () => `Output: ${pick(answers, random)}\n`).join('');
}

/** Names with made-up words that stay the same throughout the page. */
function bindingPage(world: EmojiWorld, images: Int32Array, random: Random): string {
  const n = 2 + random.int(2);
  const words = pickSeveral(MADE_UP_WORDS, n, random);
  const names = words.map(() => {
    const name = nameOf(world.conceptOf(pick(images, random)));
    return random.uniform() < 0.5 ? name : name.split(' ')[0]!;
  });
  return Array.from({ length: 5 + random.int(6) }, () => {
    const i = random.int(n);
    return `${names[i]} Output: ${words[i]}\n`;
  }).join('');
}

/**
 * The alt text of an image for contrastive training: words of the label, some tags, and each known attribute with
 * probability 0.6.
 */
export function altText(world: EmojiWorld, image: number, random: Random): string[] {
  const concept = world.conceptOf(image);
  const words = wordsOf(concept.label);
  for (const tag of pickSeveral(concept.tags, random.int(5), random)) words.push(...wordsOf(tag));
  for (const [attribute, answer] of Object.entries(factsOf(world, image))) {
    if (random.uniform() < 0.6) words.push(`${attribute}:${answer}`);
  }
  return words;
}

/** Every word that an alt text of training concepts can contain, in a fixed order. */
export function altTextVocabulary(world: EmojiWorld): string[] {
  const words = new Set<string>();
  for (const c of world.concepts) {
    if (c.split !== 'train') continue;
    for (const text of [c.label, ...c.tags]) for (const w of wordsOf(text)) words.add(w);
  }
  for (const a of ATTRIBUTES) for (const answer of ANSWERS[a]) words.add(`${a}:${answer}`);
  return [...words].sort();
}

/** A page of images with answers to one question. Draws the answers first, then an image for each. */
export function imagePage(
  world: EmojiWorld,
  count: number,
  random: Random,
): { readonly attribute: Attribute; readonly images: number[]; readonly answers: string[] } {
  const attribute = pick(ATTRIBUTES, random);
  const images: number[] = [];
  const answers: string[] = [];
  while (images.length < count) {
    const answer = pick(ANSWERS[attribute], random);
    const pool = world.imagesWith('train', attribute, answer);
    if (pool.length === 0) continue;
    images.push(pick(pool, random));
    answers.push(answer);
  }
  return { attribute, images, answers };
}

/** The images of the same concept and number of copies in another style. */
export function inAnotherStyle(image: number, random: Random): number {
  const drawing = Math.floor(image / VARIANTS);
  const concept = Math.floor(drawing / STYLES.length);
  const style = (drawing + 1 + random.int(STYLES.length - 1)) % STYLES.length;
  return (concept * STYLES.length + style) * VARIANTS + random.int(VARIANTS - COUNTS.length + 1);
}
