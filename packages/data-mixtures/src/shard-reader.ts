import { createReadStream, existsSync } from 'node:fs';
import { open, readdir, readFile, type FileHandle } from 'node:fs/promises';
import { createHash } from 'node:crypto';
import { basename, dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { LRUCache } from 'lru-cache';
import type { Dataset } from './dataset';
import { closeGaps, type BrokenDocument, type Document, type MediaPart, type TextPart } from './document';
import { Faults } from './faults';
import { GroupedOrder } from './grouped-order';
import {
  IMAGE_EXTENSIONS,
  MANIFEST,
  manifestSchema,
  MAX_DOCUMENT_BYTES,
  MAX_TEXT_BYTES,
  sha256,
  splitName,
  storedDocument,
  unseal,
  type Manifest,
  type StoredImage,
} from './shard-format';
import { listTar, readBytes, type TarMember } from './tar';
import { decodeUtf8, jsonProblem } from './text';

/** Number of shards whose documents are shuffled together. The listings of twice as many are cached. */
const SHUFFLED_SHARDS = 16;

/** Start of the JSON of a document that `ShardWriter` wrote. */
const OWN = '{"flamingo":';

const isShard = (name: string) => /^[^.].*\.tar$/.test(name);

/** A document of a shard. `members` is by extension. */
interface ListedDocument {
  readonly key: string;
  readonly archive: number;
  readonly members: Map<string, TarMember>;
}

/** The documents of a shard in order. */
class Listing {
  readonly documents: ListedDocument[] = [];
  private byKey: Map<string, ListedDocument> | undefined;

  /** The members of the document with a key in one of the concatenated archives. */
  membersOf(archive: number, key: string): ListedDocument['members'] | undefined {
    this.byKey ??= new Map([...this.documents].reverse().map((d) => [`${d.archive} ${d.key}`, d]));
    return this.byKey.get(`${archive} ${key}`)?.members;
  }
}

/** Reads `manifest.json` of a folder of shards. Returns undefined if there is none. */
export async function readManifest(folder: string): Promise<Manifest | undefined> {
  const file = join(folder, MANIFEST);
  if (!existsSync(file)) return undefined;
  const fail = (what: string) =>
    new Error(`${file}: ${what}. Write the shards again, or remove this file to read them unverified.`);
  let value: unknown;
  try {
    value = JSON.parse(decodeUtf8(await readFile(file)) ?? '');
  } catch (error) {
    throw fail(`expected JSON (${(error as Error).message})`);
  }
  const result = manifestSchema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw fail(`${issue!.path.join('.') || 'the file'}: ${issue!.message}`);
}

/**
 * Documents of WebDataset shards: those of `ShardWriter`, and img2dataset's pairs of an image and a `txt` or `json` caption
 * (LAION, COYO). Reads only headers until a document is requested. Returns the reason for a broken document, removes
 * broken images from pages, and counts both in `faults`.
 */
export class ShardDataset implements Dataset {
  readonly format = 'shards';
  readonly length: number;
  private readonly order: GroupedOrder;
  private readonly listings = new LRUCache<string, Promise<Listing>>({
    max: 2 * SHUFFLED_SHARDS,
    memoMethod: (file) => listDocuments(file, this.faults),
  });

  private constructor(
    readonly files: readonly string[],
    counts: readonly number[],
    readonly manifest: Manifest | undefined,
    readonly faults = new Faults(),
  ) {
    this.order = new GroupedOrder(counts, SHUFFLED_SHARDS);
    this.length = this.order.length;
  }

  /**
   * Opening lists every shard once, unless a manifest has the counts.
   *
   * @param path a shard or a folder of shards
   */
  static async open(path: string): Promise<ShardDataset> {
    const isOne = path.endsWith('.tar');
    const folder = isOne ? dirname(path) : path;
    const manifest = await readManifest(folder);
    const listed = manifest?.shards.filter((shard) => !isOne || shard.name === basename(path));
    if (listed && listed.length > 0) {
      const files = listed.map((shard) => join(folder, shard.name));
      return new ShardDataset(files, listed.map((shard) => shard.documents), manifest); // prettier-ignore
    }
    const names = isOne ? [basename(path)] : (await readdir(folder)).filter(isShard).sort();
    if (names.length === 0) throw new Error(`${folder}: expected shards (*.tar), got none.`);
    const files = names.map((name) => join(folder, name));
    const counts: number[] = [];
    const lost: Faults[] = [];
    for (const file of files) {
      const faults = new Faults();
      const { length } = (await listDocuments(file, faults)).documents;
      counts.push(length);
      if (length > 0) continue;
      // Faults of other shards are counted when their documents are read. This one has no document to read.
      faults.add('shard without documents', file);
      lost.push(faults);
    }
    return new ShardDataset(files, counts, undefined, Faults.merge(lost));
  }

  where(index: number): string {
    const { group, number } = this.order.locate(index);
    return `${this.files[group]}, document ${number}`;
  }

  async get(index: number): Promise<Document | BrokenDocument> {
    const { group, number } = this.order.locate(index);
    const result = await this.read(this.files[group]!, number, this.where(index));
    if ('rejected' in result) this.faults.add(result.rejected, this.where(index), result.detail);
    return result;
  }

  shuffled(place: number, ...keys: readonly (number | string)[]): number {
    return this.order.shuffled(place, ...keys);
  }

  private async read(file: string, number: number, where: string): Promise<Document | BrokenDocument> {
    let listing: Listing;
    try {
      listing = await this.listings.memo(file);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return { rejected: 'missing shard' };
      throw error;
    }
    const listed = listing.documents[number];
    if (!listed) return { rejected: 'missing document' };
    const handle = await open(file);
    try {
      return await readDocument(handle, listing, listed, (reason) => this.faults.add(reason, where));
    } finally {
      await handle.close();
    }
  }
}

/**
 * Compares the checksums of a folder's shards with its manifest. Returns one line for each shard that differs, is missing,
 * or is not listed and therefore not read.
 */
export async function verifyShards(folder: string, manifest: Manifest): Promise<string[]> {
  const problems: string[] = [];
  for (const shard of manifest.shards) {
    const file = join(folder, shard.name);
    if (!existsSync(file)) {
      problems.push(`${file}: listed in ${MANIFEST}, but missing`);
      continue;
    }
    const hash = createHash('sha256');
    await pipeline(createReadStream(file), hash);
    const got = hash.digest('hex');
    if (got !== shard.sha256) problems.push(`${file}: sha256 must be ${shard.sha256}, got ${got}`);
  }
  const listed = new Set(manifest.shards.map((shard) => shard.name));
  for (const name of (await readdir(folder)).filter(isShard).sort()) {
    if (!listed.has(name)) problems.push(`${join(folder, name)}: not listed in ${MANIFEST}, so it is not read`);
  }
  return problems;
}

/** Groups adjacent members with the same key. */
async function listDocuments(file: string, faults: Faults): Promise<Listing> {
  const listing = new Listing();
  const { documents } = listing;
  for (const member of await listTar(file, faults)) {
    const name = splitName(member.name);
    if (!name) continue;
    const { archive } = member;
    const last = documents[documents.length - 1];
    if (name.key !== last?.key || archive !== last.archive)
      documents.push({ key: name.key, archive, members: new Map() });
    const { members } = documents[documents.length - 1]!;
    if (members.has(name.extension)) faults.add('duplicate member', `${file}, ${member.name}`);
    else members.set(name.extension, member);
  }
  return listing;
}

async function readDocument(
  file: FileHandle,
  listing: Listing,
  listed: ListedDocument,
  fault: (reason: string) => void,
): Promise<Document | BrokenDocument> {
  const { members } = listed;
  const json = members.get('json');
  if (json && json.size > MAX_TEXT_BYTES) return { rejected: 'text too large' };
  const bytes = json && (await readBytes(file, json.offset, json.size));
  if (bytes?.toString('latin1', 0, OWN.length) === OWN) return readOwn(file, listing, listed, bytes, fault);
  return readPair(file, members, bytes);
}

async function readOwn(
  file: FileHandle,
  listing: Listing,
  { key, archive, members }: ListedDocument,
  json: Buffer,
  fault: (reason: string) => void,
): Promise<Document | BrokenDocument> {
  let value: unknown;
  try {
    value = unseal(json.toString('utf8'));
  } catch {
    return { rejected: 'not JSON' };
  }
  if (value === undefined) return { rejected: 'wrong checksum' };
  const result = storedDocument.safeParse(value);
  if (!result.success) return { rejected: 'unexpected format' };
  const { kind, parts: stored, about } = result.data;

  let budget = MAX_DOCUMENT_BYTES;
  const load = async ({ member, of, sha256: expected }: StoredImage): Promise<Uint8Array | undefined> => {
    const location = (of === undefined || of === key ? members : listing.membersOf(archive, of))?.get(member);
    if (!location) return void fault('missing image');
    budget -= location.size;
    if (budget < 0) return void fault('images too large');
    const bytes = await readBytes(file, location.offset, location.size);
    return sha256(bytes) === expected ? bytes : void fault('wrong image checksum');
  };
  const parts: (TextPart | MediaPart | undefined)[] = [];
  for (const part of stored) {
    if ('text' in part) {
      parts.push({ text: part.text, ...(part.learn !== undefined && { learn: part.learn }) });
      continue;
    }
    const { name, alt } = part;
    const labels = { ...(name !== undefined && { name }), ...(alt !== undefined && { alt }) };
    if ('image' in part) {
      const image = await load(part.image);
      parts.push(image && { media: { image, ...labels } });
    } else {
      const frames: Uint8Array[] = [];
      for (const frame of part.frames) {
        const bytes = await load(frame);
        if (bytes) frames.push(bytes);
      }
      parts.push(frames.length > 0 ? { media: { frames, ...labels } } : undefined);
    }
  }
  return { kind, parts: closeGaps(parts), ...(about && { about }) };
}

/** A pair of img2dataset: an image with a caption in its `txt`, or as `caption` in its `json`. */
async function readPair(
  file: FileHandle,
  members: ListedDocument['members'],
  json: Buffer | undefined,
): Promise<Document | BrokenDocument> {
  const member = IMAGE_EXTENSIONS.map((extension) => members.get(extension)).find((m) => m);
  if (!member) return { rejected: 'no image' };
  const txt = members.get('txt');
  if (txt && txt.size > MAX_TEXT_BYTES) return { rejected: 'text too large' };
  const bytes = txt ? await readBytes(file, txt.offset, txt.size) : json;
  const text = bytes ? decodeUtf8(bytes) : '';
  if (text === undefined) return { rejected: 'text is not UTF-8' };
  const caption = txt ? text : captionOf(text);
  if (typeof caption !== 'string') return caption;
  if (caption.trim() === '') return { rejected: 'no caption' };
  const image = await readBytes(file, member.offset, member.size);
  return { kind: 'pair', parts: [{ media: { image, name: member.name } }, { text: caption.trim() }] };
}

function captionOf(json: string): string | BrokenDocument {
  if (json === '') return '';
  try {
    const value = JSON.parse(json) as { caption?: unknown } | null;
    return typeof value?.caption === 'string' ? value.caption : '';
  } catch (error) {
    return { rejected: 'not JSON', detail: jsonProblem(error, json) };
  }
}
