import { createWriteStream } from 'node:fs';
import { open, rename, writeFile, access } from 'node:fs/promises';
import { once } from 'node:events';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { Decontamination, type BenchmarkData } from './benchmark';
import { extractPage, tidyParts, type PagePart } from './extract';
import { minHashBands, textKey, urlKey } from './fingerprints';
import { PAGE_LIMITS, PageError } from './html';
import { openLanguageDetector, type LanguageDetector } from './language';
import { dataOf, LocalPictures, pageUrl } from './local-pictures';
import { examinePicture, type PictureInfo } from './picture-info';
import type { PictureRef } from './pictures';
import { presetOf, type Preset } from './presets';
import type { Unit } from './sources';
import { readWarc } from './warc';

/** A module with these exports decides what is explicit. Absent ones let everything pass. */
export interface ExplicitContentHook {
  /** Whether a page is to be dropped for what it says. */
  text?(text: string, url: string): boolean | Promise<boolean>;
  /** Whether a picture is to be dropped for what it shows. @param bytes encoded, of a format that the preset keeps */
  picture?(bytes: Uint8Array): boolean | Promise<boolean>;
}

/** What every worker needs to know; it can be posted. */
export interface UnitSettings {
  readonly preset: string;
  /** Folder of unit files and of pictures that may be wanted. */
  readonly work: string;
  readonly benchmark?: BenchmarkData;
  /** Path of an `ExplicitContentHook`. */
  readonly explicitHook?: string;
}

export interface UnitPicture extends PictureInfo {
  readonly alt: string;
  readonly caption: string;
}

/** A picture of an archive that may hold it elsewhere. */
export interface WantedPicture {
  readonly wanted: readonly string[];
  readonly alt: string;
  readonly caption: string;
}

export type UnitPart = { readonly text: string } | { readonly picture: UnitPicture | WantedPicture };

/** Lines of a unit's file; `end` is the last one. */
export type UnitLine =
  | {
      readonly page: { readonly url: string; readonly title: string; readonly parts: readonly UnitPart[] };
      readonly keys: { readonly url: number; readonly text: number; readonly bands: readonly number[] };
    }
  | { readonly picture: { readonly url: string; readonly info: PictureInfo } }
  | { readonly end: UnitReport };

export interface UnitReport {
  /** Pages that were read. */
  readonly pages: number;
  readonly dropped: Readonly<Record<string, number>>;
  /** Pages that met a defect of ours, named; they are counted under `page: failed`. */
  readonly failures: readonly string[];
}

const MAX_FAILURES_KEPT = 10;

/** Extracts and filters units; what concerns several pages (duplicates, counts over the whole set) comes after. */
export class UnitExtractor {
  private readonly preset: Preset;
  private readonly decontamination: Decontamination | undefined;
  private dropped: Record<string, number> = {};
  private failures: string[] = [];

  private constructor(
    private readonly settings: UnitSettings,
    private readonly detect: LanguageDetector,
    private readonly hook: ExplicitContentHook,
  ) {
    this.preset = presetOf(settings.preset);
    this.decontamination = settings.benchmark && new Decontamination(settings.benchmark);
  }

  /** @throws Error for a hook that cannot be loaded */
  static async open(settings: UnitSettings): Promise<UnitExtractor> {
    return new UnitExtractor(settings, await openLanguageDetector(), await loadHook(settings.explicitHook));
  }

  /** Writes the unit's file whole or not at all; pictures first, so that a file never names one that is not there. */
  async extract(unit: Unit, file: string): Promise<UnitReport> {
    this.dropped = {};
    this.failures = [];
    const temporary = `${file}.${process.pid}.tmp`;
    const stream = createWriteStream(temporary);
    const write = async (line: UnitLine) => {
      if (!stream.write(`${JSON.stringify(line)}\n`)) await once(stream, 'drain');
    };
    const pages = unit.kind === 'files' ? await this.files(unit, write) : await this.archive(unit, write);
    const report: UnitReport = { pages, dropped: this.dropped, failures: this.failures };
    await write({ end: report });
    stream.end();
    await once(stream, 'close');
    await rename(temporary, file);
    return report;
  }

