import { createReadStream, existsSync } from 'node:fs';
import { open, readdir, readFile, type FileHandle } from 'node:fs/promises';
import { createHash } from 'node:crypto';
import { basename, dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { Dataset } from './dataset';
import { closeGaps, type BrokenDocument, type Document, type MediaPart, type TextPart } from './document';
import { Faults } from './faults';
import { GroupedOrder } from './grouped-order';
import { RecentlyUsed } from './recently-used';
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

/** Shards among whose documents an order is shuffled; the lists of twice as many are kept. */
const SHUFFLED_SHARDS = 16;

const isShard = (name: string) => /^[^.].*\.tar$/.test(name);

/** The members of one document by extension. */
type Members = ReadonlyMap<string, TarMember>;

/** Reads `manifest.json` of a folder of shards; undefined where there is none. */
export async function readManifest(folder: string): Promise<Manifest | undefined> {
  const file = join(folder, MANIFEST);
  if (!existsSync(file)) return undefined;
  const fail = (what: string) =>
    new Error(`${file}: ${what}. Write the shards again, or remove it to read them unverified.`);
  let value: unknown;
  try {
    value = JSON.parse(await readFile(file, 'utf8'));
  } catch (error) {
    throw fail(`expected JSON (${(error as Error).message})`);
  }
  const result = manifestSchema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw fail(`${issue!.path.join('.') || 'the file'}: ${issue!.message}`);
}

/**
 * Documents of WebDataset shards: ours, and pairs of image and `txt` or `json` caption as img2dataset writes them for
 * LAION and COYO. Only headers are read before a document is asked for. A document that is broken is given as the reason;
 * a broken image is left out of its page. Both are counted in `faults`.
 */
export class ShardDataset implements Dataset {
  readonly format = 'shards';
  readonly length: number;
  private readonly order: GroupedOrder;
  private readonly lists = new RecentlyUsed<string, Promise<readonly Members[]>>(2 * SHUFFLED_SHARDS);

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
   * @param path a shard, or a folder of them. Where a manifest says what they hold they are opened when needed; others
   *             are listed first, once
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
      const { length } = await listDocuments(file, faults);
      counts.push(length);
      if (length > 0) continue;
      // Others are listed again when they are read, and counted then; nobody will ask for a document of this one.
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
    let list: readonly Members[];
    try {
      list = await this.lists.get(file, () => listDocuments(file, this.faults));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return { rejected: 'missing shard' };
      throw error;
    }
    const members = list[number];
    if (!members) return { rejected: 'missing document' };
    const handle = await open(file);
    try {
      return await readDocument(handle, members, (reason) => this.faults.add(reason, where));
    } finally {
      await handle.close();
    }
  }
}

/**
 * Compares a folder's shards with its manifest, byte for byte. Gives one line for each that differs, is missing, or lies
 * there unlisted: what is not listed is not read.
 */
export async function verifyShards(folder: string, manifest: Manifest): Promise<string[]> {
  const problems: string[] = [];
  for (const shard of manifest.shards) {
    const file = join(folder, shard.name);
    if (!existsSync(file)) {
      problems.push(`${file}: listed in ${MANIFEST}, but not there`);
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

/** Groups members that follow one another under one key. */
async function listDocuments(file: string, faults: Faults): Promise<Members[]> {
  const documents: Map<string, TarMember>[] = [];
  let last: string | undefined;
  for (const member of await listTar(file, faults)) {
    const name = splitName(member.name);
    if (!name) continue;
    if (name.key !== last) documents.push(new Map());
    last = name.key;
    const members = documents[documents.length - 1]!;
    if (members.has(name.extension)) faults.add('member given twice', `${file}, ${member.name}`);
    else members.set(name.extension, member);
  }
  return documents;
}

async function readDocument(
  file: FileHandle,
  members: Members,
  fault: (reason: string) => void,
): Promise<Document | BrokenDocument> {
  const json = members.get('json');
  if (json && json.size > MAX_TEXT_BYTES) return { rejected: 'text too large' };
  const text = json && (await readBytes(file, json.offset, json.size)).toString('utf8');
  if (text?.startsWith('{"flamingo":')) return readOwn(file, members, text, fault);
  return readPair(file, members, text);
}

async function readOwn(
  file: FileHandle,
  members: Members,
  text: string,
  fault: (reason: string) => void,
): Promise<Document | BrokenDocument> {
  let value: unknown;
  try {
    value = unseal(text);
  } catch {
    return { rejected: 'not JSON' };
  }
  if (value === undefined) return { rejected: 'wrong checksum' };
  const result = storedDocument.safeParse(value);
  if (!result.success) return { rejected: 'unknown form' };
  const { kind, parts: stored, about } = result.data;

  let budget = MAX_DOCUMENT_BYTES;
  const load = async ({ member, sha256: expected }: StoredImage): Promise<Uint8Array | undefined> => {
    const found = members.get(member);
    if (!found) return void fault('missing image');
    budget -= found.size;
    if (budget < 0) return void fault('images too large');
    const bytes = await readBytes(file, found.offset, found.size);
    return sha256(bytes) === expected ? bytes : void fault('wrong checksum of an image');
  };
  const parts: (TextPart | MediaPart | undefined)[] = [];
  for (const part of stored) {
    if ('text' in part) {
      parts.push({ text: part.text, ...(part.learn !== undefined && { learn: part.learn }) });
      continue;
    }
    const { name, alt } = part;
    const said = { ...(name !== undefined && { name }), ...(alt !== undefined && { alt }) };
    if ('image' in part) {
      const image = await load(part.image);
      parts.push(image && { media: { image, ...said } });
    } else {
      const frames: Uint8Array[] = [];
      for (const frame of part.frames) {
        const bytes = await load(frame);
        if (bytes) frames.push(bytes);
      }
      parts.push(frames.length > 0 ? { media: { frames, ...said } } : undefined);
    }
  }
  return { kind, parts: closeGaps(parts), ...(about && { about }) };
}

/** An image with a caption: `txt`, or `caption` in the `json`. */
async function readPair(
  file: FileHandle,
  members: Members,
  json: string | undefined,
): Promise<Document | BrokenDocument> {
  const member = IMAGE_EXTENSIONS.map((extension) => members.get(extension)).find((m) => m);
  if (!member) return { rejected: 'no image' };
  const txt = members.get('txt');
  if (txt && txt.size > MAX_TEXT_BYTES) return { rejected: 'text too large' };
  const caption = txt ? (await readBytes(file, txt.offset, txt.size)).toString('utf8') : captionOf(json);
  if (!caption?.trim()) return { rejected: 'no caption' };
  const image = await readBytes(file, member.offset, member.size);
  return { kind: 'pair', parts: [{ media: { image, name: member.name } }, { text: caption.trim() }] };
}

function captionOf(json: string | undefined): string | undefined {
  try {
    const { caption } = JSON.parse(json ?? '{}') as { caption?: unknown };
    return typeof caption === 'string' ? caption : undefined;
  } catch {
    return undefined;
  }
}
