import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Random } from '@flamingo-ts/kernels';
import type { Artwork } from './artwork';

/** The nine groups of the emoji standard, each in one word. */
export const GROUPS = [
  'smileys',
  'people',
  'animals',
  'food',
  'travel',
  'activities',
  'objects',
  'symbols',
  'flags',
] as const;
/** The three drawings of a concept: OpenMoji in color, Twemoji, OpenMoji in black. */
export const STYLES = ['outlined', 'flat', 'sketch'] as const;
/** Side of the images in pixels. */
export const SIDE = 48;
export const COUNTS = ['one', 'two', 'three'] as const;
export type Style = (typeof STYLES)[number];

/** Parts of the concepts: training, tuning the configuration (`choosing`), and the report (`heldOut`). */
export type Split = 'train' | 'choosing' | 'heldOut';

export interface Concept {
  /** Code points joined by dashes. */
  readonly hexcode: string;
  readonly label: string;
  readonly tags: readonly string[];
  /** Position in `GROUPS`. */
  readonly group: number;
  /** Concepts of a family (man, woman and person astronaut; all clock faces) are all in the same split. */
  readonly family: string;
  readonly split: Split;
  /** SVG files in the order of `STYLES`. */
  readonly files: readonly [string, string, string];
}

interface Annotation {
  readonly hexcode: string;
  readonly label: string;
  readonly tags?: readonly string[];
  readonly group?: number;
}

/** Positions in `GROUPS` by group number of emojibase. Group 2 (components such as skin tones) has no images. */
const GROUP_OF: Readonly<Record<number, number>> = { 0: 0, 1: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 6, 8: 7, 9: 8 };
const HELD_OUT_SHARE = 0.15;
const CHOOSING_SHARE = 0.05;
/** Larger families are always in the training split: a held-out one would make up half of the questions of its group. */
const LARGEST_SPLIT_FAMILY = 10;

/**
 * The concepts that have all three drawings and annotations, split by family and stratified by group.
 *
 * @param seed of the split
 */
export function loadConcepts(artwork: Artwork, seed = 0): Concept[] {
  const annotations = JSON.parse(readFileSync(artwork.annotations, 'utf8')) as Annotation[];
  const inColor = svgFiles(join(artwork.openmoji, 'color', 'svg'));
  const inBlack = svgFiles(join(artwork.openmoji, 'black', 'svg'));
  const flat = svgFiles(artwork.twemoji);

  const concepts: Omit<Concept, 'split'>[] = [];
  for (const { hexcode, label, tags = [], group } of annotations) {
    if (group === undefined || GROUP_OF[group] === undefined) continue;
    const files = [inColor, flat, inBlack].map((set) => set.get(fileKey(hexcode)));
    if (files.some((f) => f === undefined)) continue;
    const ours = GROUP_OF[group];
    concepts.push({
      hexcode,
      label,
      tags,
      group: ours,
      family: familyOf(label, ours),
      files: files as unknown as [string, string, string],
    });
  }
  const splits = splitFamilies(concepts, seed);
  return concepts.map((c) => ({ ...c, split: splits.get(c.family)! }));
}

/** Lower-case words of a label or tag, without punctuation and diacritics. */
export function wordsOf(text: string): string[] {
  return text
    .toLowerCase()
    .normalize('NFKD')
    .replace(/[\u0300-\u036f]/g, '')
    .split(/[^a-z0-9]+/)
    .filter((w) => w.length > 0);
}

/** File names differ in case and in whether they include the variation selector. The key ignores both. */
function fileKey(name: string): string {
  return name.toUpperCase().replaceAll('-FE0F', '');
}

function svgFiles(folder: string): Map<string, string> {
  const files = new Map<string, string>();
  for (const file of readdirSync(folder)) {
    if (file.endsWith('.svg')) files.set(fileKey(file.slice(0, -4)), join(folder, file));
  }
  return files;
}

const GENDER_WORDS = new Set(
  'man men woman women person people boy boys girl girls mx male female merman mermaid merperson'.split(' '),
);

function familyOf(label: string, group: number): string {
  const text = label.toLowerCase();
  if (/o’clock|-thirty$/.test(text)) return 'clock face';
  if (GROUPS[group] !== 'people') return text;
  const words = wordsOf(text.replace('facing right', '')).filter((w) => !GENDER_WORDS.has(w));
  return words.length > 0 ? `people: ${words.join(' ')}` : 'people: person';
}

function splitFamilies(concepts: readonly Omit<Concept, 'split'>[], seed: number): Map<string, Split> {
  const splits = new Map<string, Split>();
  for (let group = 0; group < GROUPS.length; group++) {
    const families = new Map<string, number>();
    for (const c of concepts) if (c.group === group) families.set(c.family, (families.get(c.family) ?? 0) + 1);
    const total = [...families.values()].reduce((a, b) => a + b, 0);
    const random = new Random(seed).fork(`split ${group}`);
    let heldOut = 0;
    let choosing = 0;
    for (const [family, size] of shuffled([...families], random)) {
      let split: Split = 'train';
      if (size <= LARGEST_SPLIT_FAMILY) {
        if (heldOut + size <= Math.ceil(HELD_OUT_SHARE * total)) split = 'heldOut';
        else if (choosing + size <= Math.ceil(CHOOSING_SHARE * total)) split = 'choosing';
      }
      if (split === 'heldOut') heldOut += size;
      if (split === 'choosing') choosing += size;
      splits.set(family, split);
    }
  }
  return splits;
}

/** A shuffled copy (Fisher-Yates). */
export function shuffled<T>(items: readonly T[], random: Random): T[] {
  const out = [...items];
  for (let i = out.length - 1; i > 0; i--) {
    const j = random.int(i + 1);
    [out[i], out[j]] = [out[j]!, out[i]!];
  }
  return out;
}