  private async files(
    { root, files }: Unit & { kind: 'files' },
    write: (line: UnitLine) => Promise<void>,
  ): Promise<number> {
    const pictures = new LocalPictures(root);
    // Pages of a folder share pictures; one unit looks at each once.
    const known = new Map<string, Promise<PictureInfo | string>>();
    const find = (ref: PictureRef) => {
      const key = ref.sources[0]!;
      let found = known.get(key);
      if (!found) known.set(key, (found = this.findPicture(ref, pictures)));
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
    const want = async ({ sources }: PictureRef): Promise<PictureInfo | string | readonly string[]> => {
      const inline = sources.map((source) => source.startsWith('data:') && dataOf(source)).find((bytes) => bytes);
      return inline ? this.keep(inline) : sources.filter((source) => !source.startsWith('data:')).map(plainUrl);
    };
    try {
      for await (const { url, contentType, bytes } of readWarc(file, start, end)) {
        await this.guarded(url, async () => {
          if (/html/.test(contentType)) {
            pages++;
            if (!bytes) throw new PageError('too large');
            await this.page(url, bytes, contentType, want, write);
          } else if (bytes) {
            const info = await this.keep(bytes);
            // Of pictures that no page shows, reasons say nothing; those that one shows are counted as not available.
            if (typeof info !== 'string') await write({ picture: { url: plainUrl(url), info } });
          }
        });
      }
    } catch (error) {
      // What stands before the damage is as good as ever.
      this.drop('archive: damaged');
      this.fail(`${path.basename(file)} from byte ${start}: ${(error as Error).message}`);
    }
    return pages;
  }

  /** Counts a page that is refused, or that we cannot deal with, and goes on. */
  private async guarded(url: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (error instanceof PageError) return this.drop(`page: ${error.reason}`);
      // A full disk is nobody's page: the unit ends, and is done again.
      if ((error as NodeJS.ErrnoException).code === 'ENOSPC') throw error;
      this.drop('page: failed');
      this.fail(`${url}: ${(error as Error).message}`);
    }
  }

  private async page(
    url: string,
    bytes: Uint8Array,
    contentType: string,
    find: (ref: PictureRef) => Promise<PictureInfo | string | readonly string[]>,
    write: (line: UnitLine) => Promise<void>,
  ): Promise<void> {
    const { minSide, addressWords } = this.preset.picture;
    const extracted = extractPage(bytes, { url, contentType, minSide });
    for (const [reason, count] of Object.entries(extracted.dropped)) this.drop(reason, count);
    if (!extracted.parts.some((part) => 'picture' in part)) throw new PageError('no images');
    const parts = tidyParts(this.filterPieces(tidyParts(extracted.parts)));
    const text = parts.flatMap((part) => ('text' in part ? part.text : [])).join('\n\n');
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
      const { sources, alt, caption } = part.picture;
      const address = sources[0]!.startsWith('data:') ? '' : sources[0]!.toLowerCase();
      const found = addressWords.some((word) => address.includes(word))
        ? 'word in the address'
        : await find(part.picture);
      if (typeof found === 'string') this.drop(`image: ${found}`);
      else if ('file' in found) kept.push({ picture: { ...found, alt, caption } });
      else kept.push({ picture: { wanted: found, alt, caption } });
    }
    if (!kept.some((part) => 'picture' in part)) throw new PageError('no images left');
    await write({
      page: { url, title: extracted.title, parts: tidyParts(kept) },
      keys: { url: urlKey(url), text: textKey(text), bands: minHashBands(text) },
    });
  }

  /** Lines or paragraphs that the preset keeps. */
  private filterPieces(parts: readonly PagePart[]): PagePart[] {
    const { pieces } = this.preset;
    if (!pieces) return [...parts];
    const [split, seam] = pieces.of === 'line' ? [/\n+/, '\n'] : [/\n{2,}/, '\n\n'];
    return parts.map((part) => {
      if (!('text' in part)) return part;
      const kept = part.text.split(split).filter((piece) => {
        const reason = pieces.filter(piece);
        if (reason) this.drop(`${pieces.of}: ${reason}`);
        return !reason;
      });
      return { text: kept.join(seam) };
    });
  }

  private async findPicture(ref: PictureRef, pictures: LocalPictures): Promise<PictureInfo | string> {
    const bytes = await pictures.read(ref.sources);
    return bytes ? this.keep(bytes) : 'not available';
  }

  /** Stores a picture under the name of its content. @returns its figures, or why it is dropped */
  private async keep(bytes: Uint8Array): Promise<PictureInfo | string> {
    const info = await examinePicture(bytes, this.preset.picture);
    if (typeof info === 'string') return info;
    if (this.decontamination?.hasPicture(info.look)) return 'benchmark';
    if (await this.hook.picture?.(bytes)) return 'explicit';
    const file = path.join(this.settings.work, 'pictures', info.file);
    const there = await access(file).then(
      () => true,
      () => false,
    );
    if (!there) {
      const temporary = `${file}.${process.pid}-${workerNumber()}.tmp`;
      await writeFile(temporary, bytes);
      await rename(temporary, file);
    }
    return info;
  }

  private drop(reason: string, times = 1): void {
    this.dropped[reason] = (this.dropped[reason] ?? 0) + times;
  }

  private fail(message: string): void {
    if (this.failures.length < MAX_FAILURES_KEPT) this.failures.push(message);
  }
}

let files = 0;
/** A number that no other file of this thread has; two threads may write the same picture. */
function workerNumber(): string {
  return `${Math.random().toString(36).slice(2)}-${files++}`;
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
  if (typeof hook.text !== 'function' && typeof hook.picture !== 'function') {
    throw new Error(
      `Explicit-content hook ${file}: expected a module that exports the function text or picture, got ${Object.keys(hook).join(', ') || 'no exports'}.`,
    );
  }
  return hook;
}
