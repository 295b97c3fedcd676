import { randomUUID } from 'node:crypto';
import { access, mkdir, open, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { minHashBands, textKey, urlKey } from '../filters/fingerprints';
import { openLanguageDetector, type LanguageDetector } from '../filters/language';
import { presetOf, type Preset } from '../filters/presets';
import { extractPage, tidyParts, type PagePart } from '../pages/extract';
import { PAGE_LIMITS, PageError } from '../pages/html';
import { optedOut } from '../pages/opt-out';
import type { ImageRef } from '../pages/images';
import { dataOf, isOfTheMachine, isOnServer, LocalImages, pageUrl } from '../images/local-images';
import { ImageFetcher } from '../images/image-fetcher';
import { examineImage, type ImageInfo } from '../images/image-info';
import { Decontamination, type BenchmarkData } from './benchmark';
import { LineWriter } from './json-lines';
import type { Unit } from './sources';
import { readWarc } from './warc';
import type { UnitReport, WorkFolder } from './work-folder';

/** A module with these exports decides what is explicit. Absent ones let everything pass. */
export interface ExplicitContentHook {
  /** Whether a page is to be dropped for what it says. */
  text?(text: string, url: string): boolean | Promise<boolean>;
  /** Whether an image is to be dropped for what it shows. @param bytes encoded, of a format that the preset keeps */
  image?(bytes: Uint8Array): boolean | Promise<boolean>;
}

/** What every worker needs to know; it can be posted, and kept as JSON. */
export interface UnitSettings {
  readonly preset: string;
  readonly benchmark?: BenchmarkData;
  /** Path of an `ExplicitContentHook`. */
  readonly explicitHook?: string;
  /** Whether images that are not among the input are asked of their servers. */
  readonly fetchImages?: boolean;
}

export interface UnitImage extends ImageInfo {
  readonly alt: string;
  readonly caption: string;
}

/** An image that may lie elsewhere in the archives, or be fetched. */
export interface WantedImage {
  readonly wanted: readonly string[];
  readonly alt: string;
  readonly caption: string;
}

export type UnitPart = { readonly text: string } | { readonly image: UnitImage | WantedImage };

/** Lines of a unit's file; `end` is the last one. */
export type UnitLine =
  | {
      readonly page: { readonly url: string; readonly title: string; readonly parts: readonly UnitPart[] };
      readonly keys: { readonly url: number; readonly text: number; readonly bands: readonly number[] };
    }
  | { readonly image: { readonly url: string; readonly info: ImageInfo } }
  | { readonly end: UnitReport };

const MAX_FAILURES_KEPT = 10;
/** A server that gives nothing so many times in a row is left alone. */
const MAX_SILENCES = 5;

/** An image's figures; why it is dropped; or under which addresses it may lie elsewhere. */
type FoundImage = ImageInfo | string | readonly string[];

/** Extracts and filters units; what concerns several pages (duplicates, counts over the whole set) comes after. */
export class UnitExtractor {
  private readonly preset: Preset;
  private readonly decontamination: Decontamination | undefined;
  private dropped: Record<string, number> = {};
  private failures: string[] = [];

  private constructor(
    private readonly settings: UnitSettings,
    private readonly work: WorkFolder,
    private readonly fetcher: ImageFetcher,
    private readonly detect: LanguageDetector,
    private readonly hook: ExplicitContentHook,
  ) {
    this.preset = presetOf(settings.preset);
    this.decontamination = settings.benchmark && new Decontamination(settings.benchmark);
  }

  /** @throws Error for a hook that cannot be loaded */
  static async open(settings: UnitSettings, work: WorkFolder, fetcher = new ImageFetcher()): Promise<UnitExtractor> {
    return new UnitExtractor(
      settings,
      work,
      fetcher,
      await openLanguageDetector(),
      await loadHook(settings.explicitHook),
    );
  }

  /** Writes the unit's file whole or not at all; images first, so that a file never names one that is not there. */
  async extract(unit: Unit, file: string): Promise<UnitReport> {
    this.dropped = {};
    this.failures = [];
    await mkdir(path.dirname(file), { recursive: true });
    const lines = new LineWriter(file, temporaryName(file));
    const write = (line: UnitLine) => lines.write(line);
    let pages = 0;
    if (unit.kind === 'files') pages = await this.files(unit, write);
    else if (unit.kind === 'warc') pages = await this.archive(unit, write);
    else await this.fetchAll(unit, write);
    const report: UnitReport = { pages, dropped: this.dropped, failures: this.failures };
    await write({ end: report });
    await lines.close();
    return report;
  }

  private async files(
    { root, files }: Unit & { kind: 'files' },
    write: (line: UnitLine) => Promise<void>,
  ): Promise<number> {
    const images = new LocalImages(root);
    // Pages of a folder share images; one unit looks at each once.
    const known = new Map<string, Promise<FoundImage>>();
    const find = (ref: ImageRef) => {
      const key = ref.sources[0]!;
      let found = known.get(key);
      if (!found) known.set(key, (found = this.findImage(ref, images)));
      return found;
    };
    for (const name of files) {
      const url = pageUrl(name);
      await this.guarded(url, async () => {
        const bytes = await readBounded(path.join(root, name));
        await this.page(url, bytes, '', find, write);
      });
    }
    return files.length;
  }

  private async archive(
    { file, start, end }: Unit & { kind: 'warc' },
    write: (line: UnitLine) => Promise<void>,
  ): Promise<number> {
    let pages = 0;
    const want = async ({ sources }: ImageRef): Promise<FoundImage> => {
      const inline = sources.map((source) => source.startsWith('data:') && dataOf(source)).find((bytes) => bytes);
      return inline ? this.keep(inline) : sources.filter((source) => !source.startsWith('data:')).map(plainUrl);
    };
    try {
      for await (const { url, contentType, header, bytes } of readWarc(file, start, end)) {
        await this.guarded(url, async () => {
          if (/html/.test(contentType)) {
            pages++;
            if (optedOut(header)) throw new PageError('opted out');
            if (!bytes) throw new PageError('too large');
            await this.page(url, bytes, contentType, want, write);
          } else if (bytes && !optedOut(header)) {
            const info = await this.keep(bytes);
            // Of images that no page shows, reasons say nothing; those that one shows are counted as not available.
            if (typeof info !== 'string') await write({ image: { url: plainUrl(url), info } });
          }
        });
      }
    } catch (error) {
      if (isOfTheMachine(error)) throw error;
      // What stands before the damage is as good as ever.
      this.drop('archive: damaged');
      this.fail(`${path.basename(file)} from byte ${start}: ${(error as Error).message}`);
    }
    return pages;
  }

  /** Several images of a server are asked for one after the other; see `ImageFetcher`. */
  private async fetchAll(
    { images }: Unit & { kind: 'fetch' },
    write: (line: UnitLine) => Promise<void>,
  ): Promise<void> {
    let silences = 0;
    const ask = async (url: string): Promise<ImageInfo | string> => {
      if (silences === MAX_SILENCES) return 'server does not answer';
      const answer = await this.fetcher.fetch(url);
      silences = answer === 'failed' || answer === 'too slow' ? silences + 1 : 0;
      return typeof answer === 'string' ? answer : this.keep(answer);
    };
    for (const sources of images) {
      const reasons: string[] = [];
      for (const url of sources) {
        const info = await ask(url);
        if (typeof info !== 'string') {
          await write({ image: { url, info } });
          break;
        }
        reasons.push(info);
      }
      // None of its addresses led to one: the best says why.
      if (reasons.length === sources.length) this.drop(`fetch: ${reasons[0]}`);
    }
  }

  /** Counts a page that is refused, or that we cannot deal with, and goes on. */
  private async guarded(url: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (error instanceof PageError) return this.drop(`page: ${error.reason}`);
      if (isOfTheMachine(error)) throw error;
      this.drop('page: failed');
      this.fail(`${url}: ${(error as Error).message}`);
    }
  }

  private async page(
    url: string,
    bytes: Uint8Array,
    contentType: string,
    find: (ref: ImageRef) => Promise<FoundImage>,
    write: (line: UnitLine) => Promise<void>,
  ): Promise<void> {
    const { minSide, addressWords } = this.preset.image;
    const extracted = extractPage(bytes, { url, contentType, minSide });
    for (const [reason, count] of Object.entries(extracted.dropped)) this.drop(reason, count);
    if (!extracted.parts.some((part) => 'image' in part)) throw new PageError('no images');
    const parts = this.filterPieces(extracted.parts);
    const text = tidyParts(parts)
      .flatMap((part) => ('text' in part ? part.text : []))
      .join('\n\n');
    if (text === '') throw new PageError('no text');
    if (this.detect(text) !== this.preset.language) throw new PageError(`not in ${this.preset.language}`);
    for (const filter of this.preset.page) {
      const reason = filter(text);
      if (reason) throw new PageError(reason);
    }
    if (await this.hook.text?.(text, url)) throw new PageError('explicit');
    if (this.decontamination?.hasText(text)) throw new PageError('benchmark');

    const kept: UnitPart[] = [];
    for (const part of parts) {
      if ('text' in part) {
        kept.push(part);
        continue;
      }
      const { sources, alt, caption } = part.image;
      const address = sources[0]!.startsWith('data:') ? '' : sources[0]!.toLowerCase();
      const found = addressWords.some((word) => address.includes(word))
        ? 'word in the address'
        : await find(part.image);
      if (typeof found === 'string') this.drop(`image: ${found}`);
      else if ('file' in found) kept.push({ image: { ...found, alt, caption } });
      else kept.push({ image: { wanted: found, alt, caption } });
    }
    if (!kept.some((part) => 'image' in part)) throw new PageError('no images left');
    await write({
      // Not tidy yet: where more images are left out, the white space beside them keeps words and paragraphs apart.
      page: { url, title: extracted.title, parts: kept },
      keys: { url: urlKey(url), text: textKey(text), bands: minHashBands(text) },
    });
  }

  /** Lines or paragraphs that the preset keeps, with the white space at both ends of a part. */
  private filterPieces(parts: readonly PagePart[]): readonly PagePart[] {
    const { pieces } = this.preset;
    if (!pieces) return parts;
    const [split, seam] = pieces.of === 'line' ? [/\n+/, '\n'] : [/\n{2,}/, '\n\n'];
    return parts.map((part) => {
      if (!('text' in part)) return part;
      const kept = part.text.split(split).filter((piece) => {
        const [tidy] = tidyParts([{ text: piece }]);
        const reason = tidy && pieces.filter(tidy.text);
        if (reason) this.drop(`${pieces.of}: ${reason}`);
        return !reason;
      });
      return { text: kept.join(seam) };
    });
  }

  private async findImage({ sources }: ImageRef, images: LocalImages): Promise<FoundImage> {
    const bytes = await images.read(sources);
    if (bytes) return this.keep(bytes);
    const elsewhere = this.settings.fetchImages ? sources.filter(isOnServer).map(plainUrl) : [];
    return elsewhere.length > 0 ? elsewhere : 'not available';
  }

  /** Stores an image under the name of its content. @returns its figures, or why it is dropped */
  private async keep(bytes: Uint8Array): Promise<ImageInfo | string> {
    const info = await examineImage(bytes, this.preset.image);
    if (typeof info === 'string') return info;
    if (this.decontamination?.hasImage(info.look)) return 'benchmark';
    if (await this.hook.image?.(bytes)) return 'explicit';
    const file = this.work.image(info.file);
    const there = await access(file).then(
      () => true,
      () => false,
    );
    if (!there) {
      const temporary = temporaryName(file);
      await mkdir(path.dirname(file), { recursive: true });
      await writeFile(temporary, bytes);
      await rename(temporary, file);
    }
    return info;
  }

  private drop(reason: string, times = 1): void {
    this.dropped[reason] = (this.dropped[reason] ?? 0) + times;
  }

  private fail(message: string): void {
    if (this.failures.length < MAX_FAILURES_KEPT) this.failures.push(message.slice(0, 1000));
  }
}

/** A name beside the file that nobody else writes under: several workers may write the same image, or do the same unit. */
function temporaryName(file: string): string {
  return `${file}.${randomUUID()}.tmp`;
}

function plainUrl(url: string): string {
  try {
    const parsed = new URL(url);
    parsed.hash = '';
    return parsed.href;
  } catch {
    return url;
  }
}

async function readBounded(file: string): Promise<Uint8Array> {
  const handle = await open(file);
  try {
    const { size } = await handle.stat();
    if (size > PAGE_LIMITS.bytes) throw new PageError('too large');
    return await handle.readFile();
  } finally {
    await handle.close();
  }
}

async function loadHook(file: string | undefined): Promise<ExplicitContentHook> {
  if (file === undefined) return {};
  const hook = (await import(pathToFileURL(path.resolve(file)).href)) as ExplicitContentHook;
  if (typeof hook.text !== 'function' && typeof hook.image !== 'function') {
    throw new Error(
      `Explicit-content hook ${file}: expected a module that exports the function text or image, got ${Object.keys(hook).join(', ') || 'no exports'}.`,
    );
  }
  return hook;
}
