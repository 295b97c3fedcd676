import { createHash, randomUUID } from 'node:crypto';
import { access, mkdir, open, readFile, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { minHashBands, textKey, urlKey } from '../filters/fingerprints';
import { openLanguageDetector, type LanguageDetector } from '../filters/language';
import { presetOf, type Preset } from '../filters/presets';
import { extractPage, imageInText, tidyParts, type PagePart } from '../pages/extract';
import { PAGE_LIMITS, PageError } from '../pages/html';
import { optedOut } from '../pages/opt-out';
import { dataOf, isMachineError, isOnServer, LocalImages, pageUrl } from '../images/local-images';
import { ImageFetcher } from '../images/image-fetcher';
import { examineImage, type ImageInfo } from '../images/image-info';
import { Decontamination, type BenchmarkData } from './benchmark';
import { LineWriter } from './json-lines';
import type { Unit } from './sources';
import { readWarc } from './warc';
import type { UnitReport, WorkFolder } from './work-folder';

/** A module with these exports decides what is explicit. A missing export accepts everything. */
export interface ExplicitContentHook {
  /** Returns whether to drop a page for its text. */
  text?(text: string, url: string): boolean | Promise<boolean>;
  /** Returns whether to drop an image. @param bytes the encoded image, in a format that the preset keeps */
  image?(bytes: Uint8Array): boolean | Promise<boolean>;
}

/**
 * Configuration that all workers of a job share, as JSON in the work folder. It names no code: otherwise whoever can
 * write to that folder could make workers run it.
 */
export interface UnitConfig {
  readonly preset: string;
  readonly benchmark?: BenchmarkData;
  /** SHA-256 of the `ExplicitContentHook` that every worker must be started with. */
  readonly explicitHookSha256?: string;
  /** Whether to fetch images that the input does not contain. */
  readonly fetchImages?: boolean;
}

export interface UnitImage extends ImageInfo {
  readonly alt: string;
  readonly caption: string;
}

/** An image that may be found elsewhere in the archives, or fetched from one of its URLs. */
export interface MissingImage {
  readonly urls: readonly string[];
  readonly alt: string;
  readonly caption: string;
}

export type UnitPart = { readonly text: string } | { readonly image: UnitImage | MissingImage };

/** Lines of a unit's file. `end` is the last one. */
export type UnitLine =
  | {
      readonly page: { readonly url: string; readonly title: string; readonly parts: readonly UnitPart[] };
      readonly keys: { readonly url: number; readonly text: number; readonly bands: readonly number[] };
    }
  | { readonly image: { readonly url: string; readonly info: ImageInfo } }
  | { readonly end: UnitReport };

const MAX_FAILURES_KEPT = 10;
/** A server that fails this many times in a row is skipped. */
const MAX_FAILURES_IN_ROW = 5;
/** An image that is dropped for one of these reasons does not leave its alternative text. */
const DROPPED_WITH_ALT = new Set(['benchmark', 'explicit', 'opted out']);

/** The properties of an image, why it is dropped, or the URLs where it may be found. */
type FoundImage = ImageInfo | string | readonly string[];

/** Extracts and filters units. `Assembly` later handles duplicates and counts across pages. */
export class UnitExtractor {
  private readonly preset: Preset;
  private readonly decontamination: Decontamination | undefined;
  private dropped: Record<string, number> = {};
  private failures: string[] = [];

  private constructor(
    private readonly config: UnitConfig,
    private readonly work: WorkFolder,
    private readonly fetcher: ImageFetcher,
    private readonly detect: LanguageDetector,
    private readonly hook: ExplicitContentHook,
  ) {
    this.preset = presetOf(config.preset);
    this.decontamination = config.benchmark && new Decontamination(config.benchmark);
  }

  /**
   * @param options.explicitHook path of the hook, as the user who runs this worker gave it
   * @throws Error for a hook that cannot be loaded, or is not the one that the job was started with
   */
  static async open(
    config: UnitConfig,
    work: WorkFolder,
    { explicitHook, fetcher = new ImageFetcher() }: { explicitHook?: string; fetcher?: ImageFetcher } = {},
  ): Promise<UnitExtractor> {
    await checkHook(config, explicitHook);
    return new UnitExtractor(config, work, fetcher, await openLanguageDetector(), await loadHook(explicitHook));
  }

  /** Writes the unit's file atomically, and images before it, so that a file never names a missing image. */
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
    // Pages of a folder share images: examine each only once per unit.
    const known = new Map<string, Promise<FoundImage>>();
    const find = (sources: readonly string[]) => {
      const key = sources.join(' ');
      let image = known.get(key);
      if (!image) known.set(key, (image = this.findImage(sources, images)));
      return image;
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
    const find = async (sources: readonly string[]): Promise<FoundImage> => {
      const inline = sources.map(dataOf).filter((bytes) => bytes !== undefined);
      return inline.length > 0
        ? this.firstFit(inline)
        : sources.filter((url) => !url.startsWith('data:')).map(plainUrl);
    };
    const onDamage = (what: string) => {
      this.drop('archive: damaged');
      this.fail(`${path.basename(file)} from byte ${start}: ${what}`);
    };
    try {
      for await (const { kind, url, contentType, header, body } of readWarc(file, start, end, onDamage)) {
        await this.guarded(url, async () => {
          if (kind === 'page') {
            pages++;
            if (optedOut(header)) throw new PageError('opted out');
            if (typeof body === 'string') throw new PageError(body);
            await this.page(url, body, contentType, find, write);
          } else if (typeof body !== 'string' && !optedOut(header)) {
            const info = await this.keep(body);
            // A rejected image that no page shows is not counted. If a page shows it, it is counted as not available.
            if (typeof info !== 'string') await write({ image: { url: plainUrl(url), info } });
          }
        });
      }
    } catch (error) {
      if (isMachineError(error)) throw error;
      // Records before the damage are kept.
      onDamage((error as Error).message);
    }
    return pages;
  }

  /** Fetches images of a server one after the other; see `ImageFetcher`. */
  private async fetchAll(
    { images }: Unit & { kind: 'fetch' },
    write: (line: UnitLine) => Promise<void>,
  ): Promise<void> {
    let failuresInRow = 0;
    const fetchOne = async (url: string): Promise<ImageInfo | string> => {
      if (failuresInRow === MAX_FAILURES_IN_ROW) return 'server does not respond';
      const answer = await this.fetcher.fetch(url);
      failuresInRow = answer === 'failed' || answer === 'too slow' ? failuresInRow + 1 : 0;
      return typeof answer === 'string' ? answer : this.keep(answer);
    };
    for (const sources of images) {
      const reasons: string[] = [];
      for (const url of sources) {
        const info = await fetchOne(url);
        if (typeof info !== 'string') {
          await write({ image: { url, info } });
          break;
        }
        reasons.push(info);
      }
      // None of its URLs led to an image: count the reason of the best one.
      if (reasons.length === sources.length) this.drop(`fetch: ${reasons[0]}`);
    }
  }

  /** Counts a page that is rejected or fails, and continues. */
  private async guarded(url: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (error instanceof PageError) return this.drop(`page: ${error.reason}`);
      if (isMachineError(error)) throw error;
      this.drop('page: failed');
      this.fail(`${url}: ${(error as Error).message}`);
    }
  }

  private async page(
    url: string,
    bytes: Uint8Array,
    contentType: string,
    find: (sources: readonly string[]) => Promise<FoundImage>,
    write: (line: UnitLine) => Promise<void>,
  ): Promise<void> {
    const { minSide, urlWords } = this.preset.image;
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
      const { alt, caption } = part.image;
      const sources = part.image.sources.filter(
        (url) => url.startsWith('data:') || !urlWords.some((word) => url.toLowerCase().includes(word)),
      );
      const image = sources.length === 0 ? 'word in the URL' : await find(sources);
      if (typeof image === 'string') {
        this.drop(`image: ${image}`);
        if (!DROPPED_WITH_ALT.has(image)) kept.push(...imageInText(kept, alt));
      } else if ('file' in image) kept.push({ image: { ...image, alt, caption } });
      else kept.push({ image: { urls: image, alt, caption } });
    }
    if (!kept.some((part) => 'image' in part)) throw new PageError('no images left');
    await write({
      // Not tidied yet: if more images are dropped, the white space around them keeps words and paragraphs apart.
      page: { url, title: extracted.title, parts: kept },
      keys: { url: urlKey(url), text: textKey(text), bands: minHashBands(text) },
    });
  }

  /** Drops the lines or paragraphs that the preset rejects. Keeps white space at both ends of a part. */
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

  private async findImage(sources: readonly string[], images: LocalImages): Promise<FoundImage> {
    const local = await this.firstFit(images.find(sources));
    if (local !== 'not available') return local;
    const elsewhere = this.config.fetchImages ? sources.filter(isOnServer).map(plainUrl) : [];
    return elsewhere.length > 0 ? elsewhere : local;
  }

  /** The first image that the preset keeps, or why it drops the first: a page may offer several formats and sizes. */
  private async firstFit(candidates: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<ImageInfo | string> {
    let reason: string | undefined;
    for await (const bytes of candidates) {
      const info = await this.keep(bytes);
      // Another version of a benchmark's image, or of an explicit one, is no better.
      if (typeof info !== 'string' || DROPPED_WITH_ALT.has(info)) return info;
      reason ??= info;
    }
    return reason ?? 'not available';
  }

  /** Stores an image under a name derived from its content. @returns its properties, or why it is dropped */
  private async keep(bytes: Uint8Array): Promise<ImageInfo | string> {
    const info = await examineImage(bytes, this.preset.image);
    if (typeof info === 'string') return info;
    if (this.decontamination?.hasImage(info.perceptualHash)) return 'benchmark';
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

/** A unique name in the same folder: several workers may write the same image or process the same unit. */
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

/** SHA-256 of a hook's code; undefined without a hook. */
export async function hashHook(file: string | undefined): Promise<string | undefined> {
  return file === undefined
    ? undefined
    : createHash('sha256')
        .update(await readFile(file))
        .digest('hex');
}

/** @throws Error unless the worker was given the hook that the job was started with */
export async function checkHook({ explicitHookSha256 }: UnitConfig, file: string | undefined): Promise<void> {
  const sha256 = await hashHook(file);
  if (sha256 === explicitHookSha256) return;
  const got = file === undefined ? 'no hook' : `${file} (SHA-256 ${sha256})`;
  throw new Error(
    explicitHookSha256 === undefined
      ? `Explicit-content hook: expected none, because the job was started without one, got ${got}.`
      : `Explicit-content hook: expected the one that the job was started with (SHA-256 ${explicitHookSha256}), got ${got}. ` +
          'Start the worker with a copy of it that you trust: --explicit-hook, or the option explicitHook.',
  );
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
