import { createHash, type Hash } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream, createWriteStream, type WriteStream } from 'node:fs';
import { access, mkdir, rename } from 'node:fs/promises';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { tidyParts } from './extract';
import { NumberSet, textKey } from './fingerprints';
import { shownUrl } from './local-pictures';
import type { PictureInfo } from './picture-info';
import type { Preset } from './presets';
import { wordsOf } from './text';
import type { UnitLine, UnitPart, UnitPicture } from './unit';

/** What came out, by the same input always the same. */
export interface Manifest {
  readonly preset: string;
  readonly inputs: readonly string[];
  /** Pages that were read. */
  readonly pages: number;
  readonly documents: number;
  /** Pictures in documents; one that stands in two counts twice. */
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

/**
 * Puts the units' pages together in their order: finds the pictures that archives keep apart, drops what comes twice,
 * and moves the pictures that are used to `images`. Done again after a crash it ends the same.
 *
 * @param units files of all units, in order
 */
export async function assemble(
  units: readonly string[],
  { work, out, preset }: { work: string; out: string; preset: Preset },
): Promise<Omit<Manifest, 'preset' | 'inputs'>> {
  const dropped: Record<string, number> = {};
  const drop = (reason: string) => void (dropped[reason] = (dropped[reason] ?? 0) + 1);
  const archived = await archivedPictures(units);
  const repeats = Number.isFinite(preset.maxRepeats) ? await countPictures(units, archived) : undefined;
  const seen = { urls: new NumberSet(), texts: new NumberSet(), bands: new NumberSet(), pairs: new NumberSet() };
  const pagesFile = new JsonLines(path.join(out, 'pages.jsonl'));
  const pairsFile = new JsonLines(path.join(out, 'pairs.jsonl'));
  const total = { pages: 0, documents: 0, images: 0, words: 0, pairs: 0 };
  const failures: string[] = [];

  for await (const line of linesOf(units)) {
    if ('end' in line) {
      total.pages += line.end.pages;
      for (const [reason, count] of Object.entries(line.end.dropped)) dropped[reason] = (dropped[reason] ?? 0) + count;
      for (const failure of line.end.failures) if (failures.length < MAX_FAILURES_KEPT) failures.push(failure);
    }
    if (!('page' in line)) continue;
    const parts = tidyParts(
      line.page.parts.filter((part) => {
        if ('text' in part) return true;
        const picture = find(part.picture, archived);
        if (!picture) drop('image: not available');
        else if (repeats && repeats.get(picture.file)! > preset.maxRepeats) drop('image: repeated in many pages');
        else return true;
        return false;
      }),
    ) as UnitPart[];
    const pictures = onlyOnce(parts, archived, () => drop('image: duplicate on the page'));
    if (pictures.size === 0) drop('page: no images left');
    else if (pictures.size > preset.maxPictures) drop('page: too many images');
    else if (!parts.some((part) => 'text' in part)) drop('page: no text');
    else if (!seen.urls.add(line.keys.url)) drop('page: duplicate address');
    else if (!seen.texts.add(line.keys.text)) drop('page: duplicate text');
    else if (line.keys.bands.some((band) => seen.bands.has(band))) drop('page: near duplicate');
    else {
      for (const band of line.keys.bands) seen.bands.add(band);
      const written = tidyParts(parts.filter((part) => 'text' in part || pictures.has(part))).map((part) => {
        if ('text' in part) return part;
        const { file, alt, caption } = find(part.picture, archived)!;
        return { image: imagePath(file), ...(alt && { alt }), ...(caption && { caption }) };
      });
      for (const part of written) {
        if ('text' in part) {
          total.words += wordsOf(part.text).length;
          continue;
        }
        total.images++;
        await move(path.join(work, 'pictures', path.basename(part.image)), path.join(out, part.image));
        const text = [part.alt, part.caption].find((t) => t && isPairText(t));
        if (!text || !seen.pairs.add(textKey(`${part.image} ${text}`))) continue;
        total.pairs++;
        await pairsFile.write({ image: part.image, text });
      }
      total.documents++;
      await pagesFile.write({ url: shownUrl(line.page.url), title: line.page.title, parts: written });
    }
  }
  const files = { 'pages.jsonl': await pagesFile.close(), 'pairs.jsonl': await pairsFile.close() };
  return { ...total, dropped: sorted(dropped), failures, files };
}

async function* linesOf(files: readonly string[]): AsyncGenerator<UnitLine> {
  for (const file of files) {
    for await (const line of createInterface({ input: createReadStream(file), crlfDelay: Infinity })) {
      yield JSON.parse(line) as UnitLine;
    }
  }
}

/** Pictures that archives hold as records of their own, by address; the first of several answers counts. */
async function archivedPictures(units: readonly string[]): Promise<Map<string, PictureInfo>> {
  const found = new Map<string, PictureInfo>();
  for await (const line of linesOf(units)) {
    if ('picture' in line && !found.has(line.picture.url)) found.set(line.picture.url, line.picture.info);
  }
  return found;
}

async function countPictures(
  units: readonly string[],
  archived: ReadonlyMap<string, PictureInfo>,
): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  for await (const line of linesOf(units)) {
    if (!('page' in line)) continue;
    const files = line.page.parts.flatMap((part) => ('text' in part ? [] : (find(part.picture, archived)?.file ?? [])));
    for (const file of new Set(files)) counts.set(file, (counts.get(file) ?? 0) + 1);
  }
  return counts;
}

