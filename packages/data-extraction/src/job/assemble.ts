import { existsSync, mkdirSync, renameSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import { NumberSet, plainKey, textKey } from '../filters/fingerprints';
import type { Preset } from '../filters/presets';
import { imageInText, tidyParts } from '../pages/extract';
import { wordsOf } from '../pages/text';
import { shownUrl } from '../images/local-images';
import type { ImageInfo } from '../images/image-info';
import { LineWriter, readLines } from './json-lines';
import type { Unit } from './sources';
import { ItemSet, KeyTable, Spill } from './spill';
import type { UnitLine, UnitPart, UnitImage } from './unit';
import type { WorkFolder } from './work-folder';

/** The result of an extraction. The same input always produces the same manifest. */
export interface Manifest {
  readonly preset: string;
  readonly inputs: readonly string[];
  /** Number of pages read. */
  readonly pages: number;
  readonly documents: number;
  /** Images in documents. An image in two documents counts twice. */
  readonly images: number;
  readonly words: number;
  readonly pairs: number;
  /** What was dropped, by reason. `block:`, `paragraph:` and `line:` count parts of pages. */
  readonly dropped: Readonly<Record<string, number>>;
  /** Pages whose extraction failed and damaged archives, each with the cause. */
  readonly failures: readonly string[];
  /** SHA-256 of each file. */
  readonly files: Readonly<Record<string, string>>;
}

/** Number of words of an alternative text that makes a pair, as in ALIGN (Jia et al., 2021), section 3. */
const PAIR_WORDS = { min: 3, max: 20 };
const MAX_FAILURES_KEPT = 100;
/** Pages whose images are in memory at the same time. */
const PAGES_AT_ONCE = 2 ** 14;
/** Images that one unit fetches. */
const IMAGES_PER_UNIT = 32;

/** A page of a unit. `number` is its index among the pages of all units. */
type Page = Extract<UnitLine, { page: unknown }> & { readonly number: number };

/** Where an image is used: the page, the part of the page, and the rank among the URLs of that part. */
interface ImageUse {
  readonly page: number;
  readonly part: number;
  readonly rank: number;
}

type KnownPart = { readonly text: string } | { readonly image: UnitImage };

/**
 * Merges the pages of all units in order: joins pages with images from other records or units, drops duplicates, and
 * moves the used images to `images`. Data about all pages is on disk, in `work.spill`; memory holds a few bytes per
 * page. Running it again after a crash produces the same result.
 */
export class Assembly {
  private readonly found: Spill<ImageUse & { info: ImageInfo }>;
  private readonly report = { pages: 0, dropped: {} as Record<string, number>, failures: [] as string[] };

  private constructor(
    private readonly work: WorkFolder,
    private readonly preset: Preset,
    private readonly units: readonly number[],
  ) {
    this.found = new Spill(path.join(work.spill, 'found'));
  }

  /** @param units number of units of each stage; all their files exist */
  static async begin(work: WorkFolder, preset: Preset, units: readonly number[]): Promise<Assembly> {
    await rm(work.spill, { recursive: true, force: true });
    const assembly = new Assembly(work, preset, units);
    await assembly.gather();
    return assembly;
  }

  /** Plans units that fetch the images that the input does not contain, grouped by server. */
  async *missing(): AsyncGenerator<Unit> {
    const servers = new Spill<readonly string[]>(path.join(this.work.spill, 'servers'));
    for await (const { parts } of this.pages()) {
      for (const [, { image }] of imagesOf(parts)) {
        if ('file' in image || image.urls.length === 0) continue;
        servers.addByKey(plainKey(serverOf(image.urls)), image.urls);
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
      // Round-robin across servers, so that workers rarely use the same one.
      let lists = [...images.values()].map((ofServer) => [...ofServer.values()]);
      for (let i = 0; lists.length > 0; i += IMAGES_PER_UNIT) {
        for (const list of lists) yield { kind: 'fetch', images: list.slice(i, i + IMAGES_PER_UNIT) };
        lists = lists.filter((list) => list.length > i + IMAGES_PER_UNIT);
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
    const repeatedPairs = new ItemSet();
    pairKeys.findRepeated(repeatedPairs);
    let candidate = 0;
    for await (const pair of pairs.read(0)) if (!repeatedPairs.has(candidate++)) await pairsFile.write(pair);
    total.pairs = pairsFile.lines;
    const files = { 'pages.jsonl': await pagesFile.close(), 'pairs.jsonl': await pairsFile.close() };
    return { ...total, dropped: sorted(dropped), failures, files };
  }

  private async *lines(): AsyncGenerator<UnitLine> {
    for (const [stage, units] of this.units.entries()) {
      for (let i = 0; i < units; i++) yield* readLines<UnitLine>(this.work.unit(stage, i));
    }
  }

  /** Adds up the reports, and joins images from archives and servers with the pages that use them. */
  private async gather(): Promise<void> {
    const { report } = this;
    const missing = new Spill<ImageUse & { url: string }>(path.join(this.work.spill, 'missing'));
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
        checkFile(line.image.info.file);
        archived.addByKey(plainKey(line.image.url), line.image);
      } else {
        for (const [part, { image }] of imagesOf(line.page.parts)) {
          if ('file' in image) {
            checkFile(image.file);
            continue;
          }
          for (const [rank, url] of image.urls.entries()) {
            missing.addByKey(plainKey(url), { url, page, part, rank });
          }
        }
        page++;
      }
    }
    for (const part of archived.parts()) {
      const images = new Map<string, ImageInfo>();
      // If an archive has several responses for a URL, use the first.
      for await (const { url, info } of archived.read(part)) if (!images.has(url)) images.set(url, info);
      for await (const { url, ...use } of missing.read(part)) {
        const info = images.get(url);
        if (info) this.found.add(Math.floor(use.page / PAGES_AT_ONCE), { ...use, info });
      }
    }
  }

  /** Yields all pages in order, with the images that were found for them. */
  private async *pages(): AsyncGenerator<Page & { parts: readonly UnitPart[] }> {
    let number = 0;
    let byPlace = new Map<string, ImageUse & { info: ImageInfo }>();
    for await (const line of this.lines()) {
      if (!('page' in line)) continue;
      if (number % PAGES_AT_ONCE === 0) {
        byPlace = new Map();
        for await (const image of this.found.read(number / PAGES_AT_ONCE)) {
          const place = `${image.page} ${image.part}`;
          const other = byPlace.get(place);
          // Prefer the best URL that led to an image.
          if (!other || image.rank < other.rank) byPlace.set(place, image);
        }
      }
      const parts = line.page.parts.map((part, i): UnitPart => {
        if ('text' in part || 'file' in part.image) return part;
        const info = byPlace.get(`${number} ${i}`)?.info;
        return info ? { image: { ...info, alt: part.image.alt, caption: part.image.caption } } : part;
      });
      yield { ...line, number, parts };
      number++;
    }
  }

  /** Keys of images that occur on more pages than the preset allows. */
  private async commonImages(): Promise<NumberSet> {
    if (!Number.isFinite(this.preset.maxRepeats)) return new NumberSet();
    const table = new KeyTable(path.join(this.work.spill, 'images'));
    for await (const { number, parts } of this.pages()) {
      const files = imagesOf(parts).flatMap(([, { image }]) => ('file' in image ? image.file : []));
      for (const file of new Set(files)) table.add(plainKey(file), number);
    }
    return table.keysAbove(this.preset.maxRepeats);
  }

  /** Returns why a page is a copy of an earlier one; undefined if it is not. */
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
    const [byUrl, byText, byBand] = [new ItemSet(), new ItemSet(), new ItemSet()];
    urls.findRepeated(byUrl);
    // A page that is dropped for its URL does not count as the original of another.
    texts.findRepeated(byText, byUrl);
    bands.findRepeated(byBand, byUrl);
    return (page) => {
      if (byUrl.has(page)) return 'duplicate URL';
      if (byText.has(page)) return 'duplicate text';
      return byBand.has(page) ? 'near duplicate' : undefined;
    };
  }

  /** Removes images that are unavailable or too common. Returns the other parts, or why the page is dropped. */
  private keptParts(
    parts: readonly UnitPart[],
    common: NumberSet,
    drop: (reason: string) => void = () => undefined,
  ): KnownPart[] | string {
    const files = new Set<string>();
    const kept: KnownPart[] = [];
    for (const part of parts) {
      if ('text' in part) {
        kept.push(part);
        continue;
      }
      const reason = this.imageReason(part, common, files);
      if (reason !== undefined) {
        drop(`image: ${reason}`);
        kept.push(...imageInText(kept, part.image.alt));
      } else if (isKnown(part)) {
        files.add(part.image.file);
        kept.push(part);
      }
    }
    if (files.size === 0) return 'no images left';
    if (files.size > this.preset.maxImages) return 'too many images';
    const tidy = tidyParts(kept) as KnownPart[];
    return tidy.some((part) => 'text' in part) ? tidy : 'no text';
  }

  private imageReason(part: ImagePart, common: NumberSet, onPage: ReadonlySet<string>): string | undefined {
    if (!isKnown(part)) return 'not available';
    const { file } = part.image;
    if (common.has(plainKey(file))) return 'on too many pages';
    return onPage.has(file) ? 'duplicate on the page' : undefined;
  }
}

type ImagePart = Extract<UnitPart, { image: unknown }>;

/** Images with their indices among all parts. */
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

/** Checks a file name that a worker wrote: a forged one could lead outside the folder. @throws Error for such a name */
function checkFile(file: string): void {
  if (/^[\da-f]{40}\.(?:jpg|png|webp|gif|avif)$/.test(file)) return;
  throw new Error(
    `Work folder: expected an image named by 40 hexadecimal digits, got ${file}. Delete the work folder.`,
  );
}

/** One folder for each pair of first digits, so that no folder grows to millions of files. */
function imagePath(file: string): string {
  return `images/${file.slice(0, 2)}/${file}`;
}

/** Moves a file, unless an earlier call moved it. */
function move(from: string, to: string): void {
  if (existsSync(to)) return;
  mkdirSync(path.dirname(to), { recursive: true });
  renameSync(from, to);
}

function sorted(counts: Readonly<Record<string, number>>): Record<string, number> {
  return Object.fromEntries(Object.entries(counts).sort(([a], [b]) => (a < b ? -1 : 1)));
}
