import { existsSync, mkdirSync, renameSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { NumberSet, plainKey, textKey } from '../filters/fingerprints';
import type { Preset } from '../filters/presets';
import { tidyParts } from '../pages/extract';
import { wordsOf } from '../pages/text';
import { shownUrl } from '../images/local-images';
import type { ImageInfo } from '../images/image-info';
import { LineWriter, readLines } from './json-lines';
import type { Unit } from './sources';
import { KeyTable, Marks, Spill } from './spill';
import type { UnitLine, UnitPart, UnitImage } from './unit';
import type { WorkFolder } from './work-folder';

/** What came out, by the same input always the same. */
export interface Manifest {
  readonly preset: string;
  readonly inputs: readonly string[];
  /** Pages that were read. */
  readonly pages: number;
  readonly documents: number;
  /** Images in documents; one that stands in two counts twice. */
  readonly images: number;
  readonly words: number;
  readonly pairs: number;
  /** What was left out and why; `block:` and `line:` are pieces of pages. */
  readonly dropped: Readonly<Record<string, number>>;
  /** Pages that met a defect, and damaged archives, named. */
  readonly failures: readonly string[];
  /** SHA-256 of each file. */
  readonly files: Readonly<Record<string, string>>;
}

/** Alternative texts of so many words make a pair, as in ALIGN (Jia et al., 2021), section 3. */
const PAIR_WORDS = { min: 3, max: 20 };
const MAX_FAILURES_KEPT = 100;
/** Pages whose images are in memory at a time. */
const PAGES_AT_ONCE = 2 ** 14;
/** A unit of images that are fetched. */
const IMAGES_PER_UNIT = 32;

/** A page as its unit gave it; `number` counts all pages of all units. */
type Page = Extract<UnitLine, { page: unknown }> & { readonly number: number };

/** Where an image is wanted: the page, which of its parts, and which of the addresses that the part names. */
interface Want {
  readonly page: number;
  readonly part: number;
  readonly rank: number;
}

type KnownPart = { readonly text: string } | { readonly image: UnitImage };

/**
 * Puts the pages of all units together in their order: finds the images that archives keep apart, drops what comes
 * twice, and moves the images that are used to `images`. What it must know of all pages at once lies on the disk, in
 * `work.spill`; memory holds some bytes a page. Done again after a crash it ends the same.
 */
export class Assembly {
  private readonly found: Spill<Want & { info: ImageInfo }>;
  private readonly report = { pages: 0, dropped: {} as Record<string, number>, failures: [] as string[] };

  private constructor(
    private readonly work: WorkFolder,
    private readonly preset: Preset,
    private readonly units: readonly number[],
  ) {
    this.found = new Spill(path.join(work.spill, 'found'));
  }

  /** @param units how many units each stage has; all their files are there */
  static async begin(work: WorkFolder, preset: Preset, units: readonly number[]): Promise<Assembly> {
    await rm(work.spill, { recursive: true, force: true });
    const assembly = new Assembly(work, preset, units);
    await assembly.gather();
    return assembly;
  }

  /** Units for the images that are nowhere among the input, those of one server together. */
  async *missing(): AsyncGenerator<Unit> {
    const servers = new Spill<readonly string[]>(path.join(this.work.spill, 'servers'));
    for await (const { parts } of this.pages()) {
      for (const [, { image }] of imagesOf(parts)) {
        if ('file' in image || image.wanted.length === 0) continue;
        servers.addByKey(plainKey(serverOf(image.wanted)), image.wanted);
      }
    }
    for (const part of servers.parts()) {
      const images = new Map<string, Map<string, readonly string[]>>();
      for await (const sources of servers.read(part)) {
        const server = serverOf(sources);
        const ofServer = images.get(server) ?? new Map<string, readonly string[]>();
        if (!ofServer.has(sources[0]!)) ofServer.set(sources[0]!, sources);
        images.set(server, ofServer);
      }
      // Second helpings of a server come after the first ones of all: workers seldom meet at one.
      for (let i = 0, more = true; more; i += IMAGES_PER_UNIT) {
        more = false;
        for (const ofServer of images.values()) {
          const some = [...ofServer.values()].slice(i, i + IMAGES_PER_UNIT);
          if (some.length > 0) yield { kind: 'fetch', images: some };
          more ||= ofServer.size > i + IMAGES_PER_UNIT;
        }
      }
    }
  }

  async write(out: string): Promise<Omit<Manifest, 'preset' | 'inputs'>> {
    const common = await this.commonImages();
    const repeated = await this.repeatedPages(common);
    const { pages, failures } = this.report;
    const total = { pages, documents: 0, images: 0, words: 0, pairs: 0 };
    const dropped = { ...this.report.dropped };
    const drop = (reason: string) => void (dropped[reason] = (dropped[reason] ?? 0) + 1);
    const pagesFile = new LineWriter(path.join(out, 'pages.jsonl'));
    const pairs = new Spill<{ image: string; text: string }>(path.join(this.work.spill, 'pairs'));
    const pairKeys = new KeyTable(path.join(this.work.spill, 'pair-keys'));
    let candidates = 0;
    for await (const { number, page, parts } of this.pages()) {
      const kept = this.keptParts(parts, common, drop);
      const reason = typeof kept === 'string' ? kept : repeated(number);
      if (typeof kept === 'string' || reason) {
        drop(`page: ${reason}`);
        continue;
      }
      const written = kept.map((part) => {
        if ('text' in part) return part;
        const { file, alt, caption } = part.image;
        return { image: imagePath(file), ...(alt && { alt }), ...(caption && { caption }) };
      });
      for (const part of written) {
        if ('text' in part) {
          total.words += wordsOf(part.text).length;
          continue;
        }
        total.images++;
        move(this.work.image(path.basename(part.image)), path.join(out, part.image));
        const text = [part.alt, part.caption].find((t) => t && isPairText(t));
        if (!text) continue;
        pairKeys.add(textKey(`${part.image} ${text}`), candidates++);
        pairs.add(0, { image: part.image, text });
      }
      total.documents++;
      await pagesFile.write({ url: shownUrl(page.url), title: page.title, parts: written });
    }

    const pairsFile = new LineWriter(path.join(out, 'pairs.jsonl'));
    const repeatedPairs = new Marks();
    pairKeys.markRepeated(repeatedPairs);
    let candidate = 0;
    for await (const pair of pairs.read(0)) if (!repeatedPairs.get(candidate++)) await pairsFile.write(pair);
    total.pairs = pairsFile.lines;
    const files = { 'pages.jsonl': await pagesFile.close(), 'pairs.jsonl': await pairsFile.close() };
    return { ...total, dropped: sorted(dropped), failures, files };
  }

  private async *lines(): AsyncGenerator<UnitLine> {
    for (const [stage, units] of this.units.entries()) {
      for (let i = 0; i < units; i++) yield* readLines<UnitLine>(this.work.unit(stage, i));
    }
  }

  /** Adds up the reports, and joins the images that archives hold or servers gave with the pages that want them. */
  private async gather(): Promise<void> {
    const { report } = this;
    const wanted = new Spill<Want & { url: string }>(path.join(this.work.spill, 'wanted'));
    const archived = new Spill<{ url: string; info: ImageInfo }>(path.join(this.work.spill, 'archived'));
    let page = 0;
    for await (const line of this.lines()) {
      if ('end' in line) {
        report.pages += line.end.pages;
        for (const [reason, count] of Object.entries(line.end.dropped)) {
          report.dropped[reason] = (report.dropped[reason] ?? 0) + count;
        }
        report.failures.push(...line.end.failures.slice(0, MAX_FAILURES_KEPT - report.failures.length));
      } else if ('image' in line) {
        archived.addByKey(plainKey(line.image.url), line.image);
      } else {
        for (const [part, { image }] of imagesOf(line.page.parts)) {
          if ('file' in image) continue;
          for (const [rank, url] of image.wanted.entries()) {
            wanted.addByKey(plainKey(url), { url, page, part, rank });
          }
        }
        page++;
      }
    }
    for (const part of archived.parts()) {
      const images = new Map<string, ImageInfo>();
      // The first of several answers counts.
      for await (const { url, info } of archived.read(part)) if (!images.has(url)) images.set(url, info);
      for await (const { url, ...want } of wanted.read(part)) {
        const info = images.get(url);
        if (info) this.found.add(Math.floor(want.page / PAGES_AT_ONCE), { ...want, info });
      }
    }
  }

  /** All pages in order, with the images that were found for them. */
  private async *pages(): AsyncGenerator<Page & { parts: readonly UnitPart[] }> {
    let number = 0;
    let found = new Map<string, Want & { info: ImageInfo }>();
    for await (const line of this.lines()) {
      if (!('page' in line)) continue;
      if (number % PAGES_AT_ONCE === 0) {
        found = new Map();
        for await (const image of this.found.read(number / PAGES_AT_ONCE)) {
          const place = `${image.page} ${image.part}`;
          const other = found.get(place);
          // The best address that leads to an image.
          if (!other || image.rank < other.rank) found.set(place, image);
        }
      }
      const parts = line.page.parts.map((part, i): UnitPart => {
        if ('text' in part || 'file' in part.image) return part;
        const info = found.get(`${number} ${i}`)?.info;
        return info ? { image: { ...info, alt: part.image.alt, caption: part.image.caption } } : part;
      });
      yield { ...line, number, parts };
      number++;
    }
  }

  /** Keys of images that stand in more pages than the preset allows. */
  private async commonImages(): Promise<NumberSet> {
    if (!Number.isFinite(this.preset.maxRepeats)) return new NumberSet();
    const table = new KeyTable(path.join(this.work.spill, 'images'));
    for await (const { number, parts } of this.pages()) {
      const files = imagesOf(parts).flatMap(([, { image }]) => ('file' in image ? image.file : []));
      for (const file of new Set(files)) table.add(plainKey(file), number);
    }
    return table.keysAbove(this.preset.maxRepeats);
  }

  /** Which pages are copies of an earlier one, and in what. */
  private async repeatedPages(common: NumberSet): Promise<(page: number) => string | undefined> {
    const urls = new KeyTable(path.join(this.work.spill, 'urls'));
    const texts = new KeyTable(path.join(this.work.spill, 'texts'));
    const bands = new KeyTable(path.join(this.work.spill, 'bands'));
    for await (const { number, keys, parts } of this.pages()) {
      if (typeof this.keptParts(parts, common) === 'string') continue;
      urls.add(keys.url, number);
      texts.add(keys.text, number);
      for (const band of keys.bands) bands.add(band, number);
    }
    const [byUrl, byText, byBand] = [new Marks(), new Marks(), new Marks()];
    urls.markRepeated(byUrl);
    // What an address is said to hold later is no original of anything.
    texts.markRepeated(byText, byUrl);
    bands.markRepeated(byBand, byUrl);
    return (page) => {
      if (byUrl.get(page)) return 'duplicate address';
      if (byText.get(page)) return 'duplicate text';
      return byBand.get(page) ? 'near duplicate' : undefined;
    };
  }

  /** The page's parts without images that are to be had nowhere or everywhere, or why nothing is left of it. */
  private keptParts(
    parts: readonly UnitPart[],
    common: NumberSet,
    drop: (reason: string) => void = () => undefined,
  ): KnownPart[] | string {
    const files = new Set<string>();
    const kept = tidyParts(
      parts.filter((part): part is KnownPart => {
        if ('text' in part) return true;
        if (!isKnown(part)) drop('image: not available');
        else if (common.has(plainKey(part.image.file))) drop('image: repeated in many pages');
        else if (files.has(part.image.file)) drop('image: duplicate on the page');
        else {
          files.add(part.image.file);
          return true;
        }
        return false;
      }),
    ) as KnownPart[];
    if (files.size === 0) return 'no images left';
    if (files.size > this.preset.maxImages) return 'too many images';
    return kept.some((part) => 'text' in part) ? kept : 'no text';
  }
}

type ImagePart = Extract<UnitPart, { image: unknown }>;

/** With their numbers among all parts. */
function imagesOf(parts: readonly UnitPart[]): [number, ImagePart][] {
  return parts.flatMap((part, i): [number, ImagePart][] => ('image' in part ? [[i, part]] : []));
}

function isKnown(part: ImagePart): part is Extract<KnownPart, { image: unknown }> {
  return 'file' in part.image;
}

function serverOf([first]: readonly string[]): string {
  return URL.canParse(first!) ? new URL(first!).host : '';
}

function isPairText(text: string): boolean {
  const { length } = wordsOf(text);
  return length >= PAIR_WORDS.min && length <= PAIR_WORDS.max;
}

/** A folder for each two digits: no folder grows to millions of files. */
function imagePath(file: string): string {
  return `images/${file.slice(0, 2)}/${file}`;
}

/** Moves a file; one that was moved before stays where it is. */
function move(from: string, to: string): void {
  if (existsSync(to)) return;
  mkdirSync(path.dirname(to), { recursive: true });
  renameSync(from, to);
}

function sorted(counts: Readonly<Record<string, number>>): Record<string, number> {
  return Object.fromEntries(Object.entries(counts).sort(([a], [b]) => (a < b ? -1 : 1)));
}