type PicturePart = Extract<UnitPart, { picture: unknown }>;

function find(picture: PicturePart['picture'], archived: ReadonlyMap<string, PictureInfo>): UnitPicture | undefined {
  if ('file' in picture) return picture;
  const info = picture.wanted.map((url) => archived.get(url)).find((found) => found);
  return info && { ...info, alt: picture.alt, caption: picture.caption };
}

/** The first of the parts that show the same picture, under whatever address. */
function onlyOnce(
  parts: readonly UnitPart[],
  archived: ReadonlyMap<string, PictureInfo>,
  again: () => void,
): Set<UnitPart> {
  const files = new Set<string>();
  const kept = new Set<UnitPart>();
  for (const part of parts) {
    if ('text' in part) continue;
    const { file } = find(part.picture, archived)!;
    if (files.has(file)) again();
    else kept.add(part);
    files.add(file);
  }
  return kept;
}

function isPairText(text: string): boolean {
  const { length } = wordsOf(text);
  return length >= PAIR_WORDS.min && length <= PAIR_WORDS.max;
}

/** A folder for each two digits: no folder grows to millions of files. */
function imagePath(file: string): string {
  return `images/${file.slice(0, 2)}/${file}`;
}

/** Moves a file; one that was moved before a crash stays where it is. */
async function move(from: string, to: string): Promise<void> {
  await mkdir(path.dirname(to), { recursive: true });
  try {
    await rename(from, to);
  } catch (error) {
    await access(to).catch(() => {
      throw error;
    });
  }
}

function sorted(counts: Readonly<Record<string, number>>): Record<string, number> {
  return Object.fromEntries(Object.entries(counts).sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Lines that appear under their name when all are there. */
class JsonLines {
  private readonly stream: WriteStream;
  private readonly hash: Hash = createHash('sha256');

  constructor(private readonly file: string) {
    this.stream = createWriteStream(`${file}.tmp`);
  }

  async write(value: object): Promise<void> {
    const line = `${JSON.stringify(value)}\n`;
    this.hash.update(line);
    if (!this.stream.write(line)) await once(this.stream, 'drain');
  }

  /** @returns SHA-256 of what was written */
  async close(): Promise<string> {
    this.stream.end();
    await once(this.stream, 'close');
    await rename(`${this.file}.tmp`, this.file);
    return this.hash.digest('hex');
  }
}
