import { createHash, type Hash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, open, readFile, rename, rm, stat, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { mediaName, type Document, type EncodedImage, type MediaRef } from './document';
import {
  imageExtension,
  MANIFEST,
  MAX_DOCUMENT_BYTES,
  MAX_PARTS,
  MAX_TEXT_BYTES,
  seal,
  sha256,
  type Manifest,
  type ShardEntry,
  type StoredImage,
} from './shard-format';
import { MAX_MEMBER_BYTES, TAR_END, tarMember } from './tar';

/** Counts tokens for a manifest. */
export interface TokenCounter {
  /** What is counted, for people: the tokenizer's name. */
  readonly name: string;
  count(text: string): number;
}

/** A count that needs no tokenizer, and is within a third of what most of them give for English. */
export const wordCounter: TokenCounter = {
  name: 'words and punctuation marks',
  count: (text) => text.match(/[\p{L}\p{M}\p{N}]+|[^\s\p{L}\p{M}\p{N}]/gu)?.length ?? 0,
};

export interface ShardWriterOptions {
  /** Shards are named `PREFIX-000000.tar` and so on. Default `shard`. */
  readonly prefix?: string;
  /** A shard is closed at the first document that reaches either. Default 1000 documents, 512 MiB. */
  readonly maxDocuments?: number;
  readonly maxBytes?: number;
  readonly tokens?: TokenCounter;
}

/** A document that no shard holds: larger than a reader takes. Nothing of it is written, and others can follow. */
export class DocumentTooLarge extends Error {
  /** @param reason in a few words, as `dropped` counts them */
  constructor(
    readonly reason: string,
    detail: string,
  ) {
    super(detail);
  }
}

/**
 * Writes documents as WebDataset shards, one after the other, and their manifest last. Each shard is written beside its
 * place and renamed when it is whole; equal documents give equal bytes.
 */
export class ShardWriter {
  private readonly shards: ShardEntry[] = [];
  private readonly dropped: Record<string, number> = {};
  private current: OpenShard | undefined;

  private constructor(
    readonly folder: string,
    private readonly options: Required<ShardWriterOptions>,
  ) {}

  /** @throws Error where the folder holds a manifest already: what is there would be mixed with what comes */
  static async create(folder: string, options: ShardWriterOptions = {}): Promise<ShardWriter> {
    const { prefix = 'shard', maxDocuments = 1000, maxBytes = 2 ** 29, tokens = wordCounter } = options;
    if (!/^[\w-]{1,60}$/.test(prefix)) {
      throw new Error(`ShardWriter: prefix must be 1 to 60 letters, digits, - and _, got ${JSON.stringify(prefix)}.`);
    }
    await mkdir(folder, { recursive: true });
    if (existsSync(join(folder, MANIFEST))) {
      throw new Error(
        `ShardWriter: ${folder} holds finished shards (${MANIFEST}). Choose another folder or remove it.`,
      );
    }
    return new ShardWriter(folder, { prefix, maxDocuments, maxBytes, tokens });
  }

  /**
   * One call at a time.
   *
   * @throws DocumentTooLarge where the document is too large; the writer goes on with the next
   */
  async add(document: Document): Promise<void> {
    const { prefix, maxDocuments, maxBytes, tokens } = this.options;
    const number = String(this.shards.length).padStart(6, '0');
    this.current ??= await OpenShard.create(join(this.folder, `${prefix}-${number}.tar`), tokens);
    await this.current.add(document);
    if (this.current.documents >= maxDocuments || this.current.bytes >= maxBytes) await this.closeShard();
  }

  /** Counts something that was left out, for the manifest. */
  drop(reason: string, count = 1): void {
    this.dropped[reason] = (this.dropped[reason] ?? 0) + count;
  }

  /** Writes what is open, and the manifest. */
  async close(): Promise<Manifest> {
    await this.closeShard();
    return writeManifest(this.folder, this.shards, this.dropped, this.options.tokens);
  }

  /** Takes back the shard that is open; whole ones stay, without a manifest. */
  async abort(): Promise<void> {
    await this.current?.abort();
    this.current = undefined;
  }

  private async closeShard(): Promise<void> {
    if (this.current?.documents === 0) await this.current.abort();
    else if (this.current) this.shards.push(await this.current.close());
    this.current = undefined;
  }
}

/**
 * Writes one shard of given documents, whole or not at all: what one worker of many does with its unit of work. Their
 * entries make the manifest.
 *
 * @param path ends in `.tar`
 */
export async function writeShard(
  path: string,
  documents: Iterable<Document> | AsyncIterable<Document>,
  tokens = wordCounter,
): Promise<ShardEntry> {
  const shard = await OpenShard.create(path, tokens);
  try {
    for await (const document of documents) await shard.add(document);
    return await shard.close();
  } catch (error) {
    await shard.abort();
    throw error;
  }
}

/** Writes `manifest.json` of a folder whose shards are all there. */
export async function writeManifest(
  folder: string,
  shards: readonly ShardEntry[],
  dropped: Readonly<Record<string, number>>,
  tokens = wordCounter,
): Promise<Manifest> {
  const sum = (key: 'documents' | 'images' | 'tokens') => shards.reduce((n, shard) => n + shard[key], 0);
  const manifest: Manifest = {
    format: 'flamingo-shards',
    version: 1,
    documents: sum('documents'),
    images: sum('images'),
    tokens: sum('tokens'),
    tokensAre: tokens.name,
    dropped: { ...dropped },
    shards: [...shards],
  };
  const file = await PartialFile.create(join(folder, MANIFEST));
  try {
    await file.write(Buffer.from(`${JSON.stringify(manifest, null, 2)}\n`));
    await file.finish();
  } catch (error) {
    await file.abort();
    throw error;
  }
  return manifest;
}

/** A file that is there whole or not at all: written beside its place, flushed to the disk, renamed. */
class PartialFile {
  bytes = 0;
  private readonly hash: Hash = createHash('sha256');

  private constructor(
    private readonly path: string,
    private readonly temporary: string,
    private readonly handle: FileHandle,
  ) {}

  static async create(path: string): Promise<PartialFile> {
    const temporary = join(dirname(path), `.${basename(path)}.partial`);
    return new PartialFile(path, temporary, await open(temporary, 'w'));
  }

  async write(bytes: Uint8Array): Promise<void> {
    await this.handle.writeFile(bytes);
    this.hash.update(bytes);
    this.bytes += bytes.length;
  }

  /** @returns the checksum */
  async finish(): Promise<string> {
    await this.handle.sync();
    await this.handle.close();
    await rename(this.temporary, this.path);
    return this.hash.digest('hex');
  }

  async abort(): Promise<void> {
    await this.handle.close();
    await rm(this.temporary, { force: true });
  }
}

class OpenShard {
  documents = 0;
  private images = 0;
  private tokens = 0;

  private constructor(
    private readonly path: string,
    private readonly file: PartialFile,
    private readonly counter: TokenCounter,
  ) {}

  static async create(path: string, counter: TokenCounter): Promise<OpenShard> {
    return new OpenShard(path, await PartialFile.create(path), counter);
  }

  get bytes(): number {
    return this.file.bytes;
  }

  async add(document: Document): Promise<void> {
    if (document.kind === 'question') {
      throw new Error(
        `Shard ${this.path}: shards store pages, pairs and clips, got a question. Keep it in eval.jsonl.`,
      );
    }
    const key = String(this.documents).padStart(8, '0');
    const members: Buffer[] = [];
    let budget = MAX_DOCUMENT_BYTES;
    const store = async (image: EncodedImage, media: MediaRef): Promise<StoredImage> => {
      const bytes = typeof image === 'string' ? await readImage(image) : image;
      if (bytes.length > MAX_MEMBER_BYTES) {
        throw new DocumentTooLarge('image too large', `${mediaName(media)}: more than ${MAX_MEMBER_BYTES} bytes.`);
      }
      budget -= bytes.length;
      if (budget < 0) {
        const most = `${MAX_DOCUMENT_BYTES} bytes in one document`;
        throw new DocumentTooLarge('images too large', `${mediaName(media)}: images of more than ${most}.`);
      }
      const member = `${members.length}.${imageExtension(bytes)}`;
      members.push(tarMember(`${key}.${member}`, bytes));
      return { member, sha256: sha256(bytes) };
    };
    const most = document.parts.reduce((n, part) => Math.max(n, framesOf(part)), document.parts.length);
    if (most > MAX_PARTS) {
      throw new DocumentTooLarge('too many parts', `A document may have ${MAX_PARTS} parts or frames, got ${most}.`);
    }
    const parts: object[] = [];
    let tokens = 0;
    for (const part of document.parts) {
      if ('text' in part) {
        parts.push({ text: part.text, learn: part.learn });
        tokens += this.counter.count(part.text);
        continue;
      }
      const { media } = part;
      if ('key' in media)
        throw new Error(`Shard ${this.path}: ${mediaName(media)} is no image. Shards take files and bytes.`);
      const about = { name: media.name ?? pathOf(media), alt: media.alt };
      if ('image' in media) parts.push({ image: await store(media.image, media), ...about });
      else {
        const frames: StoredImage[] = [];
        for (const frame of media.frames) frames.push(await store(frame, media));
        parts.push({ frames, ...about });
      }
    }
    const text = Buffer.from(seal({ flamingo: 1, kind: document.kind, parts, about: document.about }));
    if (text.length > MAX_TEXT_BYTES) {
      throw new DocumentTooLarge(
        'text too large',
        `A document may have ${MAX_TEXT_BYTES} bytes of text, got ${text.length}.`,
      );
    }
    await this.file.write(Buffer.concat([tarMember(`${key}.json`, text), ...members]));
    this.documents++;
    this.images += members.length;
    this.tokens += tokens;
  }

  async close(): Promise<ShardEntry> {
    await this.file.write(TAR_END);
    const { documents, images, tokens } = this;
    const { bytes } = this.file;
    return { name: basename(this.path), bytes, sha256: await this.file.finish(), documents, images, tokens };
  }

  abort(): Promise<void> {
    return this.file.abort();
  }
}

const framesOf = (part: Document['parts'][number]) =>
  'media' in part && 'frames' in part.media ? part.media.frames.length : 1;

/** File name of an image, for reports; folders of the machine that wrote the shard concern nobody. */
function pathOf(media: MediaRef): string | undefined {
  const first = 'image' in media ? media.image : 'frames' in media ? media.frames[0] : undefined;
  return typeof first === 'string' ? basename(first) : undefined;
}

/** An image from its file; opening a pipe would wait for ever. */
async function readImage(path: string): Promise<Buffer> {
  const info = await stat(path);
  if (!info.isFile()) throw new Error(`${path}: expected a file, got something else.`);
  if (info.size > MAX_MEMBER_BYTES) {
    throw new DocumentTooLarge('image too large', `${path}: more than ${MAX_MEMBER_BYTES} bytes, ${info.size}.`);
  }
  return readFile(path);
}
